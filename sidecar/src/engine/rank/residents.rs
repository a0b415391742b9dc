//! Which adapter is in which slot of a rank, and what was there before: one that comes back must be what
//! it was.

use std::sync::{Arc, Weak};

use crate::adapters::Dynamic;
use crate::forward::Forward;
use crate::forward::cpu::CpuRank;
use crate::model::ModelError;

/// See the head of the file.
#[derive(Debug)]
pub(super) struct Residents {
    now: Vec<Option<Arc<Dynamic>>>,
    /// What was there before the last change, and the sum of its numbers: as long as somebody may put it
    /// back. Nobody keeps its files open but who does.
    before: Vec<Option<(Weak<Dynamic>, u64)>>,
}

impl Residents {
    pub(super) fn new(slots: usize) -> Residents {
        Residents {
            now: vec![None; slots],
            before: vec![None; slots],
        }
    }

    /// By slot.
    pub(super) fn now(&self) -> &[Option<Arc<Dynamic>>] {
        &self.now
    }

    /// Writes an adapter into a slot, or empties it. What was there before the last change and is put back
    /// is read from its files once more, and those may be others by now.
    ///
    /// # Errors
    /// As the adapter's files'; where they have other numbers than when it was there. The slot is empty
    /// then.
    pub(super) fn put(
        &mut self,
        forward: &mut Forward<CpuRank>,
        slot: usize,
        adapter: Option<Arc<Dynamic>>,
    ) -> Result<(), ModelError> {
        let was = self.now[slot].take().map(|of| Arc::downgrade(&of));
        let was = was.zip(forward.remembered(slot));
        let before = match was {
            Some(_) => std::mem::replace(&mut self.before[slot], was),
            // What could not be read is in between.
            None => self.before[slot].take(),
        };
        forward.put_adapter(slot, adapter.as_deref())?;
        if let (Some(adapter), Some((of, sum))) = (&adapter, &before)
            && std::ptr::eq(Arc::as_ptr(adapter), of.as_ptr())
            && forward.remembered(slot) != Some(*sum)
        {
            forward.put_adapter(slot, None)?;
            return Err(ModelError::InvalidAdapter {
                adapter: adapter.at.name.clone(),
                message: "its files have other numbers than when it was loaded".to_owned(),
            });
        }
        self.now[slot] = adapter;
        Ok(())
    }
}
