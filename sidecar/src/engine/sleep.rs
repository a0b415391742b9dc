//! Sleep and wake: memory is given back on every rank, and taken again and proved.
//!
//! A wake that fails gives back what it took and can be repeated; one that brings back something
//! else than was loaded leaves the engine out of service and says what differs.

use std::time::{Duration, Instant};

use plimsoll_planner::Account;

use super::commands::settle;
use super::control::{Asker, Command, ControlError, Woken};
use super::handle::{EngineState, lock};
use super::push::{UPDATE_OPEN, wrong_state};
use super::rank::Moved;
use super::ranks::Failure;
use super::rest::{Cause, PauseMode, SleepLevel, Tags, Transition};
use super::run::Loop;

/// Accounts that sleep, in the order in which they come back: scratch is small and first to fail.
const SLEEPERS: [Account; 7] = [
    Account::Comm,
    Account::Workspaces,
    Account::Activations,
    Account::KvCache,
    Account::Adapters,
    Account::Offload,
    Account::Weights,
];

/// Those that are read from files.
const READ: [Account; 3] = [Account::Adapters, Account::Offload, Account::Weights];

/// Files have older weights, which nobody asked for.
const PUSHED_AND_GONE: &str = "the weights in force were pushed, and went with the sleep: push every \
     tensor again (POST /start_weight_update), or read those of the files before them (POST \
     /collective_rpc, reload_weights)";

impl Loop {
    /// Accounts that may be away; without slots nobody hears of adapters.
    fn sleepers(&self) -> impl Iterator<Item = Account> + use<> {
        let slots = self.slots.len();
        let there = move |account: &Account| *account != Account::Adapters || slots > 0;
        SLEEPERS.into_iter().filter(there)
    }

    /// Gives back what the level says and is not away yet. Never takes anything: a second sleep of a
    /// lower level changes nothing.
    pub(super) fn sleep(
        &mut self,
        level: SleepLevel,
        (mode, cause): (PauseMode, Cause),
        asker: Asker<()>,
    ) -> Result<(), Failure> {
        // Whoever asked by hand has the memory, until it is taken again.
        let by_hand = self.rest.cause == Some(Cause::Hand);
        self.rest.cause = Some(if by_hand { Cause::Hand } else { cause });
        // A wake that failed is not repeated against whoever wants it asleep now.
        self.idle.again = None;
        self.show_sleep();
        if level > SleepLevel::Zero && !self.rest.is_out() {
            self.set_state(EngineState::Sleeping);
        }
        match self.quieten(mode) {
            Err(failure) => return settle(asker, Err(failure)),
            Ok(false) => {
                self.pending = Some(Command::Sleep {
                    level,
                    mode,
                    cause,
                    asker,
                });
                return Ok(());
            }
            Ok(true) => {}
        }
        self.rest.level = self.rest.level.max(Some(level));
        let outcome = self.give_back(level.tags(), mode, cause);
        self.show_rest();
        settle(asker, outcome)
    }

    /// Gives back the bytes of the KV cache alone.
    pub(super) fn release_kv_cache(&mut self, asker: Asker<()>) -> Result<(), Failure> {
        let refused = if self.rest.is_sleeping() {
            Some("memory is away already: wake the engine first (POST /wake_up)")
        } else if !self.rest.paused {
            Some("requests may be computed: pause the engine first (POST /pause)")
        } else {
            None
        };
        if let Some(message) = refused {
            let message = format!("the KV cache cannot be released now, {message}");
            asker.answer(Err(ControlError::WrongState { message }));
            return Ok(());
        }
        self.rest.cause = Some(Cause::Hand);
        self.set_state(EngineState::Sleeping);
        let began = Instant::now();
        self.forget_cache();
        let outcome = self.release(&[Account::KvCache]).map(|moved| {
            let kind = Transition::ReleaseKvCache;
            self.told((kind, Cause::Hand), None, began, &moved, None);
        });
        self.show_rest();
        settle(asker, outcome)
    }

    fn give_back(&mut self, tags: Tags, mode: PauseMode, cause: Cause) -> Result<(), Failure> {
        if tags.weights {
            self.abandon_push("the weights were put to sleep")?;
        }
        let began = Instant::now();
        let away = &self.rest.out;
        let due = |account: &Account| tags.holds(*account) && !away.contains(account);
        let accounts: Vec<Account> = self.sleepers().filter(due).collect();
        if tags.kv_cache {
            self.forget_cache();
        }
        let moved = self.release(&accounts)?;
        let mode = Some(mode.name());
        self.told((Transition::Sleep, cause), mode, began, &moved, None);
        Ok(())
    }

    fn release(&mut self, accounts: &[Account]) -> Result<Vec<Moved>, Failure> {
        let moved = match accounts {
            [] => Vec::new(),
            accounts => self.ranks.release(accounts)?,
        };
        self.rest.out.extend(accounts);
        if accounts.contains(&Account::KvCache) {
            self.fill_away()?;
        }
        self.sent.blank &= !accounts.contains(&Account::Weights);
        Ok(moved)
    }

    /// Takes what is away and of these tags; when everything is back, proves it and goes on.
    pub(super) fn wake(
        &mut self,
        tags: Tags,
        cause: Cause,
        asker: Asker<Woken>,
    ) -> Result<(), Failure> {
        let woken = match self.wake_up(tags, cause) {
            Ok(woken) => woken,
            Err(failure) => return settle(asker, Err(failure)),
        };
        // Who takes a part needs the rest of the memory for something.
        if woken == Ok(Woken { asleep: true }) {
            self.rest.cause = Some(cause);
            self.show_sleep();
        }
        asker.answer(woken);
        Ok(())
    }

