//! Every state that one engine and its calls can get into over three generations: the operator's move
//! and all moves of its environment as a graph, walked to its end. Engines do not look at each
//! other, so what several come to is tried with all that one can be.

use std::collections::{BTreeMap, HashSet};

use TargetOutcome::{Applied, Deferred, Refused};

use super::*;

const GENERATIONS: i64 = 3;

/// What became of which generation.
type Told = Option<(i64, TargetOutcome)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    /// What the resource is at, and the engine's files.
    generation: i64,
    file: i64,
    hears: Hears,
    /// The truth, what the pod reported of it, and what it answered (and whether just now).
    engine: Told,
    reported: Told,
    answer: Option<(i64, TargetOutcome, bool)>,
    call: Option<i64>,
    /// For which generation, how often up to two, and whether its pause is over.
    failed: Option<(i64, u32, bool)>,
}

const START: State = State {
    generation: 1,
    file: 1,
    hears: Hears::Loading,
    engine: None,
    reported: None,
    answer: None,
    call: None,
    failed: None,
};

fn report((generation, outcome): (i64, TargetOutcome)) -> TargetReport {
    TargetReport {
        generation,
        outcome,
        message: String::new(),
        overage_bytes: u64::from(outcome == Deferred),
    }
}

impl State {
    fn seen(&self) -> Engine {
        Engine {
            pod: "a".to_owned(),
            uid: "a".to_owned(),
            hears: self.hears,
            reported: self.reported.map(report),
            confirmed: true,
            awake: true,
            limit: None,
            tries: Tries {
                what: What::Target,
                under_way: self.call.is_some(),
                failed: self.failed.map(|(generation, times, over)| Failed {
                    generation,
                    times,
                    ago: if over { pause(times) } else { Duration::ZERO },
                    words: "connect".to_owned(),
                }),
                answer: self.answer.map(|(generation, outcome, fresh)| {
                    let ago = if fresh { Duration::ZERO } else { ANSWER_HOLDS };
                    (report((generation, outcome)), ago)
                }),
                held: None,
            },
        }
    }

    fn steered(&self) -> Steer {
        steer(self.generation, &[self.seen()])
    }

    fn operated(mut self) -> State {
        if !self.steered().tell.is_empty() {
            self.call = Some(self.generation);
        }
        self
    }

    /// What the engine makes of a target, and the answer; `None`: it is older than the newest.
    fn takes(mut self, generation: i64, outcome: TargetOutcome) -> Option<State> {
        let newest = self.engine.map_or(0, |(newest, _)| newest);
        if generation < newest {
            return None;
        }
        self.engine = Some((generation, outcome));
        Some(self)
    }

    fn call_failed(mut self, generation: i64) -> State {
        let before = self.failed.filter(|(of, ..)| *of == generation);
        let times = before.map_or(1, |(_, times, _)| (times + 1).min(2));
        (self.call, self.failed) = (None, Some((generation, times, false)));
        self
    }

    fn starts_again(mut self) -> State {
        (self.hears, self.engine, self.reported) = (Hears::Loading, None, None);
        self
    }

    fn loaded(mut self) -> State {
        self.hears = Hears::Yes;
        self.engine = Some((self.file, Applied));
        self.reported = self.engine;
        self
    }

    fn heard(mut self) -> State {
        (self.hears, self.reported) = (Hears::Yes, self.engine);
        self
    }

    fn later(mut self) -> State {
        self.failed = self.failed.map(|(of, times, _)| (of, times, true));
        self.answer = self.answer.map(|(of, outcome, _)| (of, outcome, false));
        self
    }

    fn call_ended(&self, moves: &mut Vec<State>) {
        let Some(generation) = self.call else { return };
        moves.push(self.call_failed(generation));
        if matches!(self.hears, Hears::Loading | Hears::Ends) {
            return;
        }
        for outcome in [Applied, Deferred, Refused] {
            let Some(taken) = self.takes(generation, outcome) else {
                continue;
            };
            // The answer may be lost on its way.
            moves.push(taken.call_failed(generation));
            moves.push(State {
                call: None,
                failed: None,
                answer: Some((generation, outcome, true)),
                ..taken
            });
        }
    }

    fn moves(&self) -> Vec<State> {
        let mut moves = vec![self.operated(), self.later()];
        self.call_ended(&mut moves);
        moves.push(State {
            file: self.generation,
            ..*self
        });
        if self.generation < GENERATIONS {
            moves.push(State {
                generation: self.generation + 1,
                ..*self
            });
        }
        if self.hears != Hears::Ends {
            moves.push(State {
                hears: Hears::Ends,
                ..*self
            });
            moves.push(self.starts_again());
        }
        match self.hears {
            Hears::Loading => moves.push(self.loaded()),
            Hears::Yes | Hears::Silent => {
                moves.extend([
                    self.heard(),
                    State {
                        hears: Hears::Silent,
                        ..*self
                    },
                ]);
                if let Some((generation, Deferred)) = self.engine {
                    moves.push(State {
                        engine: Some((generation, Applied)),
                        ..*self
                    });
                }
            }
            Hears::Ends => {}
        }
        moves
    }

