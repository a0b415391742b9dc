//! Weights that are sent and not read: opened, written piece by piece over those in force, and then
//! adopted as a whole or not at all.
//!
//! Nothing is computed from the first step to the last. An update that ends in between leaves an engine
//! out of service that no wake takes for whole; where nothing was written, it is as it was.

use std::sync::Arc;
use std::time::Instant;

use plimsoll_planner::Account;

use super::commands::settle;
use super::control::{Asker, Command, ControlError};
use super::handle::lock;
use super::probe::NOT_NUMBERS;
use super::pushed::Pushed;
use super::rank::Moved;
use super::ranks::Failure;
use super::rest::{Cause, PauseMode, Transition, WEIGHTS};
use super::run::Loop;
use super::weights::{Abandoned, Updated};
use crate::weights::piece::Piece;

impl Loop {
    /// Ends what is open, whoever asks.
    pub(super) fn end_push(&mut self, why: &str, asker: Asker<Abandoned>) -> Result<(), Failure> {
        let abandoned = self.abandon_push(why);
        self.show_rest();
        settle(asker, abandoned)
    }

    pub(super) fn open_push(
        &mut self,
        whole: bool,
        mode: PauseMode,
        asker: Asker<()>,
    ) -> Result<(), Failure> {
        if self.sent.open.is_some() {
            asker.answer(Err(wrong_state(UPDATE_OPEN.to_owned())));
            return Ok(());
        }
        match self.quieten(mode) {
            Err(failure) => return settle(asker, Err(failure)),
            Ok(false) => {
                self.pending = Some(Command::OpenPush { whole, mode, asker });
                return Ok(());
            }
            Ok(true) => {}
        }
        let opened = match self.begin_push(whole) {
            Err(failure) => return settle(asker, Err(failure)),
            Ok(opened) => opened,
        };
        self.show_rest();
        asker.answer(opened);
        Ok(())
    }

    fn begin_push(&mut self, whole: bool) -> Result<Result<(), ControlError>, Failure> {
        let mut doubts = None;
        if self.rest.out.contains(&Account::Weights) {
            doubts = Some("the weights are given back".to_owned());
        } else if self.rest.weights_verified == Some(false) {
            doubts = Some("the weights there are are not whole".to_owned());
        }
        let found = self.look_at_weights()?;
        if let Some(message) = found.broken_table {
            self.doubt(&message);
            return Ok(Err(ControlError::NotUpdated { message }));
        }
        if let Some(why) = doubts.or(found.changed).filter(|_| !whole) {
            return Ok(Err(wrong_state(format!(
                "{why}: send every tensor (without `partial`), or read the weights again first \
                 (POST /collective_rpc, reload_weights)"
            ))));
        }
        let took = match self.take_weights()? {
            Ok(took) => took,
            Err(message) => return Ok(Err(wrong_state(message))),
        };
        self.forget_cache();
        lock(&self.shared.weights).writes += 1;
        self.rest.updating = true;
        let needed = self.shared.pushable.needed();
        self.sent.open = Some(Pushed::new(whole, took, needed, Instant::now()));
        Ok(Ok(()))
    }

    /// Takes the memory of the weights where it is away, without reading any; whether it was. The inner
    /// error says why the machine did not give it.
    pub(super) fn take_weights(&mut self) -> Result<Result<bool, String>, Failure> {
        if !self.rest.out.contains(&Account::Weights) {
            return Ok(Ok(false));
        }
        let moved = match self.ranks.restore(&WEIGHTS, false)? {
            Ok(moved) => moved,
            Err(why) => return Ok(Err(format!("the memory of the weights: {why}"))),
        };
        self.stats.transitions[Transition::Update as usize].taken_bytes += Moved::total(&moved);
        self.rest.out.retain(|account| !WEIGHTS.contains(account));
        Ok(Ok(true))
    }

    /// Memory that was taken for an update that came to nothing is no better than none.
    pub(super) fn give_weights_back(&mut self) -> Result<(), Failure> {
        let moved = self.ranks.release(&WEIGHTS)?;
        let counts = &mut self.stats.transitions[Transition::Update as usize];
        counts.given_back_bytes += Moved::total(&moved);
        self.rest.out.extend(WEIGHTS);
        Ok(())
    }

