//! Other weights over those in force, on every rank, and what follows from it.
//!
//! Nothing is adopted before all of it is written and, where there is a cache to answer with, a probe
//! has answered in numbers. Until then the checksums of the old weights are the measure: an update that
//! fails leaves an engine that no wake takes for whole, until it is repeated, or the old weights are
//! read again.

use std::sync::Arc;
use std::time::Instant;

use plimsoll_planner::Account;

use super::commands::settle;
use super::control::{Asker, Command, ControlError};
use super::handle::{EngineState, lock};
use super::probe::{NOT_NUMBERS, Probe};
use super::push::{UPDATE_OPEN, wrong_state};
use super::ranks::Failure;
use super::rest::{Cause, PauseMode, SleepLevel, Transition};
use super::run::Loop;
use super::weights::{Updated, WeightsInForce};
use crate::model::Replacement;

/// What a look at the weights found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) broken_table: Option<String>,
    /// Weights and tables.
    pub(super) changed: Option<String>,
}

impl Loop {
    /// Calls the weights in force otherwise.
    pub(super) fn name_weights(&mut self, version: String) {
        let key = {
            let mut weights = lock(&self.shared.weights);
            if !weights.pushed {
                weights.source_version.clone_from(&version);
            }
            weights.version = version;
            weights.key()
        };
        #[cfg(test)]
        if self.shared.sabotage.keeps_prefixes() {
            return;
        }
        self.scheduler.use_weights(&key);
    }

    /// Writes other weights over those in force. Requests that are kept are computed again with the new
    /// ones, what was said of them before included.
    pub(super) fn update(
        &mut self,
        weights: Arc<Replacement>,
        version: Option<String>,
        mode: PauseMode,
        asker: Asker<Updated>,
    ) -> Result<(), Failure> {
        if self.rest.updating {
            asker.answer(Err(wrong_state(UPDATE_OPEN.to_owned())));
            return Ok(());
        }
        match self.quieten(mode) {
            Err(failure) => return settle(asker, Err(failure)),
            Ok(false) => {
                self.pending = Some(Command::Update {
                    weights,
                    version,
                    mode,
                    asker,
                });
                return Ok(());
            }
            Ok(true) => {}
        }
        if !self.rest.is_out() {
            self.set_state(EngineState::Paused);
        }
        let (began, held) = (Instant::now(), self.live.len());
        let replaced = match self.replace(&weights) {
            Err(failure) => return settle(asker, Err(failure)),
            Ok(replaced) => replaced,
        };
        let done = replaced.is_ok();
        let counts = &mut self.stats.transitions[Transition::Update as usize];
        counts.count(done, began.elapsed(), Cause::Hand);
        let (path, seconds) = (weights.path.display(), began.elapsed().as_secs_f64());
        let outcome = match replaced {
            Ok(()) => {
                let version = self.accept(Some(&weights), version);
                tracing::info!(%path, version, held, seconds, result = "done", "weights updated");
                Ok(Updated { version, held })
            }
            Err(why) => {
                let message = format!(
                    "the update from {path} failed: {why}; repeat it with a whole folder, or sleep at \
                     level 2 and wake up to read the weights before it"
                );
                tracing::error!(
                    error = message,
                    seconds,
                    result = "failed",
                    "the update failed"
                );
                match self.rest.out.contains(&Account::Weights) {
                    // They are as they were: away.
                    true => self.rest.trouble.clone_from(&message),
                    false => self.doubt(&message),
                }
                Err(ControlError::NotUpdated { message })
            }
        };
        self.show_rest();
        asker.answer(outcome);
        Ok(())
    }

    /// The inner error says why what is there now must not be served.
    fn replace(&mut self, weights: &Arc<Replacement>) -> Result<Result<(), String>, Failure> {
        if let Some(why) = self.look_at_weights()?.broken_table {
            return Ok(Err(why));
        }
        let took = match self.take_weights()? {
            Ok(took) => took,
            Err(why) => return Ok(Err(why)),
        };
        self.forget_cache();
        lock(&self.shared.weights).writes += 1;
        let written = self.write_over(weights)?;
        if took && written.is_err() {
            self.give_weights_back()?;
        }
        Ok(written)
    }

    /// Into memory that is there.
    fn write_over(&mut self, weights: &Arc<Replacement>) -> Result<Result<(), String>, Failure> {
        self.watch(&weights.gate);
        if let Err(why) = self.ranks.overwrite(weights)? {
            return Ok(Err(why));
        }
        let verdict = match self.verdict_of(&weights.gate) {
            Ok(verdict) => verdict,
            Err(why) => return Ok(Err(why)),
        };
        let mut probed = None;
        // Without its cache the engine cannot answer: the wake that brings it back probes.
        if self.probes && self.rest.out.is_empty() {
            let Probe { drawn, finite, .. } = self.probe()?;
            if !finite {
                return Ok(Err(NOT_NUMBERS.to_owned()));
            }
            probed = Some(drawn);
        }
        self.ranks.adopt(Some(weights))?;
        *lock(&self.shared.adapters) = verdict;
        self.probed = probed;
        Ok(Ok(()))
    }

    /// What is there now is not to be served, and why.
    pub(super) fn doubt(&mut self, why: &str) {
        self.rest.weights_verified = Some(false);
        why.clone_into(&mut self.rest.trouble);
    }

    /// What is held is not what it was. New weights cure no table: with a broken one they would answer
    /// wrongly, too.
    pub(super) fn look_at_weights(&mut self) -> Result<Found, Failure> {
        let mut found = Found::default();
        let checks = self.ranks.check_weights()?;
        for (rank, check) in checks.iter().enumerate() {
            if let Some(name) = check.changed_tables.first() {
                found.broken_table.get_or_insert(format!(
                    "rank {rank}: {name}, which is computed and not read, is not what it was; sleep \
                     and wake up to have it computed again"
                ));
            }
            if let Some(name) = check.changed.first() {
                let why = format!("rank {rank}: {name} is not what it was");
                found.changed.get_or_insert(why);
            }
        }
        Ok(found)
    }

    /// The weights that were written are those in force: of these files, or none's; what they are
    /// called.
    pub(super) fn accept(
        &mut self,
        files: Option<&Replacement>,
        version: Option<String>,
    ) -> String {
        self.sent.blank = false;
        let version = {
            let mut now = lock(&self.shared.weights);
            now.pushed = files.is_none();
            let called = match files {
                Some(files) => now.called_after(&now.version, files),
                None => now.version.clone(),
            };
            if let Some(files) = files {
                files.path.clone_into(&mut now.path);
                now.unnamed = WeightsInForce::unnamed(&files.adapters, &files.digest);
            }
            version.unwrap_or(called)
        };
        self.name_weights(version.clone());
        // A wake that came to nothing for the weights' sake has come to its end now.
        if self.rest.weights_verified == Some(false) && self.rest.out.is_empty() {
            let scheduling = |level: &SleepLevel| *level == SleepLevel::Zero;
            self.rest.level = self.rest.level.filter(scheduling);
        }
        self.rest.weights_verified = self.rest.weights_verified.map(|_| true);
        self.rest.trouble.clear();
        version
    }
}
