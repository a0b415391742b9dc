//! A sequence: its tokens, how far they are computed, and the blocks that hold them.

use std::ops::Range;

use crate::cache::table::BlockTable;

/// What the scheduler needs to know of a request.
#[derive(Debug)]
pub struct NewSequence {
    pub id: u64,
    pub prompt: Vec<u32>,
    /// Prompt and output together hold at most this many tokens.
    /// As long as the prompt: nothing is drawn.
    pub max_len: usize,
    pub cache_salt: String,
    /// What no other adapter, and no other load of it, is called; None: the weights alone.
    pub adapter: Option<String>,
    /// Every row of the prompt is computed and read, for the log-probability of the next token.
    pub scores: bool,
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
    /// Where the prompt is scored: its tokens whose rows were read.
    pub scored: Option<usize>,
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
    /// Tokens still to be computed before the next one can be sampled; at least one until a sequence
    /// of which nothing is drawn is over.
    pub fn remaining(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Nothing is left to compute: it is as long as it may be, or nothing is drawn of it and its
    /// prompt is computed.
    pub(super) fn is_full(&self) -> bool {
        match self.only_prompt() {
            true => self.remaining() == 0,
            false => self.tokens.len() >= self.max_len,
        }
    }

    /// Nothing is drawn, ever.
    pub(super) fn only_prompt(&self) -> bool {
        self.max_len <= self.prompt_len
    }

    /// Whether a token is drawn after the last one.
    pub fn draws(&self) -> bool {
        self.tokens.len() < self.max_len
    }

    /// Of the next `count` tokens, those whose rows are read to score the prompt: the row of a token
    /// says how likely the next one is. What was read before a preemption is not read again.
    pub(super) fn scores(&self, count: usize) -> Range<usize> {
        let last = self.prompt_len - 1;
        let from = self
            .scored
            .unwrap_or(last)
            .clamp(self.computed.min(last), last);
        let to = (self.computed + count).clamp(from, last);
        from..to
    }

    /// The most of the next `count` tokens that can be computed while only `rows` rows are read.
    pub(super) fn within_rows(&self, count: usize, rows: usize) -> usize {
        let scores = self.scores(count);
        if scores.len() > rows {
            return scores.start + rows - self.computed;
        }
        let samples = count == self.remaining() && self.draws();
        count - usize::from(samples && scores.len() == rows)
    }

    /// Tokens at the front whose blocks may come from the prefix cache: rows that are to be read
    /// must be computed.
    pub(super) fn skippable(&self) -> usize {
        match self.scored {
            Some(scored) if scored + 1 < self.prompt_len => scored,
            _ => self.tokens.len(),
        }
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
