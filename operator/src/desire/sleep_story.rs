//! Sleep through all that happens to a resource, in seeded stories: specs that are refused, models that
//! are not read, rollouts and their turns, engines and pods that begin again, calls and operators that
//! are lost. In the end all engines are where the resource wants them.

use std::collections::BTreeMap;

use plimsoll_crds::v1alpha1::report::{EngineState, MemoryReport, SleepReason};
use plimsoll_crds::v1alpha1::sleep::SleepState;
use plimsoll_crds::v1alpha1::target::SleepOrder;
use plimsoll_crds::v1alpha1::{InferenceDeployment, TargetOutcome, TargetReport};

use super::sleep_tests::{asleep, change, files_of, refused};
use super::*;
use crate::facts::Files;
use crate::steer::{Tries, What};
use crate::testing::*;

/// A pod as it is, and as its engine is.
struct Pod {
    revision: String,
    /// Generations of the target and of the sleep that it was told last; absent while it loads.
    engine: Option<(i64, SleepOrder)>,
    /// It has carried that sleep out.
    settled: bool,
    heard: bool,
}

impl Pod {
    fn new(revision: &str) -> Pod {
        Pod {
            revision: revision.to_owned(),
            engine: None,
            settled: false,
            heard: false,
        }
    }

    fn sleeps(&self) -> bool {
        self.settled && self.engine.is_some_and(|(_, order)| order.sleep.is_some())
    }

    fn begins(&mut self, files: &Files) {
        self.engine = Some((files.target.generation, files.target.sleep_order()));
        self.settled = files.target.sleep.is_none();
    }

    fn told(&mut self, target: Option<i64>, order: SleepOrder) {
        let (generation, before) = self.engine.expect("it is heard");
        assert!(order.generation >= before.generation, "409: {order:?}");
        assert!(target.is_none_or(|it| it >= generation), "409: {target:?}");
        self.settled &= before.sleep == order.sleep;
        self.engine = Some((target.unwrap_or(generation), order));
    }

    fn report(&self) -> Option<MemoryReport> {
        let (generation, order) = self.engine?;
        let of = |generation| TargetReport {
            generation,
            outcome: match self.settled {
                true => TargetOutcome::Applied,
                false => TargetOutcome::Deferred,
            },
            message: String::new(),
            overage_bytes: 0,
        };
        let mut report = report(300);
        (report.target, report.sleep) = (Some(of(generation)), Some(of(order.generation)));
        if self.sleeps() {
            report.state = EngineState::Asleep;
            report.sleep_level = Some(1);
            report.sleep_reason = Some(SleepReason::Target);
        }
        Some(report)
    }
}

struct World {
    facts: Facts,
    pods: BTreeMap<String, Pod>,
    /// What pods of a revision may see of its files: those of a moment ago.
    mounted: BTreeMap<String, Files>,
    /// The spec that fits.
    fits: InferenceDeployment,
    made: u32,
    random: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let facts = inspected(SMOLLM2);
        World {
            fits: (*facts.object).clone(),
            facts,
            pods: BTreeMap::new(),
            mounted: BTreeMap::new(),
            made: 0,
            random: seed * 2 + 1,
        }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn some_pod(&mut self) -> Option<String> {
        let at = self.draw(self.pods.len().max(1) as u64);
        self.pods.keys().nth(usize::try_from(at).unwrap()).cloned()
    }