    /// How it goes on when nothing fails any more.
    fn onward(self) -> State {
        let mut next = State {
            file: self.generation,
            ..self
        };
        if let (Some(generation), true) = (next.call, next.hears == Hears::Yes) {
            next = match next.takes(generation, Applied) {
                Some(taken) => State {
                    call: None,
                    failed: None,
                    answer: Some((generation, Applied, true)),
                    ..taken
                },
                None => next.call_failed(generation),
            };
        } else if let Some(generation) = next.call {
            next = next.call_failed(generation);
        }
        if let Some((generation, Deferred)) = next.engine {
            next.engine = Some((generation, Applied));
        }
        next = match next.hears {
            Hears::Loading => next.loaded(),
            Hears::Yes | Hears::Silent => next.heard(),
            Hears::Ends => next,
        };
        next.later().operated()
    }

    fn check(&self) -> Result<(), String> {
        let Steer {
            tell,
            limits: _,
            look_again,
            stand,
            resizing: _,
            raising: _,
        } = self.steered();
        let known = self.answer.filter(|(.., fresh)| *fresh);
        let known = known
            .map_or(0, |(of, ..)| of)
            .max(self.reported.map_or(0, |(of, _)| of));
        if !tell.is_empty() && (self.hears != Hears::Yes || self.call.is_some()) {
            return Err("told while it cannot be, or while it is being told".to_owned());
        }
        if !tell.is_empty() && known >= self.generation {
            return Err("told again".to_owned());
        }
        if self.failed == Some((self.generation, 1, false)) && !tell.is_empty() {
            return Err("told again at once".to_owned());
        }
        let waits_for_time = match &stand {
            Stand::Pending(words) => words.contains("could not be told"),
            _ => false,
        };
        if waits_for_time && look_again.is_none() {
            return Err("nobody looks again".to_owned());
        }
        if let Stand::Applied(_) = stand {
            let told = self.reported == Some((self.generation, Applied))
                || self.answer == Some((self.generation, Applied, true));
            if !told {
                return Err("said to be in force, and nobody said so".to_owned());
            }
            if self.answer.is_some_and(|(.., fresh)| fresh)
                && self.reported != Some((self.generation, Applied))
                && look_again.is_none()
            {
                return Err("an answer counts for ever".to_owned());
            }
        }
        self.end()
    }

    /// Where it comes to rest, once nothing fails any more.
    fn end(&self) -> Result<(), String> {
        let mut state = *self;
        for _ in 0..12 {
            state = state.onward();
        }
        let settled = match (state.hears, state.engine) {
            (Hears::Ends, _) => state.steered().stand == Stand::Nobody,
            (_, Some((generation, Applied))) if generation == self.generation => {
                matches!(state.steered().stand, Stand::Applied(_))
            }
            (_, Some((generation, Refused))) if generation == self.generation => {
                matches!(state.steered().stand, Stand::Refused(_))
            }
            _ => false,
        };
        match settled {
            true => Ok(()),
            false => Err(format!("it does not settle: {state:?}")),
        }
    }
}

fn reachable() -> HashSet<State> {
    let mut seen = HashSet::from([START]);
    let mut rest = vec![START];
    while let Some(state) = rest.pop() {
        for next in state.moves() {
            if seen.insert(next) {
                rest.push(next);
            }
        }
    }
    seen
}

#[test]
fn an_engine_is_told_once_and_in_the_end_whatever_happens_to_it_and_to_calls() {
    let states = reachable();
    assert!(states.len() > 10_000, "{} states", states.len());
    for state in &states {
        if let Err(why) = state.check() {
            panic!("{why}: {state:?} leads to {:?}", state.steered());
        }
    }
}

#[test]
fn several_engines_come_to_what_each_comes_to() {
    // One of each kind of answer that a single engine gives.
    let mut kinds = BTreeMap::new();
    for state in reachable().into_iter().filter(|it| it.generation == 2) {
        let steer = state.steered();
        let kind = format!("{:?}{:?}{:?}", steer.tell, steer.look_again, steer.stand);
        kinds.entry(kind).or_insert((state.seen(), steer));
    }
    assert!(kinds.len() >= 10, "{:?}", kinds.keys());
    let named = |(engine, steer): &(Engine, Steer), name: &str| {
        let (pod, uid) = (name.to_owned(), name.to_owned());
        (
            Engine {
                pod,
                uid,
                ..engine.clone()
            },
            steer.clone(),
        )
    };
    for first in kinds.values() {
        for second in kinds.values() {
            for third in kinds.values() {
                let all = [named(first, "a"), named(second, "b"), named(third, "c")];
                let engines: Vec<Engine> = all.iter().map(|(engine, _)| engine.clone()).collect();
                let together = steer(2, &engines);
                let told = all.iter().filter(|(_, alone)| !alone.tell.is_empty());
                let told: Vec<&String> = told.map(|(engine, _)| &engine.uid).collect();
                let tell: Vec<&String> = together.tell.iter().map(|it| &it.uid).collect();
                assert_eq!(tell, told);
                let again = all.iter().filter_map(|(_, alone)| alone.look_again).min();
                assert_eq!(together.look_again, again);
                let worst = all.iter().map(|(_, alone)| alone.stand.rank()).max();
                assert_eq!(Some(together.stand.rank()), worst, "{together:?}");
            }
        }
    }
}
