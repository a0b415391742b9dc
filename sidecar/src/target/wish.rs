//! What a target asks for beside memory, and what it leaves to the engine's own clock.

use std::time::Duration;

use plimsoll_crds::v1alpha1::target::{SleepOrder, TargetIdle, TargetSleep};

use crate::engine::clock::IdlePolicy;
use crate::engine::rest::SleepLevel;

/// What a target asks for beside its memory. It is spoken of again only when it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Awake,
    /// Awake, and left to its own clock.
    UntilIdle,
    Asleep(TargetSleep),
    /// Asleep until a request comes, and again when it idles.
    UntilAsked(TargetSleep),
}

impl Wish {
    pub(super) fn of(order: &SleepOrder) -> Wish {
        match (order.sleep, order.idle) {
            (Some(sleep), _) if order.wake_on_request => Wish::UntilAsked(sleep),
            (Some(sleep), _) => Wish::Asleep(sleep),
            (None, Some(_)) => Wish::UntilIdle,
            (None, None) => Wish::Awake,
        }
    }

    /// Whether an engine that was told `self` is where `next` wants it: who begins to go by its clock
    /// stays awake or asleep.
    pub(super) fn holds_for(self, next: Wish) -> bool {
        self == next || (self, next) == (Wish::Awake, Wish::UntilIdle)
    }
}

/// What a target leaves to the engine itself.
pub(super) fn policy(order: &SleepOrder) -> IdlePolicy {
    let after =
        |TargetIdle {
             after_seconds,
             level,
         }: TargetIdle| { (Duration::from_secs(after_seconds.into()), deep(level)) };
    IdlePolicy {
        after: order.idle.map(after),
        wake_on_request: order.wake_on_request,
    }
}

/// The level of a target's sleep. The deepest there is holds for any deeper one.
pub fn deep(level: u32) -> SleepLevel {
    match level < 2 {
        true => SleepLevel::One,
        false => SleepLevel::Two,
    }
}