    /// Something happens to the resource, to an engine or to the operator.
    fn happens(&mut self) {
        let event = self.draw(11);
        let facts = &mut self.facts;
        match event {
            0 | 1 => change(facts, asleep),
            2 | 3 => change(facts, |object| {
                if let Some(sleep) = &mut object.spec.sleep {
                    sleep.state = SleepState::Awake;
                }
            }),
            4 => change(facts, refused),
            5 => self.mend(),
            6 => change(facts, |object| {
                object.spec.limits.max_num_seqs = 12 - object.spec.limits.max_num_seqs.min(8);
            }),
            7 => change(facts, |object| {
                object.spec.model.source.path = Some("unread".to_owned());
            }),
            8 => {
                facts.turn = match facts.turn {
                    Turn::Yours => Turn::Waits("another rolls".to_owned()),
                    _ => Turn::Yours,
                };
                facts.replica_sets.iter_mut().for_each(|set| {
                    set.spec = crate::build::spec_hash(&facts.object);
                });
            }
            // The operator begins anew.
            9 => {
                facts.tries.clear();
                self.pods.values_mut().for_each(|pod| pod.heard = false);
            }
            _ => {}
        }
        let (which, fate) = (self.some_pod(), self.draw(6));
        let Some(pod) = which else { return };
        match fate {
            // A container begins again, with what its kubelet mounted; a pod is made anew.
            0 => {
                let pod = self.pods.get_mut(&pod).unwrap();
                *pod = Pod::new(&pod.revision);
            }
            1 => drop(self.pods.remove(&pod)),
            _ => {}
        }
    }

    /// The spec fits, its model is known, and it is nobody else's turn.
    fn mend(&mut self) {
        let fits = self.fits.clone();
        change(&mut self.facts, |object| {
            object.spec.memory = fits.spec.memory;
            object.spec.model = fits.spec.model;
        });
        self.facts.turn = Turn::Yours;
    }

    /// Engines load, do what they were told, and are heard; each of that may not happen yet.
    fn engines(&mut self, all: bool) {
        let draws: Vec<u64> = (0..self.pods.len()).map(|_| self.draw(8)).collect();
        for (pod, draw) in self.pods.values_mut().zip(draws) {
            if let (None, Some(files)) = (pod.engine, self.mounted.get(&pod.revision)) {
                pod.begins(files);
            }
            pod.settled |= all || draw % 2 == 0;
            pod.heard |= all || draw < 6;
        }
        let facts = &mut self.facts;
        facts.pods.clear();
        facts.reports.clear();
        for (name, pod) in &self.pods {
            let status = match (pod.engine, pod.sleeps()) {
                (None, _) => running(false),
                (Some(_), true) => hung(),
                (Some(_), false) => ready(),
            };
            facts.pods.push(engine(name, &pod.revision, status));
            let report = pod.report().filter(|_| pod.heard);
            facts
                .reports
                .extend(report.map(|it| (name.clone(), heard(it))));
        }
    }

    /// A pass; some of its calls may fail.
    fn pass(&mut self, all: bool) -> Desire {
        let desire = desire(&self.facts, &settings(), "token", Duration::from_secs(60)).unwrap();
        self.facts.status = crate::status::status(&self.facts, &desire.outcome);
        // What was there a moment ago is what a kubelet may have mounted; where it has nothing, the newest.
        for (revision, files) in std::mem::take(&mut self.facts.files) {
            self.mounted.insert(revision.clone(), files.clone());
            self.facts.files.insert(revision, files);
        }
        for (set, replicas) in &desire.replicas {
            let revision = set.strip_prefix("smollm2-").unwrap().to_owned();
            self.scale(set, &revision, *replicas);
        }
        for set in self.facts.replica_sets.clone() {
            if let Some(files) = files_of(&desire, &set.revision) {
                self.mounted
                    .entry(set.revision.clone())
                    .or_insert_with(|| files.clone());
                self.facts.files.insert(set.revision, files);
            }
        }
        let mut told = Vec::new();
        let target = desire
            .told
            .iter()
            .map(|(target, tell)| (What::Target, target.sleep_order(), tell));
        let sleep = desire
            .told_sleep
            .iter()
            .map(|(order, tell)| (What::Sleep, *order, tell));
        for (what, order, tell) in target.chain(sleep) {
            for tell in tell {
                assert!(!told.contains(&tell.uid), "told both");
                told.push(tell.uid.clone());
                self.tell(tell.uid.trim_start_matches("uid-"), (what, order), all);
            }
        }
        desire
    }

