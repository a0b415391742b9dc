//! Every state that a container's limit and its engine can get into over three targets: the operator's
//! moves, a node that sees, carries out or refuses what was asked for, an engine that follows or
//! refuses, and takes no more than the kernel grants it; lost writes, lost memory of the operator.
//! Walked to its end.
//!
//! Taken for granted, as the operator takes it: a pod's status is never older than one that was seen
//! before, a report is of the container that runs ([`Engine::confirmed`]), a container begins with the
//! limit that its kubelet saw last, and with the file as it was when its engine was told.

use std::collections::HashSet;

use TargetOutcome::{Applied, Deferred, Refused};

use super::*;
use crate::pods::limit::{MemoryLimit, Resize};

/// What each target needs: it grows, shrinks below where it began, and comes back.
const STORIES: [[u64; 3]; 4] = [[2, 3, 1], [2, 1, 3], [3, 1, 2], [1, 3, 1]];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mood {
    Willing,
    /// It refuses more than it has.
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    needs: [u64; 3],
    /// The newest target, from 0.
    newest: usize,
    asked: u64,
    /// What the kubelet saw of that, what the kernel enforces, and what the pod's status says of both.
    seen: u64,
    enforced: u64,
    shown: (u64, u64),
    mood: Mood,
    /// The target that the engine was told last and what became of it, and what it may hold.
    engine: Option<(usize, TargetOutcome)>,
    holds: u64,
    /// It began again and waits for its limit.
    waits: bool,
    /// The target that it begins with then.
    boot: usize,
    /// It refused for its container's limit alone.
    short: bool,
    reported: Option<(usize, TargetOutcome)>,
    /// The target that the engine would begin again with.
    file: usize,
    /// A target on its way to the engine, and whether the operator saw the limit for it.
    call: Option<(usize, bool)>,
    /// What it answered last of those that it had the limit for, as the operator remembers.
    held: Option<usize>,
    /// What the operator asked for and remembers; whether it was refused.
    tried: Option<(u64, bool)>,
}

impl State {
    fn start(needs: [u64; 3]) -> State {
        State {
            needs,
            newest: 0,
            asked: needs[0],
            seen: needs[0],
            enforced: needs[0],
            shown: (needs[0], needs[0]),
            mood: Mood::Willing,
            engine: Some((0, Applied)),
            holds: needs[0],
            waits: false,
            boot: 0,
            short: false,
            reported: Some((0, Applied)),
            file: 0,
            call: None,
            held: None,
            tried: None,
        }
    }

    fn generation(target: usize) -> i64 {
        i64::try_from(target).unwrap() + 1
    }

    fn observed(&self) -> Engine {
        let (in_force, seen) = self.shown;
        let report = |(target, outcome)| TargetReport {
            generation: State::generation(target),
            outcome,
            message: String::new(),
            overage_bytes: 0,
        };
        let never = self.mood == Mood::Full && self.asked > in_force;
        let words = String::new();
        Engine {
            pod: "a".to_owned(),
            uid: "a".to_owned(),
            hears: Hears::Yes,
            reported: self.reported.map(report),
            confirmed: self.reported.is_some(),
            awake: true,
            limit: Some(Limit {
                wanted: self.needs[self.newest],
                is: MemoryLimit {
                    asked: Some(self.asked),
                    in_force: Some(in_force),
                    unseen: seen != self.asked,
                    resize: match never {
                        true => Resize::Pending { never, words },
                        false => Resize::Nothing,
                    },
                    sidecar: false,
                },
                unplaced: false,
                tried: self.tried.map(|(bytes, refused)| Tried {
                    bytes,
                    ago: Duration::ZERO,
                    refused: refused.then(String::new),
                }),
            }),
            tries: Tries {
                under_way: self.call.is_some(),
                held: self.held.map(State::generation),
                ..Tries::default()
            },
        }
    }

    fn steered(&self) -> Steer {
        steer(State::generation(self.newest), &[self.observed()])
    }

    /// The operator does what it decided, or a part of it, and may die after it.
    fn operated(self) -> Vec<State> {
        let Steer {
            tell,
            limits,
            raising,
            ..
        } = self.steered();
        let mut moves = vec![State {
            tried: None,
            held: None,
            ..self
        }];
        if !raising {
            let file = self.newest;
            moves.push(State { file, ..self });
        }
        if let Some((_, bytes)) = limits.first() {
            for tried in [None, Some((*bytes, false))] {
                let asked = *bytes;
                moves.push(State {
                    asked,
                    tried,
                    ..self
                });
            }
            let tried = Some((*bytes, true));
            moves.push(State { tried, ..self });
        }
        let written = raising || self.file == self.newest;
        if let Some(tell) = tell.first().filter(|_| written) {
            let call = Some((self.newest, tell.held));
            moves.push(State { call, ..self });
        }
        moves
    }

    /// A call arrives, or is lost.
    fn called(self) -> Vec<State> {
        let Some((target, held)) = self.call else {
            return Vec::new();
        };
        let gone = State { call: None, ..self };
        let newer = self.engine.is_some_and(|(newest, _)| newest > target);
        if newer {
            return vec![gone];
        }
        let need = self.needs[target];
        let told = |outcome, holds| State {
            engine: Some((target, outcome)),
            holds,
            short: false,
            waits: self.waits && outcome == Refused,
            boot: if outcome == Refused { self.boot } else { 0 },
            held: held.then_some(target),
            ..gone
        };
        if self.enforced < need {
            return vec![gone, gone.refuses((target, held))];
        }
        let deferred = told(Deferred, self.holds.max(need));
        let mut moves = vec![gone, told(Refused, self.holds), told(Applied, need)];
        // Who waits for its limit has nothing to give back.
        moves.extend((!self.waits).then_some(deferred));
        moves
    }

