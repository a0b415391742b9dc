//! Pausing and going on: what becomes of requests while nothing is computed.

use super::commands::settle;
use super::control::{Asker, Command, ControlError};
use super::handle::{EngineState, lock};
use super::ranks::Failure;
use super::request::FinishReason;
use super::rest::PauseMode;
use super::run::Loop;

impl Loop {
    /// Stops computing, with the requests there are treated as `mode` says. With `clear_cache` the KV
    /// cache means nothing afterwards: prefixes are forgotten, kept requests are computed again.
    pub(super) fn pause(
        &mut self,
        mode: PauseMode,
        clear_cache: bool,
        asker: Asker<()>,
    ) -> Result<(), Failure> {
        match self.quieten(mode) {
            Err(failure) => return settle(asker, Err(failure)),
            Ok(false) => {
                self.pending = Some(Command::Pause {
                    mode,
                    clear_cache,
                    asker,
                });
                return Ok(());
            }
            Ok(true) => {}
        }
        self.rest.paused = true;
        if clear_cache {
            self.forget_cache();
        }
        self.show_rest();
        asker.answer(Ok(()));
        Ok(())
    }

    pub(super) fn resume(&mut self, asker: Asker<()>) {
        self.rest.paused = false;
        self.show_rest();
        asker.answer(Ok(()));
    }

    /// Prefixes are forgotten; with `running`, what is computed of requests under way, too.
    pub(super) fn reset_prefix_cache(
        &mut self,
        running: bool,
        asker: Asker<()>,
    ) -> Result<(), Failure> {
        if running {
            if let Err(failure) = self.land_all() {
                return settle(asker, Err(failure));
            }
            self.forget_cache();
        } else {
            self.scheduler.reset_prefix_cache();
        }
        self.publish();
        asker.answer(Ok(()));
        Ok(())
    }

    /// Deals with the requests there are. False: some have yet to end, and are computed meanwhile;
    /// the command is to be carried out again when they have.
    pub(super) fn quieten(&mut self, mode: PauseMode) -> Result<bool, Failure> {
        // Whoever is left when the others have ended came later; nobody ends while memory is away or
        // weights are being written.
        if mode == PauseMode::Wait && !self.waited && !self.rest.is_idle() {
            self.scheduler.hold_new();
            if self.scheduler.has_turns() {
                return Ok(false);
            }
        }
        self.land_all()?;
        if mode == PauseMode::Abort {
            self.abort_all();
            self.end_requests(None);
        }
        Ok(true)
    }

    pub(super) fn abort_all(&mut self) {
        self.ended
            .extend(self.live.keys().map(|id| (*id, FinishReason::Abort)));
    }

    /// No step may be under way.
    pub(super) fn forget_cache(&mut self) {
        self.scheduler.preempt_all();
        #[cfg(test)]
        if self.shared.sabotage.keeps_prefixes() {
            return;
        }
        self.scheduler.reset_prefix_cache();
    }

    /// The pause that waited for requests goes on when they have ended.
    pub(super) fn go_on_pausing(&mut self) -> Result<(), Failure> {
        if self.scheduler.has_turns() {
            return Ok(());
        }
        let Some(command) = self.pending.take() else {
            return Ok(());
        };
        self.waited = true;
        let obeyed = self.obey(command);
        self.waited = false;
        obeyed
    }

    /// Whether requests are computed now.
    pub(super) fn computes(&self) -> bool {
        let state = self.shared.state.borrow();
        let serves = matches!(*state, EngineState::Serving | EngineState::Draining);
        !self.rest.is_idle() && (self.pending.is_some() || serves)
    }

    /// Makes state and figures those of the rest (or of its end), before whoever asked is told.
    pub(super) fn show_rest(&mut self) {
        let state = if self.rest.is_out() {
            EngineState::Asleep
        } else if self.rest.paused || self.rest.level.is_some() || self.rest.updating {
            EngineState::Paused
        } else {
            EngineState::Serving
        };
        if state == EngineState::Serving {
            self.scheduler.admit_all();
        }
        if !self.rest.is_sleeping() {
            self.rest.cause = None;
        }
        self.show_sleep();
        self.set_state(state);
        self.publish();
        self.outbox.send();
    }

    /// The engine is told to end: what is held is finished, where its memory is there.
    pub(super) fn leave_rest(&mut self) {
        if let Some(command) = self.pending.take() {
            command.refuse(ControlError::Draining);
        }
        self.rest.paused = false;
        self.rest.level = self.rest.level.filter(|_| self.rest.is_out());
        lock(&self.shared.rest).clone_from(&self.rest);
        self.scheduler.admit_all();
        self.set_state(EngineState::Draining);
    }
}
