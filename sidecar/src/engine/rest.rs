//! Words for an engine that computes nothing: how requests are treated, what sleeps, and how a
//! transition went.

use std::time::Duration;

use plimsoll_planner::Account;

use super::request::Refused;

/// What becomes of the requests there are when the engine stops computing. Those that come later are
/// held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PauseMode {
    /// They end with `FinishReason::Abort`.
    Abort,
    /// They are finished first.
    Wait,
    /// They stay where they are and go on afterwards.
    Keep,
}

impl PauseMode {
    pub fn name(self) -> &'static str {
        match self {
            PauseMode::Abort => "abort",
            PauseMode::Wait => "wait",
            PauseMode::Keep => "keep",
        }
    }
}

/// Who asked for a sleep or a wake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Somebody on the control routes.
    Hand,
    /// The operator's target.
    Target,
    /// The engine's own clock.
    Idle,
    /// A request that found the engine asleep.
    Request,
}

impl Cause {
    pub const ALL: [Cause; 4] = [Cause::Hand, Cause::Target, Cause::Idle, Cause::Request];

    /// The `reason` label of metrics and of the log.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Hand => "control",
            Cause::Target => "target",
            Cause::Idle => "idle",
            Cause::Request => "request",
        }
    }
}

/// How deep a sleep is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SleepLevel {
    /// Nothing is given back; scheduling only is paused.
    Zero,
    /// The KV cache and all scratch memory are given back; weights stay.
    One,
    /// The weights, too: a wake reads them again.
    Two,
}

impl SleepLevel {
    pub fn number(self) -> u8 {
        match self {
            SleepLevel::Zero => 0,
            SleepLevel::One => 1,
            SleepLevel::Two => 2,
        }
    }

    /// What is given back at this level.
    pub fn tags(self) -> Tags {
        Tags {
            kv_cache: self >= SleepLevel::One,
            weights: self >= SleepLevel::Two,
        }
    }
}

/// Where weights are, on the device and in host memory: they go and come together.
pub(super) const WEIGHTS: [Account; 2] = [Account::Offload, Account::Weights];

/// Parts of the memory that go and come back apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tags {
    pub weights: bool,
    /// The KV cache, and with it all memory that means nothing between two steps.
    pub kv_cache: bool,
}

impl Tags {
    pub const ALL: Tags = Tags {
        weights: true,
        kv_cache: true,
    };

    pub fn holds(self, account: Account) -> bool {
        match account {
            Account::Weights | Account::Offload | Account::Adapters => self.weights,
            Account::KvCache | Account::Activations | Account::Workspaces | Account::Comm => {
                self.kv_cache
            }
            Account::Graphs | Account::Context => false,
        }
    }
}

/// Why and how an engine that lives computes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestView {
    /// A pause was finished, and nobody said go on since.
    pub paused: bool,
    /// Of the sleep that has not ended yet.
    pub level: Option<SleepLevel>,
    /// Who asked for that sleep. Once it was asked for by hand it stays so, whoever asks, too.
    pub cause: Option<Cause>,
    /// Who asked for the last wake that brought everything back.
    pub woken_by: Option<Cause>,
    /// A request would wake the engine from it.
    pub reachable: bool,
    /// A wake for a request failed, and is repeated within this time.
    pub again_after: Option<Duration>,
    /// Accounts whose memory is given back, on every rank.
    pub out: Vec<Account>,
    /// Whether weights and answers were what they were after the load, at the last wake.
    pub weights_verified: Option<bool>,
    /// A part of the KV cache is still to be taken, behind the first requests.
    pub filling: bool,
    /// Weights are being written that come piece by piece.
    pub updating: bool,
    /// Why the last wake or update did not bring the engine back; empty when it did.
    pub trouble: String,
}

impl RestView {
    /// Memory is away, or what is in it is not what it should be.
    pub fn is_out(&self) -> bool {
        !self.out.is_empty() || self.weights_verified == Some(false)
    }

    /// Nothing may be computed: as [`RestView::is_out`], or weights are being written.
    pub fn is_idle(&self) -> bool {
        self.is_out() || self.updating
    }

    /// Whether an engine that is asleep takes a request, and wakes for it.
    ///
    /// # Errors
    /// Why not.
    pub fn admits(&self) -> Result<(), Refused> {
        match self.again_after {
            _ if self.reachable => Ok(()),
            Some(again_after) => Err(Refused::NotWoken {
                message: self.trouble.clone(),
                again_after,
            }),
            None => Err(Refused::Asleep),
        }
    }

    /// As vLLM counts it: until everything is back and scheduling goes on.
    pub fn is_sleeping(&self) -> bool {
        self.is_out() || self.level.is_some()
    }
}

/// A change of what the engine holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transition {
    Sleep,
    ReleaseKvCache,
    Wake,
    /// Other weights over those in force.
    Update,
    /// Another size of the KV cache.
    Resize,
}

impl Transition {
    pub const ALL: [Transition; 5] = [
        Transition::Sleep,
        Transition::ReleaseKvCache,
        Transition::Wake,
        Transition::Update,
        Transition::Resize,
    ];

    /// The `kind` label of metrics, and vLLM's `operation` where it has one.
    pub fn name(self) -> &'static str {
        match self {
            Transition::Sleep => "sleep",
            Transition::ReleaseKvCache => "release_kv_cache_memory",
            Transition::Wake => "wake",
            Transition::Update => "update",
            Transition::Resize => "resize",
        }
    }
}

/// Upper edges in seconds, inclusive, of [`TransitionCounts::times`]: within vLLM's 0.01 to 600.
pub const TRANSITION_EDGES: [f64; 14] = [
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];

/// What was counted of one kind of transition.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TransitionCounts {
    pub done: u64,
    pub failed: u64,
    pub time: Duration,
    /// By seconds, one count per edge; the last is of those past all edges.
    pub times: [u64; TRANSITION_EDGES.len() + 1],
    /// Bytes of all ranks together.
    pub given_back_bytes: u64,
    pub taken_bytes: u64,
    /// In the order of [`Cause::ALL`]: who asked, whatever came of it.
    pub causes: [u64; Cause::ALL.len()],
}

impl TransitionCounts {
    pub(crate) fn count(&mut self, done: bool, time: Duration, cause: Cause) {
        *(if done {
            &mut self.done
        } else {
            &mut self.failed
        }) += 1;
        self.time += time;
        self.causes[cause as usize] += 1;
        let seconds = time.as_secs_f64();
        self.times[TRANSITION_EDGES.partition_point(|edge| *edge < seconds)] += 1;
    }
}
