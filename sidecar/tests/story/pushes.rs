//! Weights that are sent, to the end or not, and what may happen in the midst of it.

use plimsoll_sidecar::engine::control::{Commands, ControlError};
use plimsoll_sidecar::engine::handle::EngineState;
use plimsoll_sidecar::engine::rest::PauseMode::Keep;
use plimsoll_sidecar::engine::rest::SleepLevel;
use plimsoll_sidecar::engine::weights::Abandoned;

use super::Story;
use super::world::Set;
use crate::harness::sent::{file, send};

impl Story<'_> {
    pub(super) fn push(&mut self) {
        let away = self.away();
        // A part is enough where the rest is there, and nothing says that it is not whole.
        let doubted = self.handle.rest().weights_verified == Some(false);
        let part = !self.lost() && !away && !doubted && self.rolls(4);
        let set = match part {
            true => self.now,
            false => self.dice.roll(2),
        };
        assert_eq!(self.handle.open_push(!part, Keep).wait(), Ok(()));
        let said = self.said();
        let mut names = self.handle.pushable().needed().to_vec();
        let second = names.split_off(names.len() / 2);
        let halves = match part {
            true => [&second[..1], &[]],
            false => [&names[..], &second[..]],
        };
        match self.dice.roll(7) {
            0 => return self.given_up(away, None),
            1 => {
                self.send(set, halves[0]);
                return self.given_up(away, Some(set));
            }
            2 => {
                self.send(set, halves[0]);
                return self.put_to_sleep();
            }
            _ => self.send(set, halves[0]),
        }
        match self.dice.roll(4) {
            0 => {
                self.resize();
                self.happened("resizes in the midst of a push");
            }
            1 => assert_eq!(self.handle.sleep(SleepLevel::One, Keep).wait(), Ok(())),
            _ => {}
        }
        self.send(set, halves[1]);
        assert_eq!(self.said(), said, "computed with a mixture");
        assert!(self.handle.close_push(None).wait().is_ok());
        self.happened(match (part, set == self.now) {
            (true, _) => "pushes of a part",
            (false, true) => "pushes of the same weights",
            (false, false) => "pushes of other weights",
        });
        self.adopted(set, &said);
        self.pushed = true;
    }

    fn send(&mut self, set: Set, names: &[String]) {
        if names.is_empty() {
            return;
        }
        let tensors = &*self.world.models[set].tensors;
        let body = file(tensors, names.iter().map(String::as_str));
        assert_eq!(send(&self.handle, &body, &mut self.dice), Ok(()));
    }

    /// `away`: the memory of the weights was, and was taken for the push. `wrote`: the first half of these.
    fn given_up(&mut self, away: bool, wrote: Option<Set>) {
        let left = self.handle.abandon_push("a dice said so".to_owned()).wait();
        let expected = match (away, wrote) {
            (true, _) => Abandoned::Away,
            (false, Some(_)) => Abandoned::OutOfService,
            (false, None) => Abandoned::Unharmed,
        };
        assert_eq!(left, Ok(expected));
        if expected == Abandoned::OutOfService {
            // The same once more over themselves are what they were: a wake proves it.
            self.torn = wrote != Some(self.now);
            assert_eq!(self.handle.state(), EngineState::Asleep);
        }
        self.happened(match wrote {
            Some(_) => "pushes given up half way",
            None => "pushes given up before a byte",
        });
    }

    /// A sleep that takes the weights away ends the push.
    fn put_to_sleep(&mut self) {
        assert_eq!(self.handle.sleep(SleepLevel::Two, Keep).wait(), Ok(()));
        self.went();
        let late = self.handle.close_push(None).wait();
        assert!(
            matches!(late, Err(ControlError::WrongState { .. })),
            "{late:?}"
        );
        self.happened("pushes ended by a sleep");
    }
}
