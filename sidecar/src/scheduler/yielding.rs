//! Who gives way: the last in turn when blocks run out or go, all when the cache goes, and newcomers
//! while nothing new may begin.

use super::{Chunk, PREEMPTIONS_BEFORE_AGEING, Scheduler, Sequence};
use crate::cache::blocks::{BlockId, Move};

impl Scheduler {
    /// The last in turn gives up its blocks and goes back to the queue, ahead of later ones.
    pub(super) fn preempt_last(&mut self, planned: &mut Vec<Chunk>) -> Option<u64> {
        let mut sequence = self.running.pop()?;
        let id = sequence.id;
        // Decodes are planned before prefills, so it may be planned already.
        planned.retain(|chunk| chunk.id != id);
        sequence.table.clear(&mut self.pool);
        sequence.computed = 0;
        sequence.preemptions += 1;
        self.counters.preemptions += 1;
        let turn = sequence.turn(PREEMPTIONS_BEFORE_AGEING);
        let at = self
            .waiting
            .partition_point(|s| s.turn(PREEMPTIONS_BEFORE_AGEING) < turn);
        self.waiting.insert(at, sequence);
        Some(id)
    }

    /// All give up their blocks and are computed again when they have their turn: their keys and
    /// values are about to go. No step may be under way.
    pub fn preempt_all(&mut self) {
        while self.preempt_last(&mut Vec::new()).is_some() {}
    }

    /// The cache has `kv_blocks` blocks from now on, the null block included, which hold the longest
    /// sequence. Where they are too few for what runs, the last in turn give theirs up and are
    /// computed again later. Blocks that go and are held still are copied as the moves say. No step
    /// may be under way.
    pub fn resize(&mut self, kv_blocks: u32) -> Vec<Move> {
        self.config.kv_blocks = kv_blocks;
        if kv_blocks > self.pool.total() {
            self.pool.grow(kv_blocks);
            return Vec::new();
        }
        while self.pool.used() >= kv_blocks {
            if self.preempt_last(&mut Vec::new()).is_none() {
                break;
            }
        }
        let moves = self.pool.shrink(kv_blocks);
        for sequence in &mut self.running {
            sequence.table.follow(&moves);
        }
        moves
    }

    /// The cache will have so many blocks before long.
    pub fn reserve(&mut self, kv_blocks: u32) {
        self.pool.reserve(kv_blocks);
    }

    /// Sequences that come from now on get no turn until [`Scheduler::admit_all`].
    pub fn hold_new(&mut self) {
        self.held_after = Some(self.arrivals);
    }

    pub fn admit_all(&mut self) {
        self.held_after = None;
    }

    /// Whether there is anything to compute, now or when the steps under way are settled.
    pub fn has_turns(&self) -> bool {
        let due = |first: &Sequence| self.held_after.is_none_or(|last| first.arrival <= last);
        !self.running.is_empty() || self.waiting.front().is_some_and(due)
    }

    /// Blocks that are computed from now on are found only by sequences that were computed, or come,
    /// under the same name of the weights.
    pub fn use_weights(&mut self, weights: &str) {
        weights.clone_into(&mut self.weights);
        let all = self.waiting.iter_mut().chain(&mut self.running);
        all.for_each(|sequence| sequence.table.use_weights(weights));
    }

    /// What is computed of these sequences means nothing any more: their adapter is another one, which is
    /// called so. They are computed again when they have their turn. No step may be under way.
    pub fn use_adapter(&mut self, ids: &[u64], adapter: &str) {
        let is_one = |sequence: &Sequence| ids.contains(&sequence.id);
        while let Some(at) = self.running.iter().position(is_one) {
            let sequence = self.running.remove(at);
            self.running.push(sequence);
            self.preempt_last(&mut Vec::new());
        }
        for sequence in self.waiting.iter_mut().filter(|sequence| is_one(sequence)) {
            sequence.table.use_adapter(adapter);
            sequence.table.use_weights(&self.weights);
        }
    }

    /// Takes blocks for something that no sequence is, those of the last in turn where none are free;
    /// fewer where there are not so many. No step may be under way.
    pub fn lend(&mut self, blocks: usize) -> Vec<BlockId> {
        while (self.pool.available() as usize) < blocks {
            if self.preempt_last(&mut Vec::new()).is_none() {
                break;
            }
        }
        (0..blocks).map_while(|_| self.pool.take()).collect()
    }

    /// They come back, and mean nothing.
    pub fn take_back(&mut self, blocks: &[BlockId]) {
        self.pool.release(blocks);
    }

    /// Forgets all cached prefixes.
    pub fn reset_prefix_cache(&mut self) {
        self.pool.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Batch, NewSequence, SchedulerConfig};
    use super::*;

    fn scheduler() -> Scheduler {
        Scheduler::new(SchedulerConfig {
            max_num_seqs: 8,
            max_num_batched_tokens: 64,
            block_size: 4,
            kv_blocks: 40,
            prefix_cache: true,
        })
    }

    fn add(scheduler: &mut Scheduler, id: u64) {
        scheduler.add(NewSequence {
            id,
            prompt: vec![7; 9],
            max_len: 12,
            cache_salt: String::new(),
            adapter: None,
            scores: false,
        });
    }

    /// Ids that had a turn.
    fn step(scheduler: &mut Scheduler) -> Vec<u64> {
        let mut batch = Batch::default();
        scheduler.schedule(&mut batch);
        scheduler.sent(&batch);
        for chunk in &batch.chunks {
            scheduler.settle(chunk, chunk.samples.then_some(1));
        }
        batch.chunks.iter().map(|chunk| chunk.id).collect()
    }

