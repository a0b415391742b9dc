//! The scheduler: which tokens of which sequences the next step computes. Pure: no clock, no IO.
//!
//! One token budget per step, and one of rows whose logits are read (there is room for as many as
//! sequences run): a prompt that is scored comes in chunks of that many.
//!
//! The token budget: prefill and decode are the same thing, a run of tokens not computed
//! yet. Decodes go first, then prefills in chunks, then new sequences. When blocks run out, the
//! newest sequence gives its blocks up and is computed again later; a sequence that finds no newer
//! one waits. The first in turn can take every block, and the cache holds the longest sequence,
//! so there is always progress.
//!
//! A step may be planned while the one before it is under way ([`Scheduler::sent`], then
//! [`Scheduler::settle`]): what that one samples is a token that is there and not known yet. Blocks
//! may change hands meanwhile, since steps are computed in the order in which they are sent.

mod batch;
#[cfg(test)]
mod device;
mod sequence;
#[cfg(test)]
mod story;
mod yielding;

use std::collections::VecDeque;

use crate::cache::blocks::{BlockId, BlockPool};
use crate::cache::table::BlockTable;

use batch::Budget;
pub use batch::{Batch, Chunk};
pub use sequence::{NewSequence, PENDING, Sequence, Settled};

/// Preemptions after which a sequence goes before all that had fewer.
pub const PREEMPTIONS_BEFORE_AGEING: u32 = 3;
/// One of so many blocks stays free when a sequence is admitted, for the others to grow into.
const WATERMARK_DIVISOR: u32 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    pub max_num_seqs: usize,
    pub max_num_batched_tokens: usize,
    pub block_size: usize,
    /// Blocks of the KV cache, the null block included.
    pub kv_blocks: u32,
    pub prefix_cache: bool,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub preemptions: u64,
    /// Tokens looked up in and found in the prefix cache, at first admissions.
    pub prefix_queries: u64,
    pub prefix_hits: u64,
    /// Prompt tokens of sequences that had their first turn.
    pub prompt_tokens: u64,
}

#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    pool: BlockPool,
    /// Both in turn order.
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    arrivals: u64,
    /// Sequences that came after this one get no first turn; None: all do.
    held_after: Option<u64>,
    /// What the weights in force are called, in the names of blocks.
    weights: String,
    counters: Counters,
}

impl Scheduler {
    pub fn new(config: SchedulerConfig) -> Scheduler {
        Scheduler {
            config,
            pool: BlockPool::new(config.kv_blocks),
            waiting: VecDeque::new(),
            running: Vec::with_capacity(config.max_num_seqs),
            arrivals: 0,
            held_after: None,
            weights: String::new(),
            counters: Counters::default(),
        }
    }

