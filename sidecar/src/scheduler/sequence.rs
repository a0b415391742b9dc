//! A sequence: its tokens, how far they are computed, and the blocks that hold them.

use crate::cache::table::BlockTable;

/// What the scheduler needs to know of a request.
#[derive(Debug)]
pub struct NewSequence {
    pub id: u64,
    pub prompt: Vec<u32>,
    /// Prompt and output together hold at most this many tokens.
    pub max_len: usize,
    pub cache_salt: String,
}

/// Stands for a token that is drawn by a step still under way.
pub const PENDING: u32 = u32::MAX;

#[derive(Debug)]
pub struct Sequence {
    pub id: u64,
    /// Prompt, then output; [`PENDING`] from `known` on.
    pub tokens: Vec<u32>,
    pub prompt_len: usize,
    pub max_len: usize,
    /// Tokens that are known. At most one more than that when a step is planned.
    pub known: usize,
    /// Which of its step's samples the last token was.
    pub drawn_at: u32,
    /// Tokens whose keys and values are in the cache, or will be when the steps under way are done.
    pub computed: usize,
    pub table: BlockTable,
    pub preemptions: u32,
    /// Tokens found in the prefix cache at the first admission; None before it.
    pub cached_at_first: Option<usize>,
    /// Order of arrival: no two sequences have the same, though they may have one id in turn.
    pub(super) arrival: u64,
}

/// What became of the sequence of a chunk that is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Removed meanwhile: what was computed for it means nothing.
    Gone,
    Goes,
    /// As long as it may be.
    Full,
}

impl Sequence {
    /// Tokens still to be computed before the next one can be sampled; at least one.
    pub fn remaining(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// As long as it may be: nothing is left to compute.
    pub(super) fn is_full(&self) -> bool {
        self.tokens.len() >= self.max_len
    }

    pub fn output(&self) -> &[u32] {
        &self.tokens[self.prompt_len..]
    }

    /// Who yields to whom: the smaller key goes first and may preempt the larger. A sequence that
    /// was preempted `cap` times passes all that were not, so nobody is put off for ever.
    pub(super) fn turn(&self, cap: u32) -> (bool, u64) {
        (self.preemptions < cap, self.arrival)
    }
}
