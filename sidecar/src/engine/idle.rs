//! Sleep by the engine's own clock, and waking for requests.
//!
//! Who falls asleep by the clock goes the way of any sleep; a request that comes in the last moment is
//! found when the memory is away, and wakes the engine again: none is held by a sleep that nobody
//! asked for. A wake that fails answers those who came for it, is repeated after ever longer pauses,
//! and until then whoever comes is refused at once.

use std::time::Instant;

use super::clock::{IdlePolicy, pause};
use super::control::{Asker, ControlError};
use super::handle::{EngineState, lock};
use super::inbox::Mail;
use super::ranks::Failure;
use super::request::FinishReason;
use super::rest::{Cause, PauseMode, SleepLevel, Tags};
use super::run::Loop;

impl Loop {
    /// Follows a new policy, before the command that came with it is carried out. Whether anything came.
    pub(super) fn heed(&mut self, mail: &mut Mail) -> bool {
        let heard = mail.is_something();
        self.idle.roused = mail.roused;
        if let Some(policy) = mail.policy.take() {
            self.follow(policy);
        }
        heard
    }

    /// From now on the engine does so.
    fn follow(&mut self, policy: IdlePolicy) {
        if self.idle.policy != policy {
            tracing::info!(?policy, "sleep by the engine's own clock");
        }
        self.idle.policy = policy;
        self.show_sleep();
    }

    /// When the loop has to look at its clock although nothing comes.
    pub(super) fn alarm(&self) -> Option<Instant> {
        match self.idle.again {
            Some((_, at)) if self.may_wake() => Some(at),
            _ => self.falls_asleep_at().map(|(at, _)| at),
        }
    }

    fn falls_asleep_at(&self) -> Option<(Instant, SleepLevel)> {
        let (after, level) = self.idle.policy.after?;
        let serves = *self.shared.state.borrow() == EngineState::Serving;
        let idles = serves && self.live.is_empty() && self.pending.is_none() && !self.rest.updating;
        if !idles {
            return None;
        }
        // No file has weights that were pushed: nobody's clock throws them away.
        let level = match lock(&self.shared.weights).pushed {
            true => level.min(SleepLevel::One),
            false => level,
        };
        Some((self.idle.busy.checked_add(after)?, level))
    }

    /// What the clock and waiting requests ask for; `heard`: something came since the last look, and
    /// the clock begins anew.
    pub(super) fn mind_sleep(&mut self, heard: bool) -> Result<(), Failure> {
        let now = self.shared.inbox.now();
        if heard || !self.live.is_empty() || self.pending.is_some() {
            self.idle.busy = now;
        }
        if let Some((at, level)) = self.falls_asleep_at()
            && at <= now
        {
            // Nobody waits for it: the log has what came of it.
            let (asker, _) = Asker::pair();
            self.sleep(level, (PauseMode::Keep, Cause::Idle), asker)?;
        }
        match self.may_wake() {
            true => self.wake_for_requests(now),
            false => Ok(()),
        }
    }

    /// Whether a request may wake the engine, were there one. One that slipped in while the engine fell
    /// asleep by its clock may in any case.
    fn may_wake(&self) -> bool {
        let cause = match self.rest.cause {
            Some(Cause::Idle) => true,
            Some(Cause::Target) => self.idle.policy.wake_on_request,
            Some(Cause::Hand | Cause::Request) | None => false,
        };
        let asleep = *self.shared.state.borrow() == EngineState::Asleep;
        let held = self.rest.paused || self.rest.updating;
        cause && asleep && !held && self.pending.is_none()
    }

    fn wake_for_requests(&mut self, now: Instant) -> Result<(), Failure> {
        let failures = match self.idle.again {
            None if self.live.is_empty() && !self.idle.roused => return Ok(()),
            None => 0,
            Some((_, at)) if now < at => {
                self.send_away();
                return Ok(());
            }
            Some((failures, _)) => failures,
        };
        let woken = self.wake_up(Tags::ALL, Cause::Request)?;
        let now = self.shared.inbox.now();
        self.idle.busy = now;
        match woken {
            Ok(_) => self.idle.again = None,
            Err(ControlError::NotWoken { .. }) => {
                let failures = failures.saturating_add(1);
                self.idle.again = Some((failures, now + pause(failures)));
            }
            // A wake between two steps is refused for no other reason.
            Err(_) => {}
        }
        self.show_rest();
        if self.rest.is_out() {
            self.send_away();
        }
        Ok(())
    }