    pub(super) fn write_push(
        &mut self,
        piece: &Arc<Piece>,
        asker: Asker<()>,
    ) -> Result<(), Failure> {
        let takes = match &self.sent.open {
            None => Err(NO_UPDATE_OPEN.to_owned()),
            Some(pushed) => pushed.takes(piece),
        };
        if let Err(message) = takes {
            asker.answer(Err(wrong_state(message)));
            return Ok(());
        }
        let written = match self.ranks.write(piece) {
            Err(failure) => return settle(asker, Err(failure)),
            Ok(written) => written,
        };
        if let Some(pushed) = &mut self.sent.open {
            pushed.wrote(piece);
        }
        let answer = match written {
            Ok(()) => Ok(()),
            Err(why) => {
                let why = format!("tensor `{}`: {why}", piece.tensor().name);
                if let Err(failure) = self.abandon_push(&why) {
                    return settle(asker, Err(failure));
                }
                self.show_rest();
                Err(ControlError::NotUpdated { message: why })
            }
        };
        asker.answer(answer);
        Ok(())
    }

    pub(super) fn close_push(
        &mut self,
        version: Option<String>,
        asker: Asker<Updated>,
    ) -> Result<(), Failure> {
        let lacks = match &self.sent.open {
            None => Some(NO_UPDATE_OPEN.to_owned()),
            Some(pushed) => pushed.lacks(),
        };
        if let Some(message) = lacks {
            asker.answer(Err(wrong_state(message)));
            return Ok(());
        }
        let outcome = match self.adopt_pushed(version) {
            Err(failure) => return settle(asker, Err(failure)),
            Ok(outcome) => outcome,
        };
        self.show_rest();
        asker.answer(outcome);
        Ok(())
    }

    fn adopt_pushed(
        &mut self,
        version: Option<String>,
    ) -> Result<Result<Updated, ControlError>, Failure> {
        let mut probed = None;
        // Without its cache the engine cannot answer: the wake that brings it back probes.
        if self.probes && self.rest.out.is_empty() {
            let probe = self.probe()?;
            if !probe.finite {
                self.abandon_push(NOT_NUMBERS)?;
                let message = self.rest.trouble.clone();
                return Ok(Err(ControlError::NotUpdated { message }));
            }
            probed = Some(probe.drawn);
        }
        self.ranks.adopt(None)?;
        self.probed = probed;
        self.rest.updating = false;
        let version = self.accept(None, version);
        let held = self.live.len();
        if let Some(pushed) = self.sent.open.take() {
            let seconds = pushed.began.elapsed();
            self.stats.transitions[Transition::Update as usize].count(true, seconds, Cause::Hand);
            tracing::info!(
                version,
                held,
                tensors = pushed.tensors(),
                bytes = pushed.bytes(),
                seconds = seconds.as_secs_f64(),
                result = "done",
                "weights updated: pushed"
            );
        }
        Ok(Ok(Updated { version, held }))
    }

    /// Ends an update that is open, if one is.
    pub(super) fn abandon_push(&mut self, why: &str) -> Result<Abandoned, Failure> {
        let Some(pushed) = self.sent.open.take() else {
            return Ok(match self.rest.out.contains(&Account::Weights) {
                true => Abandoned::Away,
                false if self.rest.weights_verified == Some(false) => Abandoned::OutOfService,
                false => Abandoned::Unharmed,
            });
        };
        self.rest.updating = false;
        let seconds = pushed.began.elapsed();
        self.stats.transitions[Transition::Update as usize].count(false, seconds, Cause::Hand);
        let left = if pushed.took {
            self.give_weights_back()?;
            Abandoned::Away
        } else if pushed.bytes() > 0 {
            Abandoned::OutOfService
        } else {
            Abandoned::Unharmed
        };
        let (last, seconds) = (pushed.last().to_owned(), seconds.as_secs_f64());
        tracing::error!(
            why,
            ?left,
            last,
            seconds,
            result = "failed",
            "a pushed update ended early"
        );
        let of = match pushed.last() {
            "" => "before its first tensor".to_owned(),
            last => format!("in or behind tensor `{last}`"),
        };
        match left {
            Abandoned::Unharmed => {}
            Abandoned::Away => self.rest.trouble = format!("a pushed update ended {of}: {why}"),
            Abandoned::OutOfService => self.doubt(&format!(
                "a pushed update ended {of}: {why}; push every tensor again, or read the weights from \
                 their files (POST /collective_rpc, reload_weights)"
            )),
        }
        Ok(left)
    }
}

pub(super) const UPDATE_OPEN: &str = "an update is open: finish it (POST /finish_weight_update) or end it (POST /abort_weight_update)";

const NO_UPDATE_OPEN: &str = "no update is open, or not any more (the engine's log and /memory say \
     why): begin one with POST /start_weight_update";

pub(super) fn wrong_state(message: String) -> ControlError {
    ControlError::WrongState { message }
}