    fn tell(&mut self, name: &str, (what, order): (What, SleepOrder), all: bool) {
        let lost = !all && self.draw(4) == 0;
        let newest = self.facts.status.update_revision.clone();
        // It may be gone with this very pass.
        let Some(pod) = self.pods.get_mut(name) else {
            return;
        };
        assert!(pod.heard, "{name} cannot hear");
        let known = pod.engine.map(|(target, sleep)| match what {
            What::Target => target,
            What::Sleep => sleep.generation,
        });
        assert!(known < Some(order.generation), "{name} is told again");
        if what == What::Target {
            assert_eq!(Some(&pod.revision), newest.as_ref(), "not its target");
        }
        if !lost {
            let target = (what == What::Target).then_some(order.generation);
            pod.told(target, order);
        }
        self.facts.tries.insert(
            format!("uid-{name}"),
            Tries {
                what,
                ..Tries::default()
            },
        );
    }

    fn scale(&mut self, set: &str, revision: &str, replicas: u32) {
        let sets = &mut self.facts.replica_sets;
        match sets.iter_mut().find(|it| it.name == set) {
            Some(known) => known.replicas = replicas,
            None => {
                let mut new = replica_set(set, revision, replicas);
                new.spec = crate::build::spec_hash(&self.facts.object);
                sets.push(new);
            }
        }
        let mut of_set: Vec<String> = self.pods.keys().cloned().collect();
        of_set.retain(|name| self.pods[name].revision == revision);
        for name in of_set.iter().skip(replicas as usize) {
            self.pods.remove(name);
        }
        for _ in of_set.len()..replicas as usize {
            self.made += 1;
            let name = format!("pod-{:03}", self.made);
            self.pods.insert(name, Pod::new(revision));
        }
    }

    /// Where the resource wants its engines, all are, those of whatever revision, and the status says so.
    fn rests(&self, desire: &Desire, why: &str) {
        let order = crate::build::sleep_order(&self.facts.object);
        for (name, pod) in &self.pods {
            let (_, told) = pod.engine.unwrap();
            assert_eq!(told, order, "{why}: {name}");
            assert_eq!(pod.sleeps(), order.sleep.is_some(), "{why}: {name}");
        }
        let slept = &desire.outcome.slept;
        assert!(slept.rank() <= 1, "{why}: {slept:?}");
    }

    /// Nothing is lost any more: until a pass has nothing left to do.
    fn settle(&mut self) -> Desire {
        let mut last = None;
        for _ in 0..16 {
            self.engines(true);
            let desire = self.pass(true);
            if last.as_ref() == Some(&desire) {
                return desire;
            }
            last = Some(desire);
        }
        panic!(
            "it does not come to rest: {:?}",
            self.facts.status.conditions
        );
    }
}

#[test]
fn in_the_end_every_engine_sleeps_or_is_awake_as_the_resource_says_whatever_happened() {
    let (mut refused, mut old) = (0, 0);
    for seed in 1..=6 {
        let mut world = World::new(seed);
        world.settle();
        for round in 0..3 {
            for _ in 0..6 {
                world.happens();
                world.engines(false);
                world.pass(false);
            }
            let desire = world.settle();
            let why = format!("seed {seed}, round {round}, {:?}", desire.outcome.planned);
            world.rests(&desire, &why);
            refused += u32::from(desire.told.is_none());
            let newest = desire.outcome.revision();
            old += u32::from(world.pods.values().any(|it| Some(&*it.revision) != newest));
            // Whoever begins again now begins where it should be, before anybody tells it.
            world
                .pods
                .values_mut()
                .for_each(|pod| *pod = Pod::new(&pod.revision));
            world.engines(true);
            let sleep = crate::build::sleep_order(&world.facts.object).sleep;
            for pod in world.pods.values() {
                assert_eq!(pod.sleeps(), sleep.is_some(), "{why}");
            }
        }
    }
    assert!(refused > 4 && old > 4, "{refused} {old}: too tame");
}
