//! From nothing to serving, and the rest of the KV cache behind the first requests.
//!
//! Fresh memory comes at about a gigabyte a second, and no request of the first seconds needs a whole
//! cache. So ranks begin with its first blocks, and take the others slice by slice between two steps:
//! ahead of requests that want them, otherwise when there is nothing else to do or after each step. To
//! the scheduler it is a cache that grows before anybody misses a block: nobody is preempted or kept
//! waiting for memory that is still to come. Planned bytes are planned all the while; a service does not
//! lead to the engine before all are taken, and an engine that does not get them fails.

use std::sync::Arc;

use plimsoll_planner::{Account, Bytes, KvLayout};

use super::handle::{EngineState, lock};
use super::probe::{NOT_NUMBERS, Probe};
use super::ranks::Failure;
use super::run::Loop;
use crate::forward::resize::NewCache;

/// What a rank takes of its KV cache before its weights are read.
const FIRST_BYTES: u64 = 64 << 20;
/// What a rank takes at once while nobody waits for tokens: some tens of milliseconds.
const SLICE_BYTES: u64 = 32 << 20;
/// And after each step of requests that run.
const SLICE_BESIDE_STEPS_BYTES: u64 = 8 << 20;
/// Tokens that the first blocks hold in any case: those of the probe.
const FIRST_TOKENS: u32 = 64;

/// Blocks of the KV cache, the null block included, that ranks begin with: those that are `asked` for,
/// or as many as come in no time. `block_bytes` are those of the rank with the largest blocks.
pub(super) fn first_blocks(asked: Option<u32>, all: u32, kv: &KvLayout, block_bytes: Bytes) -> u32 {
    let least = FIRST_TOKENS.div_ceil(kv.block_size.max(1)) + 1;
    let first = asked.unwrap_or_else(|| blocks_of(FIRST_BYTES, block_bytes));
    first.max(least).min(all)
}

/// Blocks that take at most so many bytes on every rank; one at least.
fn blocks_of(bytes: u64, block_bytes: Bytes) -> u32 {
    let blocks = bytes.checked_div(block_bytes.get());
    let blocks = blocks.unwrap_or(u64::from(u32::MAX));
    u32::try_from(blocks.max(1)).unwrap_or(u32::MAX)
}

impl Loop {
    /// Where an adapter is why it fails, that is told.
    pub(super) fn load(&mut self) -> Result<(), Failure> {
        let loaded = self.load_all();
        if let Err(Failure(message)) = &loaded
            && self.shared.model.gate.makes_no_numbers()
        {
            lock(&self.shared.adapters).wrong = Some(message.clone());
        }
        loaded
    }

