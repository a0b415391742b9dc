//! A model whose reader asks first: sources that fail, wait, or say something else.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use plimsoll_sidecar::model::{Model, ModelError};
use plimsoll_sidecar::weights::{TensorInfo, TensorSource};

use super::tiny;

/// A source that asks `before` each read, with the tensor's name and the first row; what that says is
/// what the reader hears.
pub struct Watched<F> {
    inner: Box<dyn TensorSource>,
    before: F,
}

impl<F> fmt::Debug for Watched<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

impl<F: Fn(&str, usize) -> Result<(), ModelError> + Send + Sync> TensorSource for Watched<F> {
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
        (self.before)(name, rows.start)?;
        self.inner.read_block(name, rows, cols, out)
    }
}

/// A source of which one tensor's numbers are other ones while `altered`.
pub struct Altered {
    inner: Box<dyn TensorSource>,
    tensor: &'static str,
    altered: Arc<AtomicBool>,
}

impl fmt::Debug for Altered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Altered").finish_non_exhaustive()
    }
}

impl TensorSource for Altered {
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
        self.inner.read_block(name, rows, cols, out)?;
        if name == self.tensor && self.altered.load(Ordering::Relaxed) {
            out[0] += 1.0;
        }
        Ok(())
    }
}

/// The tiny model, of which `tensor` may be altered.
pub fn alterable(tensor: &'static str, altered: &Arc<AtomicBool>) -> Arc<Model> {
    let model = Arc::into_inner(tiny()).unwrap();
    let altered = Arc::clone(altered);
    let tensors = Altered {
        inner: model.tensors,
        tensor,
        altered,
    };
    Arc::new(Model {
        tensors: Box::new(tensors),
        ..model
    })
}

/// The tiny model, read past `before`.
pub fn watched<F>(before: F) -> Arc<Model>
where
    F: Fn(&str, usize) -> Result<(), ModelError> + Send + Sync + 'static,
{
    let model = Arc::into_inner(tiny()).unwrap();
    let inner = model.tensors;
    Arc::new(Model {
        tensors: Box::new(Watched { inner, before }),
        ..model
    })
}
