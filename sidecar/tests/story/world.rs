//! Two sets of weights of one architecture, and what each says: engines that were started on them and
//! that nothing else ever happened to.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use plimsoll_planner::ModelShape;
use plimsoll_sidecar::engine::control::Commands;
use plimsoll_sidecar::engine::handle::EngineHandle;
use plimsoll_sidecar::model::Model;

use crate::harness::altered::Altered;
use crate::harness::{Run, ask_ids, open, start};

/// Tokens of every answer.
pub const TOKENS: usize = 60;

/// One of the two sets: the fixture's own weights, or others.
pub type Set = usize;

pub struct World {
    pub folders: [Altered; 2],
    pub models: [Arc<Model>; 2],
    pub prompts: Vec<Vec<u32>>,
    oracles: [EngineHandle; 2],
    /// Of each set, after each prompt.
    said: [Vec<Vec<u32>>; 2],
    /// By ranks and set, of engines that were started so.
    sums: RefCell<HashMap<(usize, Set), Sums>>,
}

/// Of every rank, the checksum of each tensor by its name.
pub type Sums = Vec<Vec<(String, u64)>>;

pub fn sums(handle: &EngineHandle) -> Sums {
    let checks = handle.check_weights().wait().unwrap();
    checks.into_iter().map(|check| check.sums).collect()
}

impl World {
    /// `as_oracle`: what of a life's run decides the bits of its answers.
    pub fn of(fixture: &Path, as_oracle: impl Fn(&ModelShape) -> Run) -> World {
        let folders = [
            Altered::copy_of(fixture),
            Altered::copy_of(fixture).turned(),
        ];
        let models = [0, 1].map(|set: Set| open(folders[set].path()));
        let oracles = [0, 1].map(|set: Set| start(&models[set], &as_oracle(&models[set].shape)));
        let prompt = |at: u32| -> Vec<u32> {
            (0..5 + 9 * at)
                .map(|i| (at * 37 + i * 11) % 500 + 3)
                .collect()
        };
        let prompts: Vec<Vec<u32>> = (0..6).map(prompt).collect();
        let said = [0, 1].map(|set: Set| {
            let each = prompts.iter();
            each.map(|prompt| ask_ids(&oracles[set], 0, prompt, TOKENS as u32).wait().ids)
                .collect::<Vec<_>>()
        });
        for (own, others) in said[0].iter().zip(&said[1]) {
            assert_ne!(own, others, "weights that change no answer prove nothing");
        }
        World {
            folders,
            models,
            prompts,
            oracles,
            said,
            sums: RefCell::default(),
        }
    }

    /// What lies in memory where an engine is started so on these weights.
    pub fn sums(&self, run: &Run, set: Set) -> Sums {
        let started = || sums(&start(&self.models[set], run));
        let mut known = self.sums.borrow_mut();
        let known = known.entry((run.shards.len(), set));
        known.or_insert_with(started).clone()
    }

    /// Checks an answer to a prompt, of which each set said what comes from such a token on.
    pub fn check(&self, prompt: usize, turns: &[(usize, Set)], ids: &[u32], what: &str) {
        assert_eq!(ids.len(), TOKENS, "{what}");
        let ends = turns.iter().skip(1).map(|(from, _)| *from);
        for (&(from, set), to) in turns.iter().zip(ends.chain([TOKENS])) {
            if from == to {
                continue;
            }
            let expected = match from {
                0 => self.said[set][prompt].clone(),
                _ => {
                    let so_far = [&self.prompts[prompt], &ids[..from]].concat();
                    let rest = (TOKENS - from) as u32;
                    ask_ids(&self.oracles[set], 0, &so_far, rest).wait().ids
                }
            };
            assert_eq!(
                ids[from..to],
                expected[..to - from],
                "{what}, prompt {prompt}, turns {turns:?}, from token {from} on"
            );
        }
    }
}