    #[test]
    fn newcomers_are_held_while_who_came_before_them_goes_on() {
        let mut scheduler = scheduler();
        add(&mut scheduler, 1);
        step(&mut scheduler);
        add(&mut scheduler, 2);
        scheduler.hold_new();
        add(&mut scheduler, 3);
        assert_eq!(step(&mut scheduler), [1, 2]);
        // One that lost its blocks meanwhile came before them all the same.
        scheduler.preempt_all();
        assert_eq!(step(&mut scheduler), [1, 2]);
        scheduler.remove(1);
        scheduler.remove(2);
        assert!(!scheduler.has_turns());
        assert_eq!(step(&mut scheduler), [0; 0]);
        scheduler.admit_all();
        assert!(scheduler.has_turns());
        assert_eq!(step(&mut scheduler), [3]);
    }

    #[test]
    fn who_gives_everything_up_holds_nothing_and_finds_nothing() {
        let mut scheduler = scheduler();
        add(&mut scheduler, 1);
        add(&mut scheduler, 2);
        step(&mut scheduler);
        scheduler.preempt_all();
        scheduler.reset_prefix_cache();
        assert_eq!(scheduler.pool().used() + scheduler.pool().cached(), 0);
        assert_eq!((scheduler.running().len(), scheduler.waiting()), (0, 2));
        let hits = scheduler.counters().prefix_hits;
        assert_eq!(step(&mut scheduler), [1, 2]);
        assert_eq!(scheduler.counters().prefix_hits, hits);
        assert_eq!(scheduler.running()[0].computed, 10, "nine, and one drawn");
    }

    #[test]
    fn a_smaller_cache_takes_from_the_newest_and_keeps_what_the_others_computed() {
        let mut scheduler = scheduler();
        for id in 1..=4 {
            add(&mut scheduler, id);
        }
        step(&mut scheduler);
        assert_eq!(scheduler.pool().used(), 12);
        assert_eq!(scheduler.resize(13), [], "all have room");
        scheduler.remove(1);
        let moves = scheduler.resize(8);
        assert_eq!(moves.iter().map(|one| one.from).collect::<Vec<_>>(), [8, 9]);
        let left: Vec<u64> = scheduler.running().iter().map(|s| s.id).collect();
        assert_eq!((left, scheduler.waiting()), (vec![2, 3], 1));
        assert!(scheduler.running().iter().all(|s| s.computed == 9));
        assert_eq!(scheduler.resize(40), []);
        assert_eq!(
            step(&mut scheduler),
            [2, 3, 4],
            "and the fourth begins again"
        );
        assert_eq!(scheduler.counters().preemptions, 1);
    }

    #[test]
    fn a_cache_that_grows_as_it_is_wanted_holds_nobody_up() {
        let mut scheduler = scheduler();
        scheduler.resize(2);
        for id in 1..=6 {
            add(&mut scheduler, id);
        }
        let mut turns = Vec::new();
        for _ in 0..12 {
            while scheduler.blocks_wanted() > scheduler.pool().available() as usize {
                scheduler.resize(scheduler.pool().total() + 2);
            }
            turns.push(step(&mut scheduler));
            for id in turns.last().into_iter().flatten() {
                if scheduler
                    .running()
                    .iter()
                    .any(|s| s.id == *id && s.tokens.len() == 12)
                {
                    scheduler.remove(*id);
                }
            }
            if scheduler.is_empty() {
                break;
            }
            assert!(turns.last().is_some_and(|turn| turn.contains(&1)) || turns.len() > 3);
        }
        assert!(scheduler.is_empty(), "{turns:?}");
        assert_eq!(scheduler.counters().preemptions, 0);
        assert!(turns.iter().all(|turn| !turn.is_empty()), "{turns:?}");
        assert!(
            scheduler.pool().total() < 39,
            "it took no more than it had to"
        );
    }

    /// Tokens of the next sequence that were found in the cache.
    fn found(scheduler: &mut Scheduler, id: u64) -> Option<usize> {
        step(scheduler);
        scheduler.remove(id).and_then(|s| s.cached_at_first)
    }

    #[test]
    fn a_block_is_never_found_under_another_name_of_the_weights() {
        let mut scheduler = scheduler();
        scheduler.use_weights("1 old");
        add(&mut scheduler, 1);
        assert_eq!(found(&mut scheduler, 1), Some(0));
        add(&mut scheduler, 2);
        assert_eq!(found(&mut scheduler, 2), Some(8), "the same weights");
        // One that waits already, and one that comes later.
        add(&mut scheduler, 3);
        scheduler.use_weights("2 new");
        assert_eq!(found(&mut scheduler, 3), Some(0), "it came before");
        add(&mut scheduler, 4);
        assert_eq!(found(&mut scheduler, 4), Some(8), "of the new weights");
        scheduler.use_weights("3 old");
        add(&mut scheduler, 5);
        assert_eq!(found(&mut scheduler, 5), Some(0));
        // One that runs is not named half under the old name and half under the new one.
        add(&mut scheduler, 6);
        step(&mut scheduler);
        scheduler.use_weights("4");
        step(&mut scheduler);
        scheduler.remove(6);
        add(&mut scheduler, 7);
        assert_eq!(found(&mut scheduler, 7), Some(0));
    }
}