    pub fn config(&self) -> SchedulerConfig {
        self.config
    }

    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    pub fn running(&self) -> &[Sequence] {
        &self.running
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Waiting sequences that never had a turn.
    pub fn waiting_first_turn(&self) -> usize {
        self.waiting
            .iter()
            .filter(|sequence| sequence.cached_at_first.is_none())
            .count()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Blocks that have to be free for all that run to go on, and for the first that waits to begin, as
    /// if the cache had no end.
    pub fn blocks_wanted(&self) -> usize {
        let due = self.running.iter().chain(self.waiting.front());
        let missing = due.map(|s| s.table.missing(s.tokens.len() + 1));
        missing.sum::<usize>() + self.watermark()
    }

    fn watermark(&self) -> usize {
        self.pool.total().div_ceil(WATERMARK_DIVISOR) as usize
    }

    /// Slots of held blocks without a token.
    pub fn slots_wasted(&self) -> u64 {
        self.running
            .iter()
            .map(|s| (s.table.capacity() - s.computed) as u64)
            .sum()
    }

    /// Queues a sequence. The caller bounds the queue and has checked that it fits the context.
    pub fn add(&mut self, new: NewSequence) {
        let NewSequence {
            id,
            prompt,
            max_len,
            cache_salt,
            adapter,
            scores,
        } = new;
        assert!(
            !prompt.is_empty() && prompt.len() <= max_len,
            "sequence {id} has no room"
        );
        self.arrivals += 1;
        let mut table = BlockTable::new(self.config.block_size, &cache_salt);
        if let Some(adapter) = &adapter {
            table.use_adapter(adapter);
        }
        table.use_weights(&self.weights);
        self.waiting.push_back(Sequence {
            id,
            prompt_len: prompt.len(),
            known: prompt.len(),
            drawn_at: 0,
            tokens: prompt,
            max_len,
            computed: 0,
            table,
            preemptions: 0,
            scored: scores.then_some(0),
            cached_at_first: None,
            arrival: self.arrivals,
        });
    }

    /// Takes a sequence out, wherever it is; its blocks are free at once.
    pub fn remove(&mut self, id: u64) -> Option<Sequence> {
        let mut sequence = if let Some(at) = self.running.iter().position(|s| s.id == id) {
            self.running.remove(at)
        } else {
            let at = self.waiting.iter().position(|s| s.id == id)?;
            self.waiting.remove(at)?
        };
        sequence.table.clear(&mut self.pool);
        Some(sequence)
    }

    /// Fills `batch` with the next step. It is empty only when there is nothing to do, or nothing
    /// before the step under way is settled.
    pub fn schedule(&mut self, batch: &mut Batch) {
        batch.chunks.clear();
        batch.preempted.clear();
        batch.admitted.clear();
        let mut budget = Budget {
            tokens: self.config.max_num_batched_tokens,
            rows: self.config.max_num_seqs,
        };
        for decodes in [true, false] {
            let mut index = 0;
            while index < self.running.len() && budget.tokens > 0 {
                let sequence = &self.running[index];
                if !sequence.is_full() && (sequence.remaining() == 1) == decodes {
                    self.schedule_running(index, &mut budget, batch);
                }
                index += 1;
            }
        }
        while budget.tokens > 0 && batch.preempted.is_empty() {
            if !self.admit(&mut budget, batch) {
                break;
            }
        }
    }

    /// Plans tokens of one running sequence; later ones make room if they must.
    fn schedule_running(&mut self, index: usize, budget: &mut Budget, batch: &mut Batch) {
        let count = budget.of(&self.running[index]);
        if count == 0 {
            return; // its turn comes when fewer rows are read
        }
        let end = self.running[index].computed + count;
        while !self.running[index].table.grow(&mut self.pool, end) {
            if index + 1 == self.running.len() {
                return; // earlier ones go on; this one keeps its blocks and waits
            }
            batch.preempted.extend(self.preempt_last(&mut batch.chunks));
        }
        self.push_chunk(index, count, budget, batch);
    }

    fn push_chunk(&mut self, index: usize, count: usize, budget: &mut Budget, batch: &mut Batch) {
        let sequence = &self.running[index];
        let (id, start) = (sequence.id, sequence.computed);
        let samples = count == sequence.remaining() && sequence.draws();
        let scores = sequence.scores(count);
        batch.chunks.push(Chunk {
            id,
            arrival: sequence.arrival,
            index,
            start,
            count,
            scored: [scores.start, scores.end],
            samples,
        });
        budget.tokens -= count;
        budget.rows -= scores.len() + usize::from(samples);
    }

    /// Gives the first waiting sequence its turn, if it fits.
    fn admit(&mut self, budget: &mut Budget, batch: &mut Batch) -> bool {
        if self.running.len() >= self.config.max_num_seqs {
            return false;
        }
        let Scheduler {
            waiting,
            pool,
            config,
            held_after,
            ..
        } = self;
        let Some(first) = waiting.front_mut() else {
            return false;
        };
        // Those behind it came later still: whoever had a turn already came before it was held.
        if held_after.is_some_and(|last| first.arrival > last) {
            return false;
        }
        debug_assert_eq!(first.known, first.tokens.len(), "steps settle before that");
        let mut prefix = match config.prefix_cache {
            true => first.table.find_prefix(pool, &first.tokens),
            false => Vec::new(),
        };
        prefix.truncate(first.skippable() / config.block_size);
        if budget.rows == 0 || !self.running.is_empty() && !self.fits(&prefix) {
            return false;
        }
        let Some(mut sequence) = self.waiting.pop_front() else {
            return false;
        };
        sequence.table.adopt(&mut self.pool, &prefix);
        sequence.computed = prefix.len() * self.config.block_size;
        let count = budget.of(&sequence);
        let grown = sequence
            .table
            .grow(&mut self.pool, sequence.computed + count);
        assert!(
            grown,
            "the cache is smaller than the longest sequence it was planned for"
        );
        if sequence.cached_at_first.is_none() {
            sequence.cached_at_first = Some(sequence.computed);
            self.counters.prompt_tokens += sequence.prompt_len as u64;
            if self.config.prefix_cache {
                self.counters.prefix_queries += sequence.prompt_len as u64;
            }
            self.counters.prefix_hits += sequence.computed as u64;
        }
        batch.admitted.push(sequence.id);
        let turn = sequence.turn(PREEMPTIONS_BEFORE_AGEING);
        let at = self
            .running
            .partition_point(|s| s.turn(PREEMPTIONS_BEFORE_AGEING) < turn);
        self.running.insert(at, sequence);
        batch
            .chunks
            .iter_mut()
            .filter(|c| c.index >= at)
            .for_each(|c| c.index += 1);
        self.push_chunk(at, count, budget, batch);
        true
    }

    /// Whether the first waiting sequence has room for all its tokens beside what running ones
    /// have yet to take for theirs, with the watermark left free.
    fn fits(&self, prefix: &[BlockId]) -> bool {
        let Some(first) = self.waiting.front() else {
            return false;
        };
        let revived = prefix
            .iter()
            .filter(|id| self.pool.references(**id) == 0)
            .count();
        let own = first
            .table
            .missing(first.tokens.len() + 1)
            .saturating_sub(prefix.len());
        let owed: usize = self
            .running
            .iter()
            .map(|s| s.table.missing(s.tokens.len()))
            .sum();
        revived + own + owed + self.watermark() <= self.pool.available() as usize
    }

    /// The batch just planned is on its way: its tokens count as computed, and what it samples as
    /// there.
    pub fn sent(&mut self, batch: &Batch) {
        let mut samples = 0;
        for chunk in &batch.chunks {
            let sequence = &mut self.running[chunk.index];
            debug_assert_eq!(
                (sequence.arrival, sequence.computed),
                (chunk.arrival, chunk.start)
            );
            sequence.computed += chunk.count;
            if let Some(scored) = &mut sequence.scored {
                *scored = (*scored).max(chunk.scored[1]);
            }
            samples += u32::try_from(chunk.scored[1] - chunk.scored[0]).unwrap_or(u32::MAX);
            if chunk.samples {
                sequence.tokens.push(PENDING);
                sequence.drawn_at = samples;
                samples += 1;
            }
        }
    }

    /// A chunk is computed: its tokens are in the cache, full blocks get their names, and the token
    /// sampled after it, if there is one, is known. Chunks come in the order in which they were
    /// sent.
    pub fn settle(&mut self, chunk: &Chunk, token: Option<u32>) -> Settled {
        let Scheduler {
            running,
            waiting,
            pool,
            config,
            ..
        } = self;
        let is_it = |sequence: &Sequence| sequence.arrival == chunk.arrival;
        let at = Some(chunk.index)
            .filter(|index| running.get(*index).is_some_and(is_it))
            .or_else(|| running.iter().position(is_it));
        let sequence = match at {
            Some(at) => &mut running[at],
            // It lost its blocks after the step was sent.
            None => match waiting.iter_mut().find(|sequence| is_it(sequence)) {
                Some(sequence) => sequence,
                None => return Settled::Gone,
            },
        };
        let end = chunk.start + chunk.count;
        if config.prefix_cache && sequence.computed >= end {
            sequence.table.name_computed(pool, &sequence.tokens, end);
        }
        if let Some(token) = token {
            sequence.tokens[sequence.known] = token;
            sequence.known += 1;
        }
        let over = match sequence.only_prompt() {
            true => end >= sequence.prompt_len,
            false => sequence.known >= sequence.max_len,
        };
        match over {
            true => Settled::Full,
            false => Settled::Goes,
        }
    }
}
