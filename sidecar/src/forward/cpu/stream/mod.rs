//! Offloaded weights on their way: a thread copies the next layer while one is computed with.
//!
//! ```text
//! home (host memory):   layer 1 | layer 3 | layer 4
//! slots (the rank's):   [ layer 3, in use ]  [ layer 4, arriving ]        then 1, 3, 4, 1 …
//! ```
//! A slot is owned by one side at a time: it goes to the thread empty and comes back filled, so
//! nothing is written while it is read. The ring runs on over the end of a pass: the first layers of
//! the next one are fetched while the last rows are sampled.

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use plimsoll_kernels::device::Device;
use plimsoll_kernels::pool::Pool;
use plimsoll_planner::offload::{Offload, RING_SLOTS};
use plimsoll_planner::scratch::Region;
use plimsoll_planner::{Account, Bytes};

use crate::memory::arena::{Arena, ArenaError};
use crate::memory::ledger::Ledger;
use crate::memory::snapshot::Streamed;

const SLOTS: usize = 2;
const _: () = assert!(SLOTS as u64 == RING_SLOTS, "the planner has as many");

/// A layer that takes longer than this does not come: it only bounds how long a thread that hangs
/// stays unnoticed.
const PATIENCE: Duration = Duration::from_secs(60);

/// One slot of the ring.
#[derive(Debug)]
enum Slot {
    /// Nothing of worth.
    Idle(Arena),
    /// The offloaded layer of this index.
    Holds(usize, Arena),
    /// The thread has it.
    Away,
}

/// A copy to be made: layer `index`, of these bytes of `home`, into the slot at `at`.
#[derive(Debug)]
struct Job {
    at: usize,
    index: usize,
    home: Arc<Arena>,
    bytes: Region,
    slot: Arena,
}

/// A copy that was made.
#[derive(Debug)]
struct Done {
    at: usize,
    index: usize,
    slot: Arena,
}

/// A rank's offloaded weights and the ring that they are streamed through.
#[derive(Debug)]
pub(super) struct Stream {
    rank: usize,
    /// All offloaded layers, one after the other.
    home: Arc<Arena>,
    /// Their numbers in the model, in the order of the stream, and where each lies in `home`.
    layers: Vec<(usize, Region)>,
    slot_bytes: Bytes,
    /// Layers that were computed with since the ring was last emptied: the next is `position` modulo
    /// the layers, in slot `position` modulo the slots.
    position: usize,
    slots: Mutex<[Slot; SLOTS]>,
    jobs: Option<SyncSender<Job>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
    streamed: Streamed,
}

impl Stream {
    /// Reserves home and ring, and starts the thread. Nothing is committed.
    ///
    /// # Errors
    /// When the machine does not give address space or a thread.
    pub(super) fn reserve(
        device: &dyn Device,
        ledger: &Ledger,
        rank: usize,
        offload: &Offload,
    ) -> Result<Stream, ArenaError> {
        let arena = |account, bytes| Arena::reserve(device, ledger, rank, account, (bytes, bytes));
        let slot_bytes = offload.slot();
        let slot = || arena(Account::Weights, slot_bytes).map(Slot::Idle);
        let slots = [slot()?, slot()?];
        let home = Arc::new(arena(Account::Offload, offload.host())?);
        let (jobs, asked) = sync_channel(SLOTS);
        let (finished, done) = sync_channel(SLOTS);
        let thread = thread::Builder::new()
            .name(format!("stream-{rank}"))
            .spawn(move || copy_all(&asked, &finished))
            .map_err(|source| ArenaError::Thread { rank, source })?;
        let parts = offload.parts().iter();
        Ok(Stream {
            rank,
            home,
            layers: parts
                .map(|(layer, part)| (*layer as usize, *part))
                .collect(),
            slot_bytes,
            position: 0,
            slots: Mutex::new(slots),
            jobs: Some(jobs),
            done,
            thread: Some(thread),
            streamed: Streamed::default(),
        })
    }

    /// Where the weights stay.
    pub(super) fn home(&self) -> &Arena {
        &self.home
    }