    /// The inner error says why the engine is not awake.
    pub(super) fn wake_up(
        &mut self,
        tags: Tags,
        cause: Cause,
    ) -> Result<Result<Woken, ControlError>, Failure> {
        if !self.rest.is_sleeping() {
            return Ok(Ok(Woken { asleep: false }));
        }
        let due = |account: &Account| {
            // Whatever comes back is of no use without adapters: requests choose them.
            (tags.holds(*account) || *account == Account::Adapters)
                && self.rest.out.contains(account)
        };
        let back: Vec<Account> = self.sleepers().filter(due).collect();
        let doubted = self.rest.weights_verified == Some(false) && self.rest.out.is_empty();
        if self.rest.updating && (!back.is_empty() || doubted) {
            return Ok(Err(wrong_state(UPDATE_OPEN.to_owned())));
        }
        if self.rest.is_out() && (!back.is_empty() || doubted) {
            self.set_state(EngineState::Waking);
        }
        let began = Instant::now();
        let woken = match self.take(&back)? {
            Ok((moved, proof)) => {
                if self.rest.weights_verified != Some(false) {
                    self.rest.trouble.clear();
                }
                let kind = (Transition::Wake, cause);
                self.told(kind, None, began, &moved, proof);
                if !self.rest.is_sleeping() {
                    self.rest.woken_by = Some(cause);
                }
                Ok(Woken {
                    asleep: self.rest.is_sleeping(),
                })
            }
            Err(message) => {
                let seconds = began.elapsed().as_secs_f64();
                tracing::error!(
                    error = message,
                    reason = cause.name(),
                    seconds,
                    result = "failed",
                    "wake: the engine sleeps on"
                );
                let counts = &mut self.stats.transitions[Transition::Wake as usize];
                counts.count(false, began.elapsed(), cause);
                self.rest.trouble.clone_from(&message);
                Err(ControlError::NotWoken { message })
            }
        };
        self.show_rest();
        Ok(woken)
    }

    /// Takes memory on every rank; the time that the proof took, where all is back. The inner error
    /// says why the engine is not awake.
    #[expect(
        clippy::type_complexity,
        reason = "two kinds of failure, one kind of success"
    )]
    fn take(
        &mut self,
        accounts: &[Account],
    ) -> Result<Result<(Vec<Moved>, Option<Duration>), String>, Failure> {
        let reads = !lock(&self.shared.weights).pushed;
        let moved = match accounts {
            [] => Vec::new(),
            accounts => match self.ranks.restore(accounts, reads)? {
                Ok(moved) => moved,
                Err(message) => return Ok(Err(message)),
            },
        };
        // Taken, whatever is found in it.
        self.stats.transitions[Transition::Wake as usize].taken_bytes += Moved::total(&moved);
        let is_away = |account: &Account| !accounts.contains(account);
        self.rest.out.retain(is_away);
        if !reads && accounts.contains(&Account::Weights) {
            self.sent.blank = true;
            self.doubt(PUSHED_AND_GONE);
        }
        if !self.rest.out.is_empty() {
            return Ok(Ok((moved, None)));
        }
        if self.sent.blank {
            return Ok(Err(PUSHED_AND_GONE.to_owned()));
        }
        // A sleep that gave nothing back has nothing to prove.
        let doubted = self.rest.weights_verified == Some(false);
        if accounts.is_empty() && !doubted {
            self.rest.level = None;
            return Ok(Ok((moved, None)));
        }
        let began = Instant::now();
        let proved = self.prove()?;
        self.rest.weights_verified = Some(proved.is_ok());
        if proved.is_ok() {
            self.rest.level = None;
        } else if reads && self.rest.level == Some(SleepLevel::Two) {
            // What was read is not what was loaded: the next wake reads anew.
            let read: Vec<Account> = self.sleepers().filter(|of| READ.contains(of)).collect();
            let moved = self.ranks.release(&read)?;
            let counts = &mut self.stats.transitions[Transition::Wake as usize];
            counts.given_back_bytes += Moved::total(&moved);
            self.rest.out.extend(read);
        }
        Ok(proved.map(|()| (moved, Some(began.elapsed()))))
    }

    /// Counts a transition and says what moved, in one line; `proof` is the time that proving took.
    fn told(
        &mut self,
        (kind, cause): (Transition, Cause),
        mode: Option<&str>,
        began: Instant,
        moved: &[Moved],
        proof: Option<Duration>,
    ) {
        let bytes = Moved::total(moved);
        let counts = &mut self.stats.transitions[kind as usize];
        counts.count(true, began.elapsed(), cause);
        let what = match kind {
            Transition::Sleep | Transition::ReleaseKvCache => {
                counts.given_back_bytes += bytes;
                "memory given back"
            }
            Transition::Wake | Transition::Update | Transition::Resize => "memory taken",
        };
        tracing::info!(
            reason = cause.name(),
            mode,
            level = self.rest.level.map(SleepLevel::number),
            bytes,
            ranks = Moved::shown(moved),
            seconds = began.elapsed().as_secs_f64(),
            proof_seconds = proof.map(|proof| proof.as_secs_f64()),
            away = self.rest.out.len(),
            result = "done",
            "{}: {what}",
            kind.name(),
        );
    }
}