    /// Its container's limit does not hold a target.
    fn refuses(self, (target, held): (usize, bool)) -> State {
        State {
            engine: Some((target, Refused)),
            short: true,
            held: held.then_some(target),
            ..self
        }
    }

    fn engine_moves(self) -> Vec<State> {
        let mut moves = vec![State {
            reported: self.engine,
            ..self
        }];
        if let Some((target, Deferred)) = self.engine {
            moves.push(State {
                engine: Some((target, Applied)),
                holds: self.needs[target],
                ..self
            });
        }
        // It begins again, as the pod's spec was when the kubelet saw it, and says so before it holds.
        moves.push(State {
            engine: Some((self.file, Applied)),
            reported: None,
            holds: 0,
            waits: true,
            boot: self.file,
            short: false,
            enforced: self.seen,
            ..self
        });
        let need = self.needs[self.boot];
        if self.waits && self.enforced >= need {
            moves.push(State {
                holds: need,
                waits: false,
                boot: 0,
                ..self
            });
        }
        moves
    }

    fn node_moves(self) -> Vec<State> {
        let carries = self.mood == Mood::Willing || self.seen <= self.enforced;
        let mood = match self.mood {
            Mood::Willing => Mood::Full,
            Mood::Full => Mood::Willing,
        };
        let seen = self.asked;
        let enforced = if carries { self.seen } else { self.enforced };
        // It says that it saw a spec once nothing older is on its way.
        let quiet = self.seen == self.enforced || !carries;
        let shown = match quiet {
            true => (self.enforced, self.seen),
            false => (self.enforced, self.shown.1),
        };
        vec![
            State { mood, ..self },
            State { seen, ..self },
            State { enforced, ..self },
            State { shown, ..self },
        ]
    }

    fn moves(self) -> Vec<State> {
        let mut moves = self.operated();
        moves.extend(self.called());
        moves.extend(self.engine_moves());
        moves.extend(self.node_moves());
        if self.newest < 2 {
            let newest = self.newest + 1;
            moves.push(State { newest, ..self });
        }
        moves
    }

    fn check(&self) -> Result<(), String> {
        if self.holds > self.enforced {
            return Err("the engine may hold more than its container's limit".to_owned());
        }
        if self.holds > self.asked {
            return Err("less is asked for than the engine may hold".to_owned());
        }
        self.end()
    }

    /// Where it comes to rest once nothing fails any more.
    fn end(&self) -> Result<(), String> {
        let mut state = State {
            mood: Mood::Willing,
            ..*self
        };
        for _ in 0..16 {
            state = state.onward();
        }
        let (need, stand) = (state.needs[state.newest], state.steered().stand);
        let refused = state.engine == Some((state.newest, Refused)) && !state.short;
        let settled = match stand {
            Stand::Applied(_) => state.holds == need && state.enforced == need,
            Stand::Refused(_) => refused,
            Stand::Nobody | Stand::Pending(_) | Stand::Deferred(_) => false,
        };
        match settled {
            true => Ok(()),
            false => Err(format!("it does not settle: {state:?}, {stand:?}")),
        }
    }

    fn onward(mut self) -> State {
        self.tried = None;
        self.seen = self.asked;
        self.enforced = self.seen;
        self.shown = (self.enforced, self.seen);
        if self.waits && self.enforced >= self.needs[self.boot] {
            self.waits = false;
            self.holds = self.needs[self.boot];
        }
        if let Some((target, held)) = self.call.take()
            && self.engine.is_none_or(|(newest, _)| newest <= target)
        {
            if self.enforced < self.needs[target] {
                self = self.refuses((target, held));
            } else {
                self.engine = Some((target, Applied));
                self.holds = self.needs[target];
                (self.short, self.waits) = (false, false);
                self.held = held.then_some(target);
            }
        }
        if let Some((target, Deferred)) = self.engine {
            self.engine = Some((target, Applied));
            self.holds = self.needs[target];
        }
        self.reported = self.engine;
        let Steer {
            tell,
            limits,
            raising,
            ..
        } = self.steered();
        if let Some((_, bytes)) = limits.first() {
            self.asked = *bytes;
        }
        if !raising {
            self.file = self.newest;
        }
        if let Some(tell) = tell.first() {
            self.call = Some((self.newest, tell.held));
        }
        self
    }
}

#[test]
fn no_limit_is_ever_below_what_is_held_and_every_way_ends_at_the_newest_target() {
    let mut states = 0;
    for needs in STORIES {
        let start = State::start(needs);
        let mut seen = HashSet::from([start]);
        let mut rest = vec![start];
        while let Some(state) = rest.pop() {
            if let Err(why) = state.check() {
                panic!("{why}: {state:?}, {:?}", state.steered());
            }
            for next in state.moves() {
                if seen.insert(next) {
                    rest.push(next);
                }
            }
        }
        states += seen.len();
    }
    assert!(states > 10_000, "{states} states");
}