    /// The same to write or to move pages: the ring is emptied, as what it holds may be old now.
    pub(super) fn home_mut(&mut self) -> &mut Arena {
        self.empty();
        let Some(home) = Arc::get_mut(&mut self.home) else {
            unreachable!("a copy is under way in an empty ring")
        };
        home
    }

    /// Waits until a layer is in its slot. Layers come in their order, again and again.
    ///
    /// # Panics
    /// When it is not its turn, or the thread does not bring it: the rank ends with it.
    pub(super) fn begin(&mut self, layer: usize) {
        let index = self.position % self.layers.len();
        let (next, part) = self.layers[index];
        assert_eq!(next, layer, "layers are streamed in their order");
        // After the ring was emptied nothing is on its way yet.
        self.fetch(self.position);
        self.fetch(self.position + 1);
        let at = self.position % SLOTS;
        let started = Instant::now();
        while matches!(self.slots()[at], Slot::Away) {
            self.receive();
        }
        self.streamed.wait += started.elapsed();
        self.streamed.bytes += part.bytes;
        // Every pass has all layers.
        self.streamed.steps += u64::from(index == 0);
    }

    /// The layer is computed with no more: its slot is for the one after the next.
    pub(super) fn end(&mut self) {
        let at = self.position % SLOTS;
        let slots = self.slots.get_mut().unwrap_or_else(PoisonError::into_inner);
        slots[at] = match std::mem::replace(&mut slots[at], Slot::Away) {
            Slot::Holds(_, arena) | Slot::Idle(arena) => Slot::Idle(arena),
            Slot::Away => Slot::Away,
        };
        self.position += 1;
        self.fetch(self.position + 1);
    }

    /// A part of the home as it lies in the slot of the layer that has begun.
    ///
    /// # Panics
    /// When another layer has begun, or none.
    pub(super) fn current(&mut self, region: Region) -> &[u8] {
        let index = self.position % self.layers.len();
        let (layer, part) = self.layers[index];
        let slots = self.slots.get_mut().unwrap_or_else(PoisonError::into_inner);
        match &slots[self.position % SLOTS] {
            Slot::Holds(held, arena) if *held == index => arena
                .all(within(region, part).unwrap_or_else(|| {
                    unreachable!("{region:?} is of another layer than {layer}")
                })),
            other => unreachable!("layer {layer} has not begun: {other:?}"),
        }
    }

    /// What was streamed since this was last asked.
    pub(super) fn take_streamed(&mut self) -> Streamed {
        std::mem::take(&mut self.streamed)
    }

    /// Has each copy of these parts of the home, where the ring holds one, looked at.
    pub(super) fn copies<T>(
        &self,
        of: &[Region],
        look: impl Fn(&[&[u8]]) -> Vec<T>,
    ) -> Vec<Option<T>> {
        while self.slots().iter().any(|slot| matches!(slot, Slot::Away)) {
            self.receive();
        }
        let slots = self.slots();
        let copy = |region: &Region| {
            slots.iter().find_map(|slot| match slot {
                Slot::Holds(index, arena) => {
                    Some(arena.all::<u8>(within(*region, self.layers[*index].1)?))
                }
                Slot::Idle(_) | Slot::Away => None,
            })
        };
        let found: Vec<Option<&[u8]>> = of.iter().map(copy).collect();
        let there: Vec<&[u8]> = found.iter().copied().flatten().collect();
        let mut looked = look(&there).into_iter();
        found
            .iter()
            .map(|copy| copy.and_then(|_| looked.next()))
            .collect()
    }

    /// Whether the ring has its memory.
    pub(super) fn ring_held(&self) -> bool {
        let missing = |slot: &Slot| match slot {
            Slot::Idle(arena) => arena.missing(&self.slot_range()) > Bytes::ZERO,
            // Only what has memory is filled.
            Slot::Holds(..) | Slot::Away => false,
        };
        !self.slots().iter().any(missing)
    }

    /// Commits the ring, and tells how much came new.
    ///
    /// # Errors
    /// When the plan does not cover it, or the machine does not give it; some of it may be there.
    pub(super) fn commit_ring(
        &mut self,
        ledger: &Ledger,
        pool: &Pool,
    ) -> Result<Bytes, ArenaError> {
        let range = self.slot_range();
        self.each_slot(|slot| slot.commit(ledger, pool, range.clone()))
    }

