//! `spec.sleep`: whether engines hold their memory, and what they may do about it by themselves.
//!
//! | state | idleAfter | wakeOnRequest | an engine |
//! |---|---|---|---|
//! | Awake | absent | whichever | is awake |
//! | Awake | written | false | falls asleep by its clock and leaves the Service, until it is woken by hand or idleAfter is taken away |
//! | Awake | written | true | falls asleep by its clock, stays in the Service, and wakes for a request |
//! | Sleeping | whichever | false | sleeps, outside the Service; idleAfter means nothing |
//! | Sleeping | absent or written | true | sleeps in the Service, wakes for a request, and sleeps again when it idles so long (5m when absent) |

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::span_rules;

/// Whether the engines hold their memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SleepSpec {
    /// Sleeping: the engines give memory back, and go on with what they were doing once they are
    /// awake. Awake: they take it again, prove that weights and answers are as before, and serve.
    #[serde(default)]
    pub state: SleepState,
    /// What a sleeping engine gives back. 1: the KV cache and all scratch memory. 2: the weights,
    /// too, which a wake then reads again. An engine that sleeps never takes memory: from 2 to 1
    /// nothing changes before the next wake.
    #[serde(default = "sleep_level")]
    #[schemars(extend("enum" = [1, 2]))]
    pub level: u32,
    /// An engine that is awake falls asleep, at `level`, after so long without a request or a command,
    /// by its own clock: each pod for itself. A span such as 90s, 15m or 1h30m, from 1s to 168h;
    /// absent, engines of state Awake never do, and those of state Sleeping that a request woke do
    /// after 5m. Without wakeOnRequest such a pod leaves the Service until it is woken: by hand, or by
    /// taking idleAfter away. A paused engine never falls asleep. One whose weights were pushed, which
    /// no file has, falls asleep at level 1 whatever `level` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", extend(
        "maxLength" = 16,
        "x-kubernetes-validations" = span_rules(),
    ))]
    pub idle_after: Option<Span>,
    /// True: an engine that sleeps, by its own clock or by state Sleeping, stays ready and in the
    /// Service. The first request wakes it; that one and those that come meanwhile wait in the engine's
    /// queue (one too many is a 429), at most two minutes (then a 503 with Retry-After). False: such
    /// an engine answers 503. Who put an engine to sleep on its control routes has its memory until
    /// it is woken there or by a change of state: no request wakes that one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wake_on_request: bool,
}

const fn sleep_level() -> u32 {
    1
}

impl SleepSpec {
    /// The level that the engines should sleep at, if they should.
    pub fn asked(&self) -> Option<u32> {
        (self.state == SleepState::Sleeping).then_some(self.level)
    }

    /// After how many seconds without a request an engine that is awake should fall asleep, if it
    /// should.
    pub fn idle_seconds(&self) -> Option<u32> {
        let written = self.idle_after.as_ref().map(Span::seconds);
        match self.state {
            SleepState::Awake => written,
            SleepState::Sleeping if self.wake_on_request => {
                Some(written.unwrap_or(IDLE_AFTER_REQUEST_SECONDS))
            }
            // Whoever wakes it by hand puts it to sleep again.
            SleepState::Sleeping => None,
        }
    }
}

/// How long an engine of state Sleeping that a request woke stays awake after the last one.
pub const IDLE_AFTER_REQUEST_SECONDS: u32 = 300;

/// Whether engines are awake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SleepState {
    #[default]
    Awake,
    Sleeping,
}

/// A span of time in whole seconds, written in hours, minutes and seconds: 90s, 15m, 1h30m.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span {
    text: String,
    seconds: u32,
}

/// What spans there are, in seconds.
const SPAN_SECONDS: std::ops::RangeInclusive<u32> = 1..=168 * 3600;

/// A text that is no span, or one out of bounds.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no span from 1s to 168h; write e.g. 90s, 15m or 1h30m")]
pub struct NoSpan(String);

impl Span {
    pub fn seconds(&self) -> u32 {
        self.seconds
    }
}

impl TryFrom<String> for Span {
    type Error = NoSpan;

    fn try_from(text: String) -> Result<Span, NoSpan> {
        match seconds(&text).filter(|seconds| SPAN_SECONDS.contains(seconds)) {
            Some(seconds) => Ok(Span { text, seconds }),
            None => Err(NoSpan(text.chars().take(40).collect())),
        }
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        span.text
    }
}

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Each unit at most once, in this order, as the rule of the API has it.
fn seconds(text: &str) -> Option<u32> {
    let mut rest = text;
    let mut all = None;
    for (unit, worth) in [('h', 3600), ('m', 60), ('s', 1)] {
        let Some((digits, after)) = rest.split_once(unit) else {
            continue;
        };
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let count: u32 = digits.parse().ok()?;
        let sum: u32 = all.unwrap_or(0);
        all = Some(sum.checked_add(count.checked_mul(worth)?)?);
        rest = after;
    }
    all.filter(|_| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_whole_seconds_from_one_second_to_a_week() {
        for (text, seconds) in [
            ("1s", Some(1)),
            ("90s", Some(90)),
            ("15m", Some(900)),
            ("1h30m", Some(5400)),
            ("1h0m5s", Some(3605)),
            ("168h", Some(604_800)),
            ("007s", Some(7)),
            ("", None),
            ("0s", None),
            ("168h1s", None),
            ("5", None),
            ("s", None),
            ("5s5m", None),
            ("1m1m", None),
            ("-5s", None),
            ("1.5h", None),
            ("500ms", None),
            ("5 s", None),
            ("99999999h", None),
            ("4294967296s", None),
        ] {
            let span = Span::try_from(text.to_owned()).ok();
            assert_eq!(span.map(|span| span.seconds()), seconds, "{text}");
        }
    }

    #[test]
    fn which_engines_go_by_their_clock() {
        let span = || Span::try_from("7s".to_owned()).ok();
        let spec = |state, idle_after, wake_on_request| SleepSpec {
            state,
            level: 1,
            idle_after,
            wake_on_request,
        };
        for (state, idle, wakes, seconds) in [
            (SleepState::Awake, None, false, None),
            (SleepState::Awake, None, true, None),
            (SleepState::Awake, span(), false, Some(7)),
            (SleepState::Awake, span(), true, Some(7)),
            (SleepState::Sleeping, span(), false, None),
            (SleepState::Sleeping, None, true, Some(300)),
            (SleepState::Sleeping, span(), true, Some(7)),
        ] {
            let spec = spec(state, idle, wakes);
            assert_eq!(spec.idle_seconds(), seconds, "{spec:?}");
        }
    }
}
