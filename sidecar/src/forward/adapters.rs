//! Adapters in their slots: written between two steps, remembered, emptied.

use std::ops::Range;

use plimsoll_planner::Account;
use plimsoll_planner::adapters::{FactorPlace, Projection};

use super::Forward;
use super::backend::Store;
use super::handle::Handle;
use crate::adapters::{Dynamic, Pair};
use crate::memory::registry::{Owner, TensorEntry};
use crate::model::ModelError;

/// Numbers that are read at once.
const AT_ONCE: usize = 64 << 10;

impl<B: Store> Forward<B> {
    /// Slots that there are.
    pub fn slots(&self) -> usize {
        self.layout.adapters.slots.len()
    }

    /// Writes an adapter into a slot and remembers what is there now; with none the slot is zeros, once
    /// its memory is there.
    ///
    /// # Errors
    /// As the adapter's files'; the slot is zeros then, and remembered so.
    pub fn put_adapter(
        &mut self,
        slot: usize,
        adapter: Option<&Dynamic>,
    ) -> Result<(), ModelError> {
        let filled = match adapter {
            Some(adapter) => self.refill_adapter(slot, adapter),
            None => {
                self.empty_slot(slot);
                Ok(())
            }
        };
        if filled.is_err() {
            self.empty_slot(slot);
        }
        self.remember_slot(slot);
        filled
    }

    /// Writes an adapter into a slot whose contents went: [`Forward::verify`] says whether it is what was
    /// there.
    ///
    /// # Errors
    /// As the adapter's files'.
    pub fn refill_adapter(&mut self, slot: usize, adapter: &Dynamic) -> Result<(), ModelError> {
        self.empty_slot(slot);
        let places = self.layout.adapters.places.clone();
        for place in &places {
            if let Some(pair) = adapter.pair(place.layer, place.projection) {
                self.fill_factors(slot, place, pair)?;
            }
        }
        self.backend.set_ranks(slot, &adapter.ranks());
        Ok(())
    }

    /// Zeros, which change nothing.
    pub(super) fn empty_slot(&mut self, slot: usize) {
        if self.holds_adapters() {
            self.backend.clear(self.layout.adapters.slots[slot]);
        }
        let none = vec![0; self.layout.adapters.places.len()];
        self.backend.set_ranks(slot, &none);
    }

    fn fill_factors(
        &mut self,
        slot: usize,
        place: &FactorPlace,
        pair: &Pair,
    ) -> Result<(), ModelError> {
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let (inputs, outputs) = (size(place.inputs), size(place.outputs));
        let (cols, rows) = self.cut(place.projection);
        let a = self.layout.adapters.part(slot, place.a);
        let at_once = (AT_ONCE / cols.len().max(1)).max(1);
        for first in (0..pair.rank()).step_by(at_once) {
            let some = first..pair.rank().min(first + at_once);
            let numbers = pair.a(some.clone(), cols.clone())?;
            // Columns that pad a share stay zeros.
            for (at, row) in some.zip(numbers.chunks_exact(cols.len().max(1))) {
                self.backend.write(a, at * inputs, row);
            }
        }
        let b = self.layout.adapters.part(slot, place.b);
        let at_once = (AT_ONCE / pair.rank().max(1)).max(1);
        for first in (0..rows.len()).step_by(at_once) {
            let some = first..rows.len().min(first + at_once);
            let numbers = pair.b(rows.start + some.start..rows.start + some.end)?;
            for (at, row) in numbers.chunks_exact(some.len()).enumerate() {
                self.backend.write(b, at * outputs + first, row);
            }
        }
        Ok(())
    }

    /// Inputs and outputs of a whole matrix that this rank has.
    pub(super) fn cut(&self, projection: Projection) -> (Range<usize>, Range<usize>) {
        let (shape, shard) = (&self.shape, &self.shard);
        let wide = |range: &Range<u32>, unit: u32| {
            (range.start * unit) as usize..(range.end * unit) as usize
        };
        let hidden = 0..shape.hidden as usize;
        let query = wide(&shard.query_heads, shape.head_dim);
        let kv = wide(&shard.kv_heads, shape.head_dim);
        let columns = wide(&shard.mlp_columns, 1);
        match projection {
            Projection::Query => (hidden, query),
            Projection::Key | Projection::Value => (hidden, kv),
            Projection::Output => (query, hidden),
            Projection::Gate | Projection::Up => (hidden, columns),
            Projection::Down => (columns, hidden),
        }
    }

    /// The sum of what a slot should have; none before the load ends.
    pub fn remembered(&self, slot: usize) -> Option<u64> {
        self.loaded
            .get(self.place_of_slot(slot)?)
            .copied()
            .flatten()
    }

    /// Its place among all that lasts.
    fn place_of_slot(&self, slot: usize) -> Option<usize> {
        let handle = *self.layout.adapters.slots.get(slot)?;
        let is_it = |(of, at): (&TensorEntry, Handle)| of.owner == Owner::Adapter && at == handle;
        self.layout.lasting().into_iter().position(is_it)
    }

    fn remember_slot(&mut self, slot: usize) {
        let Some(at) = self.place_of_slot(slot) else {
            return;
        };
        let sum = match self.holds_adapters() {
            true => self.sum_of_slot(slot),
            false => self.empty_slot,
        };
        // Before the load ends there is nothing to compare with, and all of it is remembered then.
        if let Some(loaded) = self.loaded.get_mut(at) {
            *loaded = sum;
        }
    }

    pub(super) fn sum_of_slot(&self, slot: usize) -> Option<u64> {
        let handle = self.layout.adapters.slots.get(slot)?;
        self.backend.checksums(&[*handle]).first().copied()
    }

    fn holds_adapters(&self) -> bool {
        let bytes = self.layout.bytes(Account::Adapters);
        self.backend.holds(Account::Adapters, bytes)
    }
}
