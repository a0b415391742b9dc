//! Adapters that requests choose, loaded and unloaded between two steps.
//!
//! The loop copies an adapter into a slot, answers a few fixed tokens with and without it (`gate`), and
//! only then tells anybody of it; one that fails leaves what was there. One that is unloaded takes no new
//! requests at once, and its slot is free when the last one that it answers has ended.

mod gate;

use std::sync::Arc;
use std::time::Instant;

use plimsoll_planner::Account;

use crate::adapters::{Dynamic, Validation};
use crate::engine::commands::settle;
use crate::engine::control::{Asker, ControlError};
use crate::engine::dynamic::{AdapterRefused, Resident};
use crate::engine::handle::lock;
use crate::engine::push::wrong_state;
use crate::engine::ranks::Failure;
use crate::engine::request::FinishReason;
use crate::engine::run::Loop;

impl Loop {
    /// Those that are to be there from the start.
    pub(in crate::engine) fn load_first_adapters(&mut self) -> Result<(), Failure> {
        for adapter in std::mem::take(&mut self.slots.first) {
            lock(&self.shared.progress).stage = "LoadingAdapters";
            if let Err(refused) = self.load_into_slot(&adapter, false)? {
                let message = refused.to_string();
                lock(&self.shared.adapters).wrong = Some(message.clone());
                return Err(Failure(message));
            }
        }
        Ok(())
    }

    pub(in crate::engine) fn load_adapter(
        &mut self,
        adapter: Arc<Dynamic>,
        in_place: bool,
        asker: Asker<()>,
    ) -> Result<(), Failure> {
        // Nothing can be answered with it, so nothing can be said of it.
        if self.rest.is_idle() {
            let message = "the engine is asleep, or its weights are being written: wake it (POST \
                           /wake_up), or finish the update first";
            asker.answer(Err(wrong_state(message.to_owned())));
            return Ok(());
        }
        let loaded = match self
            .land_all()
            .and_then(|()| self.load_into_slot(&adapter, in_place))
        {
            Ok(loaded) => loaded,
            Err(failure) => return settle(asker, Err(failure)),
        };
        self.publish();
        self.outbox.send();
        asker.answer(loaded.map_err(ControlError::from));
        Ok(())
    }

    /// No step may be under way.
    fn load_into_slot(
        &mut self,
        adapter: &Arc<Dynamic>,
        in_place: bool,
    ) -> Result<Result<(), AdapterRefused>, Failure> {
        let began = Instant::now();
        let slot = match self.slot_for(adapter, in_place) {
            Ok(slot) => slot,
            Err(refused) => return Ok(Err(refused)),
        };
        let change = match self.put_and_try(slot, adapter)? {
            Ok(change) => change,
            Err(why) => {
                self.put_back(slot)?;
                tracing::error!(why, "an adapter was not loaded");
                return Ok(Err(AdapterRefused::Unfit(why)));
            }
        };
        self.slots.loads += 1;
        self.slots.slots[slot] = Some(Resident {
            adapter: Arc::clone(adapter),
            load: self.slots.loads,
            leaving: false,
            answers_change: change,
        });
        let again = self.users(slot);
        if let Some(identity) = u32::try_from(slot)
            .ok()
            .and_then(|of| self.slots.identity(of))
        {
            self.scheduler.use_adapter(&again, &identity);
        }
        self.show_adapters();
        for told in &adapter.told {
            tracing::warn!("{told}");
        }
        tracing::info!(
            name = adapter.at.name,
            path = %adapter.at.path.display(),
            digest = adapter.digest,
            rank = adapter.rank,
            matrices = adapter.matrices,
            slot,
            answers_changed_percent = change.map(|change| 100.0 * change),
            computed_again = again.len(),
            seconds = began.elapsed().as_secs_f64(),
            "adapter loaded: requests choose it by its name"
        );
        Ok(Ok(()))
    }

