//! A model whose reader asks first: sources that fail, wait, or say something else.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use plimsoll_sidecar::model::{Model, ModelError};
use plimsoll_sidecar::weights::{TensorInfo, TensorSource};

use super::tiny;

/// Rows and columns of one read.
pub type Block = [Range<usize>; 2];

/// A source that is read through `read`, which is given the one behind it.
pub struct Through<F> {
    inner: Box<dyn TensorSource>,
    read: F,
}

impl<F> fmt::Debug for Through<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Through").finish_non_exhaustive()
    }
}

impl<F> TensorSource for Through<F>
where
    F: Fn(&dyn TensorSource, &str, Block, &mut [f32]) -> Result<(), ModelError> + Send + Sync,
{
    fn names(&self) -> Vec<&str> {
        self.inner.names()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.inner.info(name)
    }

    fn read_block(
        &self,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        (self.read)(&*self.inner, name, [rows, cols], out)
    }
}

/// A source that is read through `read`.
pub fn through<F>(inner: Box<dyn TensorSource>, read: F) -> Box<dyn TensorSource>
where
    F: Fn(&dyn TensorSource, &str, Block, &mut [f32]) -> Result<(), ModelError>
        + Send
        + Sync
        + 'static,
{
    Box::new(Through { inner, read })
}

/// A source that asks `before` each read, with the tensor's name and the first row; what that says is
/// what the reader hears.
pub fn guarded<F>(inner: Box<dyn TensorSource>, before: F) -> Box<dyn TensorSource>
where
    F: Fn(&str, usize) -> Result<(), ModelError> + Send + Sync + 'static,
{
    let read = move |inner: &dyn TensorSource, name: &str, [rows, cols]: Block, out: &mut [f32]| {
        before(name, rows.start)?;
        inner.read_block(name, rows, cols, out)
    };
    through(inner, read)
}

/// The tiny model, of which one tensor's numbers are other ones while `altered`.
pub fn alterable(tensor: &'static str, altered: &Arc<AtomicBool>) -> Arc<Model> {
    misread(altered, move |inner, name, [rows, cols], out| {
        inner.read_block(name, rows, cols, out)?;
        if name == tensor {
            out[0] += 1.0;
        }
        Ok(())
    })
}

/// The tiny model, which is read through `read` while it is `wrong`.
pub fn misread<F>(wrong: &Arc<AtomicBool>, read: F) -> Arc<Model>
where
    F: Fn(&dyn TensorSource, &str, Block, &mut [f32]) -> Result<(), ModelError>
        + Send
        + Sync
        + 'static,
{
    let wrong = Arc::clone(wrong);
    let read = move |inner: &dyn TensorSource, name: &str, block: Block, out: &mut [f32]| {
        if wrong.load(Ordering::Relaxed) {
            return read(inner, name, block, out);
        }
        let [rows, cols] = block;
        inner.read_block(name, rows, cols, out)
    };
    read_as(|inner| through(inner, read))
}

/// The tiny model, read past `before`.
pub fn watched<F>(before: F) -> Arc<Model>
where
    F: Fn(&str, usize) -> Result<(), ModelError> + Send + Sync + 'static,
{
    read_as(|inner| guarded(inner, before))
}

fn read_as(source: impl FnOnce(Box<dyn TensorSource>) -> Box<dyn TensorSource>) -> Arc<Model> {
    let model = Arc::into_inner(tiny()).unwrap();
    Arc::new(Model {
        tensors: source(model.tensors),
        ..model
    })
}
