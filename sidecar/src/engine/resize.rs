//! The KV cache gets another size on every rank while requests run.
//!
//! The ledger's plan is raised before memory is taken and lowered after it is given back, so that
//! nothing is ever held that is not planned. A growth is all or nothing; a shrink moves what is held,
//! and preempts the newest where too little is left.

use std::sync::Arc;
use std::time::Instant;

use plimsoll_planner::Account;

use super::commands::settle;
use super::control::{Asker, ControlError};
use super::handle::EngineState;
use super::rank::Moved;
use super::ranks::{Failure, move_limit};
use super::rest::{Cause, Transition};
use super::run::Loop;
use super::size::{Resized, Size};
use crate::forward::resize::NewCache;

impl Loop {
    /// Brings the KV cache to its size in `size`. While its memory is away only the size is taken
    /// down: the wake takes that much.
    pub(super) fn resize(&mut self, size: Arc<Size>, asker: Asker<Resized>) -> Result<(), Failure> {
        if let Some(misfit) = self.size.misfit(&size) {
            let message = format!("the engine cannot be resized so while it runs: {misfit}");
            asker.answer(Err(ControlError::WrongState { message }));
            return Ok(());
        }
        if let Err(failure) = self.land_all() {
            return settle(asker, Err(failure));
        }
        if *self.shared.state.borrow() == EngineState::Serving {
            self.set_state(EngineState::Resizing);
        }
        let (began, before) = (Instant::now(), self.size.plan.kv_blocks);
        let outcome = match self.change_size(&size) {
            Ok(outcome) => outcome,
            Err(failure) => return settle(asker, Err(failure)),
        };
        let counts = &mut self.stats.transitions[Transition::Resize as usize];
        counts.count(outcome.is_ok(), began.elapsed(), Cause::Hand);
        let (seconds, after) = (began.elapsed().as_secs_f64(), size.plan.kv_blocks);
        let answer = match outcome {
            Ok((resized, bytes)) => {
                let Resized {
                    moved, preempted, ..
                } = resized;
                let total = Moved::total(&bytes);
                *(match after < before {
                    true => &mut counts.given_back_bytes,
                    false => &mut counts.taken_bytes,
                }) += total;
                let ranks = Moved::shown(&bytes);
                tracing::info!(
                    before,
                    after,
                    moved,
                    preempted,
                    bytes = total,
                    ranks,
                    seconds,
                    result = "done",
                    "resize: blocks of the KV cache"
                );
                Ok(resized)
            }
            Err(message) => {
                tracing::error!(
                    before,
                    after,
                    error = message,
                    seconds,
                    result = "failed",
                    "resize: the KV cache stays as it was"
                );
                Err(ControlError::NotResized { message })
            }
        };
        self.show_rest();
        asker.answer(answer);
        Ok(())
    }

    /// What was never taken yet comes behind requests, whatever it adds up to now.
    fn aim_at(&mut self, size: &Arc<Size>) -> (Resized, Vec<Moved>) {
        self.shared.ledger.plan(&size.plan, &size.capacities);
        self.ranks.move_limit = self.ranks.move_limit.max(move_limit(&size.plan));
        self.size = Arc::clone(size);
        self.scheduler.reserve(size.plan.kv_blocks);
        self.show_filling();
        let resized = Resized {
            kv_blocks: size.plan.kv_blocks,
            moved: 0,
            preempted: 0,
        };
        (resized, Vec::new())
    }

    /// The inner error says why the size is what it was.
    fn change_size(
        &mut self,
        size: &Arc<Size>,
    ) -> Result<Result<(Resized, Vec<Moved>), String>, Failure> {
        let (before, blocks) = (self.blocks_there(), size.plan.kv_blocks);
        if self.is_filling() && blocks >= before {
            return Ok(Ok(self.aim_at(size)));
        }
        let shrinks = blocks < before;
        let preempted = self.scheduler.counters().preemptions;
        let mut to = NewCache {
            blocks,
            moves: Vec::new(),
            held: !self.rest.out.contains(&Account::KvCache),
        };
        if shrinks {
            to.moves = self.scheduler.resize(blocks);
        } else {
            self.shared.ledger.plan(&size.plan, &size.capacities);
        }
        let moved = to.moves.len();
        // For as long as the larger of both takes.
        let limit = self.ranks.move_limit;
        self.ranks.move_limit = limit.max(move_limit(&size.plan));
        let bytes = match self.ranks.resize(to, before)? {
            Ok(bytes) => bytes,
            Err(why) => {
                self.ranks.move_limit = limit;
                let Size { plan, capacities } = &*self.size;
                self.shared.ledger.plan(plan, capacities);
                return Ok(Err(why));
            }
        };
        if shrinks {
            self.shared.ledger.plan(&size.plan, &size.capacities);
        } else {
            self.scheduler.resize(blocks);
        }
        self.ranks.move_limit = move_limit(&size.plan);
        self.size = Arc::clone(size);
        self.show_filling();
        let resized = Resized {
            kv_blocks: blocks,
            moved,
            preempted: self.scheduler.counters().preemptions - preempted,
        };
        Ok(Ok((resized, bytes)))
    }
}