    /// Where it goes: in the place of its namesake, or into a free slot.
    fn slot_for(&self, adapter: &Dynamic, in_place: bool) -> Result<usize, AdapterRefused> {
        let name = &adapter.at.name;
        let (slots, room) = (&self.slots.slots, self.slots.room);
        if slots.is_empty() {
            let why = "this engine has no room for adapters: start it with --max-adapters";
            return Err(AdapterRefused::Unfit(why.to_owned()));
        }
        if adapter.rank > room.rank {
            return Err(AdapterRefused::Unfit(format!(
                "adapter `{name}`: has rank {}, and a slot has room for {}: start with --max-rank {}",
                adapter.rank, room.rank, adapter.rank
            )));
        }
        match self.slots.find(name) {
            Some(slot) if in_place => return Ok(slot as usize),
            Some(_) => return Err(AdapterRefused::Loaded { name: name.clone() }),
            None => {}
        }
        let leaving = slots.iter().flatten().filter(|of| of.leaving).count();
        let free = slots.iter().position(Option::is_none);
        free.ok_or(AdapterRefused::NoSlot {
            slots: slots.len(),
            leaving,
        })
    }

    /// How much it changes the answers, where that is measured; the inner error says why it is not to be
    /// served.
    fn put_and_try(
        &mut self,
        slot: usize,
        adapter: &Arc<Dynamic>,
    ) -> Result<Result<Option<f64>, String>, Failure> {
        if let Err(why) = self.ranks.put_adapter(slot, Some(adapter))? {
            return Ok(Err(why));
        }
        if self.shared.validation == Validation::Off {
            return Ok(Ok(None));
        }
        self.try_adapter(slot, &adapter.at.name)
    }

    /// What was in a slot before something that is not to be served. Where its files are gone, too, it is
    /// unloaded.
    fn put_back(&mut self, slot: usize) -> Result<(), Failure> {
        let before = self.slots.slots[slot].as_ref();
        let before = before.map(|of| Arc::clone(&of.adapter));
        let Err(why) = self.ranks.put_adapter(slot, before.as_ref())? else {
            return Ok(());
        };
        tracing::error!(
            why,
            "the adapter before it cannot be read any more: it is unloaded"
        );
        self.drop_adapter(slot)
    }

    pub(in crate::engine) fn unload_adapter(
        &mut self,
        name: &str,
        asker: Asker<()>,
    ) -> Result<(), Failure> {
        let is_away = self.rest.out.contains(&Account::Adapters);
        // While adapters are away, one whose last requests wait for the wake can be let go of, too.
        let leaving = || self.slots.find_leaving(name).filter(|_| is_away);
        let Some(slot) = self.slots.find(name).or_else(leaving) else {
            let name = name.to_owned();
            asker.answer(Err(AdapterRefused::Unknown { name }.into()));
            return Ok(());
        };
        if let Some(of) = &mut self.slots.slots[slot as usize] {
            of.leaving = true;
        }
        tracing::info!(name, "adapter unloaded: it takes no more requests");
        self.show_adapters();
        // A wake would have to read it for its last requests, and may fail for it alone.
        let gone = match is_away {
            true => self.drop_adapter(slot as usize),
            false => self.empty_slots(),
        };
        if let Err(failure) = gone {
            return settle(asker, Err(failure));
        }
        asker.answer(Ok(()));
        Ok(())
    }

    /// Frees slots whose last requests have ended. Requests that a sleep keeps keep their adapter.
    pub(in crate::engine) fn empty_slots(&mut self) -> Result<(), Failure> {
        for slot in 0..self.slots.len() {
            let leaving = self.slots.slots[slot].as_ref().is_some_and(|of| of.leaving);
            if leaving && self.users(slot).is_empty() {
                self.land_all()?;
                self.drop_adapter(slot)?;
            }
        }
        Ok(())
    }

    /// Ends the requests of a slot and empties it. No step may be under way.
    fn drop_adapter(&mut self, slot: usize) -> Result<(), Failure> {
        let users = self.users(slot);
        self.ended
            .extend(users.into_iter().map(|id| (id, FinishReason::NoAdapter)));
        self.end_requests(None);
        self.slots.slots[slot] = None;
        // Zeros cannot fail to be read.
        self.ranks.put_adapter(slot, None)?.map_err(Failure)?;
        self.show_adapters();
        self.publish();
        self.outbox.send();
        Ok(())
    }

    /// Requests that are answered with a slot's adapter.
    fn users(&self, slot: usize) -> Vec<u64> {
        let is_one =
            |live: &crate::engine::live::Live| live.adapter.map(|of| of as usize) == Some(slot);
        let users = self.live.iter().filter(|(_, live)| is_one(live));
        users.map(|(id, _)| *id).collect()
    }

    fn show_adapters(&self) {
        lock(&self.shared.dynamic).adapters = self.slots.adapters();
    }
}
