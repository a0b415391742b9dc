//! Adapters that a rank adds to its products without a place in its memory: while a probe is answered
//! that merged weights are held to.

use std::ops::Range;
use std::sync::Arc;

use plimsoll_planner::adapters::Projection;

use super::Forward;
use super::backend::{HostAdapters, Store};
use super::lora::Adaption;
use crate::adapters::{Beside, Rows};
use crate::model::ModelError;

/// A rank's part of them.
#[derive(Debug)]
struct Share {
    adapters: Arc<Beside>,
    /// Inputs and outputs of each matrix that are this rank's, in the order of [`Projection::ALL`].
    cuts: [(Range<usize>, Range<usize>); Projection::ALL.len()],
    /// The first file that failed; nothing more is added then.
    failed: Option<ModelError>,
}

impl HostAdapters for Share {
    fn add(&mut self, by: &Adaption, rows: usize, x: &[f32], out: &mut [f32]) {
        for (projection, columns) in &by.parts {
            let (inputs, outputs) = &self.cuts[*projection as usize];
            let mut at = Rows {
                x: &x[..rows * by.inputs],
                inputs: by.inputs,
                out: &mut *out,
                stride: by.stride,
                first: columns.start,
            };
            let place = (by.layer, *projection);
            if self.failed.is_none() {
                self.failed = self.adapters.run(place, (inputs, outputs), &mut at).err();
            }
        }
    }

    fn failed(&mut self) -> Option<ModelError> {
        self.failed.take()
    }
}

impl<B: Store> Forward<B> {
    /// Every row of the next steps is answered with these adapters, too; None: no more.
    ///
    /// # Errors
    /// Why those that were laid beside before were not read to their end: what was answered with them
    /// is for nobody.
    pub fn lay_beside(&mut self, adapters: Option<&Arc<Beside>>) -> Result<(), ModelError> {
        let share = adapters.map(|adapters| {
            let share = Share {
                adapters: Arc::clone(adapters),
                cuts: Projection::ALL.map(|projection| self.cut(projection)),
                failed: None,
            };
            Box::new(share) as Box<dyn HostAdapters>
        });
        let before = self.backend.lay_beside(share);
        match before.and_then(|mut before| before.failed()) {
            Some(why) => Err(why),
            None => Ok(()),
        }
    }
}