    /// Requests that came for the wake hear why there is none. Those that were kept when the engine was
    /// put to sleep had their turn: they go on when it is awake.
    fn send_away(&mut self) {
        let came = self.live.iter().filter(|(_, it)| it.first_turn.is_none());
        let came: Vec<_> = came.map(|(id, _)| (*id, FinishReason::NotWoken)).collect();
        if came.is_empty() {
            return;
        }
        self.ended.extend(came);
        let why = self.rest.trouble.clone();
        self.end_requests(Some(&why));
        self.publish();
        self.outbox.send();
    }

    /// Brings what others see of a sleep in step with what it is.
    pub(super) fn show_sleep(&mut self) {
        let by_hand = self.rest.cause == Some(Cause::Hand);
        if by_hand || self.rest.cause.is_none() {
            self.idle.again = None;
        }
        self.rest.again_after = self.idle.again.map(|(failures, _)| pause(failures));
        let sound = self.rest.weights_verified != Some(false) && self.idle.again.is_none();
        let ours = matches!(self.rest.cause, Some(Cause::Idle | Cause::Target));
        let wakes = self.idle.policy.wake_on_request && ours;
        let held = self.rest.paused || self.rest.updating;
        self.rest.reachable = wakes && sound && !held;
        lock(&self.shared.rest).clone_from(&self.rest);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;
    use crate::engine::clock::FIRST_PAUSE;
    use crate::engine::control::Commands;
    use crate::engine::handle::EngineHandle;
    use crate::engine::request::{Finished, GenerateRequest, Refused, SamplingParams, TokenEvent};
    use crate::engine::rest::Transition;
    use crate::engine::sabotage::tests::{comes_to, engine};
    use crate::engine::sabotage::{Fault, Moment};

    fn submit(
        handle: &EngineHandle,
        id: u64,
        tokens: u32,
    ) -> Result<mpsc::Receiver<TokenEvent>, Refused> {
        let (events, heard) = mpsc::channel(tokens as usize + 2);
        let request = GenerateRequest {
            id,
            prompt: vec![3, 4, 5],
            sampling: SamplingParams::default(),
            eos: Vec::new(),
            max_tokens: tokens,
            min_tokens: 0,
            bias: Vec::new(),
            prompt_logprobs: None,
            adapter: None,
            cache_salt: None,
            events: events.into(),
        };
        handle.submit(request).map(|()| heard)
    }

    /// What it said, and how it ended.
    fn end(mut heard: mpsc::Receiver<TokenEvent>) -> (Vec<u32>, Finished) {
        let mut ids = Vec::new();
        while let Some(event) = heard.blocking_recv() {
            match event {
                TokenEvent::Token { id, .. } => ids.push(id),
                TokenEvent::Finished(finished) => return (ids, finished),
                TokenEvent::Prompt(_) => {}
            }
        }
        panic!("it never ended");
    }

    fn taken() -> Fault {
        Fault {
            rank: 1,
            moment: Moment::Restored,
            tensor: None,
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_wake_that_fails_answers_who_came_for_it_and_is_repeated_by_the_clock() {
        let handle = engine();
        handle.follow(IdlePolicy {
            after: Some((HOUR, SleepLevel::One)),
            wake_on_request: true,
        });
        let said = end(submit(&handle, 1, 5).unwrap()).0;
        // The clock may begin anew a moment after it answered.
        while handle.state() != EngineState::Asleep {
            handle.skip(HOUR);
            std::thread::yield_now();
        }
        assert!(handle.rest().reachable);
        for (times, seconds) in [(1, 1), (2, 2), (3, 4)] {
            handle.sabotage().plan(taken());
            if times == 1 {
                let (ids, finished) = end(submit(&handle, 2, 5).unwrap());
                assert_eq!((ids.len(), finished.reason), (0, FinishReason::NotWoken));
                let why = finished.message.unwrap();
                assert!(why.contains("taken by somebody else"), "{why}");
            } else {
                handle.skip(Duration::from_secs(seconds / 2));
            }
            let failed = || handle.stats().transitions[Transition::Wake as usize].failed;
            while failed() < times
                || handle.rest().again_after.map(|it| it.as_secs()) != Some(seconds)
            {
                std::thread::yield_now();
            }
            assert_eq!(handle.state(), EngineState::Asleep);
            assert!(!handle.rest().reachable, "no service should lead here");
            let again_after = Duration::from_secs(seconds);
            let Err(Refused::NotWoken {
                message,
                again_after: told,
            }) = submit(&handle, 3, 5)
            else {
                panic!("{:?}", handle.rest());
            };
            assert_eq!(told, again_after);
            assert!(message.contains("somebody else"), "{message}");
        }
        // Nobody asks again, and it wakes all the same.
        handle.skip(Duration::from_secs(4));
        comes_to(&handle, |state| *state == EngineState::Serving);
        assert_eq!(end(submit(&handle, 4, 5).unwrap()).0, said);
        assert_eq!(handle.rest().again_after, None);
    }

    #[test]
    fn a_wake_that_failed_is_not_repeated_once_a_target_puts_the_engine_to_sleep() {
        let handle = engine();
        handle.follow(IdlePolicy {
            after: None,
            wake_on_request: true,
        });
        let sleep = || {
            let slept = handle.sleep_for(Cause::Target, SleepLevel::One, PauseMode::Keep);
            assert_eq!(slept.wait(), Ok(()));
        };
        sleep();
        handle.sabotage().plan(taken());
        let (_, finished) = end(submit(&handle, 1, 5).unwrap());
        assert_eq!(finished.reason, FinishReason::NotWoken);
        sleep();
        assert_eq!(handle.rest().again_after, None);
        handle.skip(FIRST_PAUSE * 4);
        for _ in 0..2 {
            assert!(handle.check_weights().wait().is_ok());
        }
        assert_eq!(handle.state(), EngineState::Asleep);
        // The next request is another reason.
        assert_eq!(end(submit(&handle, 2, 5).unwrap()).0.len(), 5);
    }

    /// What a request would do, it does; and nothing is left of it for a later sleep.
    #[test]
    fn who_is_about_to_ask_wakes_what_a_request_would_wake_and_puts_the_clock_off() {
        let handle = engine();
        handle.follow(IdlePolicy {
            after: Some((HOUR, SleepLevel::One)),
            wake_on_request: true,
        });
        let looks = || assert!(handle.check_weights().wait().is_ok());
        // Awake: a second before it would fall asleep the hour begins anew.
        handle.skip(HOUR - Duration::from_secs(1));
        handle.rouse();
        looks();
        assert_eq!(handle.state(), EngineState::Serving);
        while handle.state() != EngineState::Asleep {
            handle.skip(HOUR);
            std::thread::yield_now();
        }
        handle.sabotage().plan(taken());
        handle.rouse();
        let failed = || handle.stats().transitions[Transition::Wake as usize].failed;
        while failed() == 0 || handle.rest().again_after.is_none() {
            std::thread::yield_now();
        }
        // Before its time it is not tried again, whoever comes.
        handle.rouse();
        looks();
        assert_eq!((failed(), handle.state()), (1, EngineState::Asleep));
        handle.skip(FIRST_PAUSE);
        comes_to(&handle, |state| *state == EngineState::Serving);
        assert_eq!(handle.rest().woken_by, Some(Cause::Request));

        let slept = handle.sleep_for(Cause::Hand, SleepLevel::One, PauseMode::Keep);
        assert_eq!(slept.wait(), Ok(()));
        handle.rouse();
        looks();
        assert_eq!(
            handle.state(),
            EngineState::Asleep,
            "who has the memory keeps it"
        );
    }

    #[test]
    fn who_was_kept_when_it_was_put_to_sleep_goes_on_although_the_first_wake_fails() {
        let handle = engine();
        let said = end(submit(&handle, 1, 60).unwrap()).0;
        handle.follow(IdlePolicy {
            after: Some((HOUR, SleepLevel::One)),
            wake_on_request: true,
        });
        let kept = submit(&handle, 2, 60).unwrap();
        while kept.is_empty() {
            std::thread::yield_now();
        }
        handle.sabotage().plan(taken());
        let slept = handle.sleep_for(Cause::Target, SleepLevel::One, PauseMode::Keep);
        assert_eq!(slept.wait(), Ok(()));
        // It has a request, and wakes for it at once; that fails.
        while handle.stats().transitions[Transition::Wake as usize].failed == 0 {
            std::thread::yield_now();
        }
        handle.skip(FIRST_PAUSE);
        let (ids, finished) = end(kept);
        assert_eq!((ids, finished.reason), (said, FinishReason::Length));
    }
}
