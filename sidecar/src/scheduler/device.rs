//! What a device would do with steps and resizes, for stories: it remembers which token lies in which
//! slot.

use std::collections::{HashMap, HashSet};

use super::{Batch, Scheduler};
use crate::cache::blocks::Move;

/// What a device would do with a step: remember which token lies in which slot, and what it drew.
#[derive(Default)]
pub(super) struct Device {
    pub(super) slots: HashMap<u64, u32>,
    /// Per id: all tokens, known to the scheduler or not.
    pub(super) tokens: HashMap<u64, Vec<u32>>,
}

/// "Samples" the next token from everything before it, as a model would.
pub(super) fn next_token(tokens: &[u32]) -> u32 {
    tokens
        .iter()
        .fold(7, |sum: u32, t| sum.wrapping_mul(31).wrapping_add(*t))
        % 3
}

impl Device {
    /// Runs the batch; every token that attention would look at must be in its slot. What is drawn
    /// after each chunk that samples.
    pub(super) fn run(&mut self, scheduler: &Scheduler, batch: &Batch) -> Vec<Option<u32>> {
        let mut written = HashSet::new();
        for chunk in &batch.chunks {
            let sequence = &scheduler.running()[chunk.index];
            assert_eq!(sequence.id, chunk.id);
            assert!(chunk.count > 0 && chunk.start == sequence.computed);
            let tokens = &self.tokens[&chunk.id];
            assert_eq!(tokens[..sequence.known], sequence.tokens[..sequence.known]);
            let end = chunk.start + chunk.count;
            for (at, token) in tokens[..end].iter().enumerate().skip(chunk.start) {
                let slot = sequence.table.slot(at);
                assert!(slot >= 4, "the null block is written");
                assert!(
                    written.insert(slot),
                    "slot {slot} is written twice in one step"
                );
                self.slots.insert(slot, *token);
            }
        }
        let mut drawn = Vec::new();
        for chunk in &batch.chunks {
            let sequence = &scheduler.running()[chunk.index];
            let tokens = self.tokens.get_mut(&chunk.id).unwrap();
            for (at, token) in tokens[..chunk.start + chunk.count].iter().enumerate() {
                let slot = sequence.table.slot(at);
                assert_eq!(self.slots[&slot], *token, "slot {slot} is stale");
            }
            let at_end = chunk.start + chunk.count == tokens.len();
            assert_eq!(chunk.samples, at_end && sequence.draws());
            drawn.push(chunk.samples.then(|| next_token(tokens)));
            tokens.extend(drawn.last().copied().flatten());
        }
        drawn
    }

    /// Copies blocks as a resize to `blocks` says, and loses what lay past them.
    pub(super) fn resize(&mut self, blocks: u32, moves: &[Move]) {
        for Move { from, to } in moves {
            for at in 0..4 {
                let [from, to] = [from, to].map(|block| u64::from(*block) * 4 + at);
                match self.slots.remove(&from) {
                    Some(token) => self.slots.insert(to, token),
                    None => self.slots.remove(&to),
                };
            }
        }
        self.slots.retain(|slot, _| *slot < u64::from(blocks) * 4);
    }
}
