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

#[derive(Debug)]
pub struct Sequence {
    pub id: u64,
    /// Prompt, then output.
    pub tokens: Vec<u32>,
    pub prompt_len: usize,
    pub max_len: usize,
    /// Tokens whose keys and values are in the cache.
    pub computed: usize,
    pub table: BlockTable,
    pub preemptions: u32,
    /// Tokens found in the prefix cache at the first admission; None before it.
    pub cached_at_first: Option<usize>,
    /// Order of arrival.
    pub(super) arrival: u64,
}

impl Sequence {
    /// Tokens still to be computed before the next one can be sampled; at least one.
    pub fn remaining(&self) -> usize {
        self.tokens.len() - self.computed
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
