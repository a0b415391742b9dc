//! An engine's life in random order, with what must be true of it told beside it: whose weights answer,
//! from which token on, and whether anything but new weights can bring the engine back.
#![allow(unreachable_pub, reason = "a part of a test")]

mod pushes;
pub mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_planner::Account;
use plimsoll_sidecar::engine::clock::IdlePolicy;
use plimsoll_sidecar::engine::control::{Commands, ControlError, Woken};
use plimsoll_sidecar::engine::handle::{EngineHandle, EngineState};
use plimsoll_sidecar::engine::request::Refused;
use plimsoll_sidecar::engine::rest::PauseMode::Keep;
use plimsoll_sidecar::engine::rest::{Cause, SleepLevel, Tags, Transition};

use crate::harness::{Answer, Dice, Run, eventually, size, start, try_ask};
use world::{Set, TOKENS, World, sums};

const HOUR: Duration = Duration::from_secs(3600);
const AWAKE: Result<Woken, ControlError> = Ok(Woken { asleep: false });

/// How often what happened, in all stories that share it.
pub type Tally = BTreeMap<&'static str, u64>;

/// One request under way.
struct Asked {
    prompt: usize,
    answer: Answer,
    /// From which token on which weights answer.
    turns: Vec<(usize, Set)>,
}

pub struct Story<'a> {
    world: &'a World,
    run: Run,
    handle: EngineHandle,
    dice: Dice,
    tally: &'a mut Tally,
    asked: Vec<Asked>,
    /// The weights that answer, or would.
    now: Set,
    /// Those of the files that were read last.
    files: Set,
    /// No file has those that are in force.
    pushed: bool,
    /// They went with a sleep: no wake brings the engine back before weights are written.
    gone: bool,
    /// A part of others was written over them: neither does a wake.
    torn: bool,
    paused: bool,
    policy: IdlePolicy,
}