    /// Gives the ring's memory back, and tells how much that was.
    ///
    /// # Errors
    /// When the machine does not take it.
    pub(super) fn discard_ring(
        &mut self,
        ledger: &Ledger,
        pool: &Pool,
    ) -> Result<Bytes, ArenaError> {
        self.empty();
        self.each_slot(|slot| {
            let all = 0..slot.capacity().get();
            slot.discard(ledger, pool, all)
        })
    }

    pub(super) fn ring_bytes(&self) -> Bytes {
        self.slot_bytes.saturating_mul(RING_SLOTS)
    }

    fn slot_range(&self) -> Range<u64> {
        0..self.slot_bytes.get()
    }

    fn each_slot(
        &mut self,
        mut act: impl FnMut(&mut Arena) -> Result<Bytes, ArenaError>,
    ) -> Result<Bytes, ArenaError> {
        let slots = self.slots.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut moved = Bytes::ZERO;
        for slot in slots {
            match slot {
                Slot::Idle(arena) | Slot::Holds(_, arena) => moved += act(arena)?,
                // A layer was on its way into it: it has its memory.
                Slot::Away => {}
            }
        }
        Ok(moved)
    }

    /// Waits for what is on its way and forgets what came: the next pass begins anew.
    fn empty(&mut self) {
        while self.slots().iter().any(|slot| matches!(slot, Slot::Away)) {
            self.receive();
        }
        for slot in self.slots.get_mut().unwrap_or_else(PoisonError::into_inner) {
            *slot = match std::mem::replace(slot, Slot::Away) {
                Slot::Holds(_, arena) | Slot::Idle(arena) => Slot::Idle(arena),
                Slot::Away => Slot::Away,
            };
        }
        self.position = 0;
    }

    /// Sends for the layer at a position, unless its slot is taken.
    fn fetch(&mut self, position: usize) {
        let at = position % SLOTS;
        let index = position % self.layers.len();
        let slots = self.slots.get_mut().unwrap_or_else(PoisonError::into_inner);
        let slot = match std::mem::replace(&mut slots[at], Slot::Away) {
            Slot::Idle(arena) => arena,
            taken => {
                slots[at] = taken;
                return;
            }
        };
        let job = Job {
            at,
            index,
            home: Arc::clone(&self.home),
            bytes: self.layers[index].1,
            slot,
        };
        let sent = self
            .jobs
            .as_ref()
            .is_some_and(|jobs| jobs.send(job).is_ok());
        assert!(sent, "{}", self.gone());
    }

    /// Takes one filled slot from the thread.
    fn receive(&self) {
        match self.done.recv_timeout(PATIENCE) {
            Ok(Done { at, index, slot }) => self.slots()[at] = Slot::Holds(index, slot),
            Err(RecvTimeoutError::Timeout) => panic!(
                "rank {}: no layer was streamed within {} s: its thread hangs",
                self.rank,
                PATIENCE.as_secs()
            ),
            Err(RecvTimeoutError::Disconnected) => panic!("{}", self.gone()),
        }
    }

    fn gone(&self) -> String {
        format!(
            "rank {}: the thread that streams its weights is gone",
            self.rank
        )
    }

    fn slots(&self) -> MutexGuard<'_, [Slot; SLOTS]> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It ends with its jobs; a panic of its was told to whoever waited for a layer.
            let _ = thread.join();
        }
    }
}

/// A region of the home as one of the slot that holds this part of it; `None` where it is of another.
fn within(region: Region, part: Region) -> Option<Region> {
    let offset = region.offset.checked_sub(part.offset)?;
    (offset + region.bytes <= part.bytes).then_some(Region { offset, ..region })
}

/// The thread: copies what it is asked for, in order, until nobody asks any more.
fn copy_all(asked: &Receiver<Job>, done: &SyncSender<Done>) {
    while let Ok(job) = asked.recv() {
        let Job {
            at,
            index,
            home,
            bytes,
            mut slot,
        } = job;
        let to = Region { offset: 0, ..bytes };
        slot.all_mut::<u8>(to).copy_from_slice(home.all(bytes));
        // Whoever has all slots back may write the home.
        drop(home);
        if done.send(Done { at, index, slot }).is_err() {
            return;
        }
    }
}