    fn load_all(&mut self) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        self.ranks
            .load(|| lock(&shared.progress).stage = "LoadingWeights")?;
        let before = self.merge_adapters()?;
        if self.probes {
            lock(&self.shared.progress).stage = "Verifying";
            let Probe {
                drawn,
                finite,
                logits,
            } = self.probe()?;
            if !finite {
                if before.is_some() {
                    self.shared.model.gate.no_numbers();
                }
                return Err(Failure(format!(
                    "{NOT_NUMBERS}: the weights are damaged, or what an adapter adds is too large for \
                     them; fetch the files again"
                )));
            }
            self.compare(before.as_ref(), &logits)?;
            self.probed = Some(drawn);
        }
        self.load_first_adapters()?;
        lock(&self.shared.progress).stage = "Ready";
        self.scheduler.reserve(self.size.plan.kv_blocks);
        self.show_filling();
        self.shared.state.send_replace(EngineState::Serving);
        Ok(())
    }

    /// Blocks of the KV cache, the null block included, that are there.
    pub(super) fn blocks_there(&self) -> u32 {
        self.scheduler.pool().total() + 1
    }

    /// Whether a part of the KV cache has never been taken yet.
    pub(super) fn is_filling(&self) -> bool {
        self.blocks_there() < self.size.plan.kv_blocks
    }

    /// Takes what requests want of the KV cache, and a slice more.
    pub(super) fn fill_cache(&mut self) -> Result<(), Failure> {
        while self.is_filling() {
            let wanted = self.scheduler.blocks_wanted();
            let missing = wanted > self.scheduler.pool().available() as usize;
            if !missing && *self.shared.state.borrow() == EngineState::Draining {
                break;
            }
            let busy = self.computes() && self.scheduler.has_turns();
            let slice = match busy && !missing {
                true => SLICE_BESIDE_STEPS_BYTES,
                false => SLICE_BYTES,
            };
            self.grow_by(self.blocks_in(slice))?;
            if !missing {
                break;
            }
        }
        Ok(())
    }

    /// The cache's memory is away: only its size is taken down, and the wake takes that much.
    pub(super) fn fill_away(&mut self) -> Result<(), Failure> {
        match self.is_filling() {
            true => self.grow_by(u32::MAX),
            false => Ok(()),
        }
    }

    fn blocks_in(&self, bytes: u64) -> u32 {
        blocks_of(bytes, self.block_bytes).min(self.first_blocks)
    }

    fn grow_by(&mut self, blocks: u32) -> Result<(), Failure> {
        self.land_all()?;
        let (before, all) = (self.blocks_there(), self.size.plan.kv_blocks);
        let blocks = before.saturating_add(blocks).min(all);
        let held = !self.rest.out.contains(&Account::KvCache);
        let to = NewCache {
            blocks,
            moves: Vec::new(),
            held,
        };
        if let Err(why) = self.ranks.resize(to, before)? {
            return Err(Failure(format!(
                "the KV cache has {before} of {all} blocks and gets no more: {why}"
            )));
        }
        self.scheduler.resize(blocks);
        if !self.is_filling() {
            if held {
                tracing::info!(blocks, "the KV cache is taken whole");
            }
            self.show_filling();
        }
        Ok(())
    }

    /// Who watches the state hears of it, too: that all is there makes a service lead to the engine.
    pub(super) fn show_filling(&mut self) {
        self.rest.filling = self.is_filling();
        self.show_sleep();
        self.shared.state.send_modify(|_| {});
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_planner::KvDtype;

    use super::super::control::{Commands, ControlError};
    use super::super::handle::EngineHandle;
    use super::super::rest::{PauseMode, SleepLevel, Tags};
    use super::super::sabotage::tests::{ask, engine, engine_of, ids, size};
    use super::super::sabotage::{Fault, Moment};
    use super::*;

    #[test]
    fn the_first_blocks_are_few_and_never_more_than_there_are() {
        let kv = KvLayout {
            dtype: KvDtype::BFloat16,
            block_size: 16,
            size: None,
        };
        let bytes = Bytes::measured(2 << 20);
        for (asked, all, first) in [
            (None, 1000, 32),
            (None, 20, 20),
            (Some(8), 1000, 8),
            (Some(1), 1000, 5), // the null block, and room for the probe
            (Some(1), 3, 3),
        ] {
            let found = first_blocks(asked, all, &kv, bytes);
            assert_eq!(found, first, "{asked:?} of {all}");
        }
        assert_eq!(first_blocks(None, 100, &kv, Bytes::ZERO), 100);
        assert_eq!(blocks_of(1, bytes), 1);
    }

    /// Waits until every planned byte is there.
    fn whole(handle: &EngineHandle) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while handle.rest().filling {
            assert!(std::time::Instant::now() < end, "{:?}", handle.state());
            std::thread::yield_now();
        }
        for rank in handle.memory().ranks {
            for row in rank.accounts {
                assert_eq!(row.reserved, row.planned, "{row:?}");
            }
            assert_eq!(rank.other, 0);
        }
    }

    #[test]
    fn requests_get_the_same_tokens_while_the_cache_is_still_taken() {
        let prompts = || [vec![7; 300], vec![9; 40], vec![7; 300], vec![3; 90]];
        let answers = |handle: &EngineHandle| {
            let asked = (1..)
                .zip(prompts())
                .map(|(id, prompt)| ask(handle, id, prompt));
            let asked: Vec<_> = asked.collect();
            asked.into_iter().map(ids).collect::<Vec<_>>()
        };
        let expected = answers(&engine());
        let handle = engine_of(Some(1));
        assert_eq!(answers(&handle), expected);
        assert_eq!(handle.stats().preemptions, 0);
        whole(&handle);
    }

    #[test]
    fn who_sleeps_or_is_resized_at_once_has_a_whole_cache_afterwards() {
        let expected = ids(ask(&engine(), 1, vec![9; 40]));
        let handle = engine_of(Some(1));
        let waiting = ask(&handle, 1, vec![9; 40]);
        let slept = handle.sleep(SleepLevel::One, PauseMode::Keep).wait();
        assert_eq!(slept, Ok(()));
        assert!(!handle.rest().filling, "the wake takes the rest");
        assert!(handle.wake(Tags::ALL).wait().is_ok());
        whole(&handle);
        assert_eq!(ids(waiting), expected);
        for less in [2, 30, 0] {
            let handle = engine_of(Some(1));
            let waiting = ask(&handle, 1, vec![9; 40]);
            let other = size(&handle, less);
            let blocks = other.plan.kv_blocks;
            let resized = handle.resize(other).wait().unwrap();
            assert_eq!(resized.kv_blocks, blocks);
            whole(&handle);
            assert_eq!(handle.memory().kv.blocks_total, blocks - 1);
            assert_eq!(ids(waiting), expected);
        }
    }

    #[test]
    fn a_rank_that_gets_no_more_memory_fails_the_engine_by_name() {
        let (engine, fault) = (
            || engine_of(Some(1)),
            Fault {
                rank: 1,
                moment: Moment::Growth,
                tensor: None,
            },
        );
        // It may have been whole before the fault lay in its way.
        let failed = (0..50).find_map(|_| {
            let handle = engine();
            handle.sabotage().plan(fault);
            match handle.check_weights().wait() {
                Err(ControlError::Failed { message }) => Some(message),
                _ => None,
            }
        });
        let message = failed.expect("none of 50 was caught");
        assert!(
            message.contains("blocks and gets no more: rank 1: the memory is taken"),
            "{message}"
        );
    }
}