impl<'a> Story<'a> {
    pub fn new(world: &'a World, run: Run, seed: u64, tally: &'a mut Tally) -> Story<'a> {
        let mut story = Story {
            handle: start(&world.models[0], &run),
            world,
            run,
            dice: Dice(seed),
            tally,
            asked: Vec::new(),
            now: 0,
            files: 0,
            pushed: false,
            gone: false,
            torn: false,
            paused: false,
            policy: IdlePolicy::default(),
        };
        story.follow();
        story
    }

    /// For whoever reads of a failure.
    fn tell(&self, what: &str) {
        let (state, rest) = (self.handle.state(), self.handle.rest());
        let level = rest.level.map(SleepLevel::number);
        println!("{what}: {state:?}, level {level:?}, away {:?}", rest.out);
    }

    fn happened(&mut self, what: &'static str) {
        self.tell(what);
        *self.tally.entry(what).or_default() += 1;
    }

    fn rolls(&mut self, one_in: usize) -> bool {
        self.dice.roll(one_in) == 0
    }

    fn serves(&self) -> bool {
        self.handle.state() == EngineState::Serving
    }

    fn lost(&self) -> bool {
        self.gone || self.torn
    }

    /// Whether the memory of the weights is given back.
    fn away(&self) -> bool {
        self.handle.rest().out.contains(&Account::Weights)
    }

    /// One thing more happens.
    pub fn go_on(&mut self) {
        if !self.lost() && self.rolls(2) {
            return self.ask();
        }
        match self.dice.roll(25) {
            0..3 => self.sleep(),
            3..6 => self.wake(),
            6 => {
                let clears = self.rolls(2);
                assert_eq!(self.handle.pause(Keep, clears).wait(), Ok(()));
                self.paused = true;
            }
            7..9 => self.resume(),
            9 => {
                let running = self.rolls(2);
                assert_eq!(self.handle.reset_prefix_cache(running).wait(), Ok(()));
            }
            10 => self.replace(self.files),
            11 => {
                let set = self.dice.roll(2);
                self.replace(set);
            }
            12..15 => self.push(),
            15 => self.resize(),
            16 => match self.handle.release_kv_cache().wait() {
                Ok(()) => assert!(self.paused),
                Err(ControlError::WrongState { .. }) => {}
                Err(error) => panic!("{error}"),
            },
            17 => self.follow(),
            18..22 => self.time_passes(),
            _ => self.bring_back(),
        }
    }

    fn resume(&mut self) {
        assert_eq!(self.handle.resume().wait(), Ok(()));
        self.paused = false;
    }

    fn bring_back(&mut self) {
        if self.lost() {
            let woken = self.handle.wake(Tags::ALL).wait();
            let refused = matches!(woken, Err(ControlError::NotWoken { .. }));
            assert!(refused, "{woken:?} with no weights to answer with");
            self.happened("wakes that no weights were there for");
            self.replace(self.files);
        }
        assert_eq!(self.handle.wake(Tags::ALL).wait(), AWAKE);
        self.resume();
    }

    fn ask(&mut self) {
        let prompt = self.dice.roll(self.world.prompts.len());
        let asleep = self.handle.state() == EngineState::Asleep;
        let (id, ids) = (self.asked.len() as u64, &self.world.prompts[prompt]);
        match try_ask(&self.handle, id, ids, TOKENS as u32) {
            Ok(answer) => self.asked.push(Asked {
                prompt,
                answer,
                turns: vec![(0, self.now)],
            }),
            Err(Refused::Asleep) => return,
            Err(other) => panic!("{other}"),
        }
        if asleep {
            // Its clock had put it to sleep.
            eventually("a wake for a request", || self.serves());
            self.happened("wakes for a request");
        }
    }

    fn sleep(&mut self) {
        let level = [SleepLevel::Zero, SleepLevel::One, SleepLevel::Two][self.dice.roll(3)];
        let goes = level == SleepLevel::Two && !self.away();
        assert_eq!(self.handle.sleep(level, Keep).wait(), Ok(()));
        self.tell("sleep");
        if goes {
            self.went();
        }
    }

    /// Weights go with a sleep; files bring them back.
    fn went(&mut self) {
        (self.gone, self.torn) = (self.pushed, false);
    }

    fn wake(&mut self) {
        let [weights, kv_cache] = [[true, true], [true, false], [false, true]][self.dice.roll(3)];
        let tags = Tags { weights, kv_cache };
        let woken = self.handle.wake(tags).wait();
        self.tell("wake");
        match woken {
            Ok(woken) => {
                assert!(
                    woken.asleep || !self.lost(),
                    "it woke with nothing to answer"
                );
                assert!(!woken.asleep || self.lost() || tags != Tags::ALL);
            }
            Err(ControlError::NotWoken { message }) => {
                assert!(self.lost(), "{message}");
                self.happened("wakes that no weights were there for");
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn resize(&mut self) {
        let least = self.run.max_model_len.div_ceil(self.run.block_size);
        let blocks = least + self.dice.roll(150) as u32;
        let size = size(&self.world.models[0], &self.run, blocks);
        let resized = self.handle.resize(size).wait().unwrap();
        assert_eq!(resized.kv_blocks, blocks + 1);
    }

    fn follow(&mut self) {
        let level = [SleepLevel::One, SleepLevel::Two][self.dice.roll(2)];
        self.policy = IdlePolicy {
            after: (!self.rolls(4)).then_some((HOUR, level)),
            wake_on_request: !self.rolls(3),
        };
        self.handle.follow(self.policy);
    }

    /// Whoever asked is answered, and then nobody asks for an hour.
    fn time_passes(&mut self) {
        let (true, Some((_, level))) = (self.serves(), self.policy.after) else {
            return self.handle.skip(HOUR);
        };
        let asked = &self.asked;
        eventually("all answers", || {
            asked.iter().all(|it| it.answer.events() > TOKENS)
        });
        eventually("a sleep by its clock", || {
            self.handle.skip(HOUR);
            self.handle.state() == EngineState::Asleep
        });
        let rest = self.handle.rest();
        // Nobody's clock throws pushed weights away.
        let level = if self.pushed { SleepLevel::One } else { level };
        assert_eq!((rest.level, rest.cause), (Some(level), Some(Cause::Idle)));
        self.happened("sleeps by its clock");
    }

    /// Tokens that each request has, while nothing is computed.
    fn said(&self) -> Vec<usize> {
        let each = self.asked.iter();
        each.map(|it| it.answer.events().min(TOKENS)).collect()
    }

    /// From now on these weights answer; `said`: what was said before.
    fn adopted(&mut self, set: Set, said: &[usize]) {
        if set != self.now {
            for (asked, said) in self.asked.iter_mut().zip(said) {
                asked.turns.push((*said, set));
            }
        }
        (self.now, self.gone, self.torn) = (set, false, false);
    }

    /// Weights of a folder, while requests are held.
    fn replace(&mut self, set: Set) {
        let held = set != self.now && !self.paused;
        if held {
            assert_eq!(self.handle.pause(Keep, false).wait(), Ok(()));
        }
        let said = self.said();
        let folder = self.world.folders[set].path();
        let weights = Arc::new(self.handle.open_weights(folder).unwrap());
        self.handle.update(weights, None, Keep).wait().unwrap();
        self.happened(match set == self.now {
            true => "reads of a folder with the same weights",
            false => "reads of a folder with other weights",
        });
        self.adopted(set, &said);
        (self.files, self.pushed) = (set, false);
        if held {
            assert_eq!(self.handle.resume().wait(), Ok(()));
        }
    }

    /// All is brought back, and every request was answered as it had to be.
    pub fn end(mut self) {
        self.handle.follow(IdlePolicy::default());
        self.bring_back();
        for prompt in 0..2 {
            let ids = &self.world.prompts[prompt];
            let answer = try_ask(&self.handle, 900 + prompt as u64, ids, TOKENS as u32).unwrap();
            let turns = vec![(0, self.now)];
            self.asked.push(Asked {
                prompt,
                answer,
                turns,
            });
        }
        for (id, asked) in std::mem::take(&mut self.asked).into_iter().enumerate() {
            let answer = asked.answer.wait();
            let what = format!("request {id}");
            let turns = &asked.turns;
            self.world.check(asked.prompt, turns, &answer.ids, &what);
            let changes = turns
                .windows(2)
                .any(|two| 0 < two[1].0 && two[1].0 < TOKENS);
            if changes {
                self.happened("answers of two sets of weights");
            }
            if answer.finished.unwrap().preemptions > 0 {
                self.happened("answers that were computed again");
            }
        }
        let sums = sums(&self.handle);
        assert_eq!(sums, self.world.sums(&self.run, self.now), "other bytes");
        let (stats, weights) = (self.handle.stats(), self.handle.weights());
        assert_eq!((stats.running, stats.waiting, stats.kv_usage), (0, 0, 0.0));
        assert_eq!(weights.pushed, self.pushed);
        assert_eq!(weights.path, self.world.folders[self.files].path());
        let resizes = stats.transitions[Transition::Resize as usize].done;
        *self.tally.entry("resizes").or_default() += resizes;
    }
}
