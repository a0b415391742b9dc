//! One step's work while it is planned: runs of tokens, and what the step has left.

use super::sequence::Sequence;

/// A run of tokens of one running sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub id: u64,
    /// Tells the sequence from a later one of the same id.
    pub(super) arrival: u64,
    /// Index in [`Scheduler::running`], valid until the scheduler is asked to change anything.
    pub index: usize,
    /// First token to compute.
    pub start: usize,
    pub count: usize,
    /// The tokens whose rows score the prompt: from, to. Empty where nobody asks.
    pub scored: [usize; 2],
    /// The chunk reaches the sequence's end: a token is sampled after it.
    pub samples: bool,
}

impl Chunk {
    /// Rows whose logits are read.
    pub fn rows(&self) -> usize {
        self.scored[1] - self.scored[0] + usize::from(self.samples)
    }
}

/// One step's work. Kept by the caller and filled again, so that steps do not allocate.
#[derive(Debug, Default)]
pub struct Batch {
    pub chunks: Vec<Chunk>,
    /// Sequences that lost their blocks in this step.
    pub preempted: Vec<u64>,
    /// Sequences that got their first (or next) turn in this step.
    pub admitted: Vec<u64>,
}

/// What a step has left: tokens to compute, rows to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub(super) tokens: usize,
    pub(super) rows: usize,
}

impl Budget {
    /// Tokens of a sequence that can be planned.
    pub(super) fn of(&self, sequence: &Sequence) -> usize {
        let count = sequence.remaining().min(self.tokens);
        sequence.within_rows(count, self.rows)
    }
}
