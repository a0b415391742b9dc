//! Resources that sleep: as asked, on the way there and back, by hand, and through a rollout.

use plimsoll_crds::v1alpha1::report::{EngineState, MemoryReport, SleepReason, WokenBy};
use plimsoll_crds::v1alpha1::sleep::{SleepSpec, SleepState};
use plimsoll_crds::v1alpha1::{EventReason, TargetOutcome};

use super::*;
use crate::events::of_pods;
use crate::gather::identity;

/// The resource of a generation, asleep or awake.
fn asking(facts: &mut Facts, generation: i64, state: SleepState) {
    let mut object = (*facts.object).clone();
    object.spec.sleep = Some(SleepSpec {
        state,
        level: 1,
        idle_after: None,
        wake_on_request: false,
    });
    object.metadata.generation = Some(generation);
    facts.identity = identity(&object.metadata).unwrap();
    facts.object = object.into();
}

pub(super) fn saying(state: EngineState, generation: i64, outcome: TargetOutcome) -> MemoryReport {
    let mut report = report(300);
    report.state = state;
    report.sleep_level = (state == EngineState::Asleep).then_some(1);
    report.sleep_reason = report.sleep_level.map(|_| SleepReason::Target);
    let target = report.target.as_mut().unwrap();
    (target.generation, target.outcome) = (generation, outcome);
    target.message = match outcome {
        TargetOutcome::Refused => "did not wake: no memory".to_owned(),
        TargetOutcome::Applied | TargetOutcome::Deferred => String::new(),
    };
    report
}

/// Two pods, each with whether it is ready, and what it reports.
pub(super) fn pods(facts: &mut Facts, pods: [(bool, MemoryReport); 2]) {
    let revision = told(facts).update_revision.unwrap();
    facts.pods.clear();
    for (name, (is_ready, report)) in ["a", "b"].into_iter().zip(pods) {
        let status = if is_ready { ready() } else { hung() };
        facts.pods.push(engine(name, &revision, status));
        facts.reports.insert(name.to_owned(), heard(report));
    }
}

#[test]
fn whether_it_sleeps_makes_no_revision() {
    let mut facts = inspected(SMOLLM2);
    let awake = told(&facts).update_revision;
    let spec = crate::build::spec_hash(&facts.object);
    for (generation, state) in [(4, SleepState::Sleeping), (5, SleepState::Awake)] {
        asking(&mut facts, generation, state);
        assert_eq!(told(&facts).update_revision, awake);
        assert_eq!(crate::build::spec_hash(&facts.object), spec);
        let desire = desire(&facts, &settings(), "token", PATIENCE).unwrap();
        let (target, _) = desire.told.unwrap();
        let level = target.sleep.map(|sleep| sleep.level);
        assert_eq!(level, (state == SleepState::Sleeping).then_some(1));
        assert_eq!(target.generation, generation);
    }
}

#[test]
fn all_ways_to_sleep_and_back_have_their_words() {
    use EngineState::{Asleep, Serving, Sleeping, Waking};
    use SleepState::{Awake, Sleeping as Asked};
    use TargetOutcome::{Applied, Deferred, Refused};
    type Row = (
        SleepState,
        [(bool, EngineState, i64, TargetOutcome); 2],
        State,
        (&'static str, &'static str),
        &'static str,
    );
    let slept = (false, Asleep, 4, Applied);
    let table: [Row; 10] = [
        (
            Asked,
            [slept, slept],
            State::Sleeping,
            ("Sleeping", ""),
            "2 of 2 pods, 600 B held",
        ),
        // One was not told yet.
        (
            Asked,
            [slept, (true, Serving, 3, Applied)],
            State::Degraded,
            ("GoingToSleep", "Reconciling"),
            "pod b is going",
        ),
        (
            Asked,
            [slept, (false, Sleeping, 4, Deferred)],
            State::Sleeping,
            ("GoingToSleep", "Reconciling"),
            "pod b is going",
        ),
        (
            Asked,
            [slept, (true, Serving, 4, Applied)],
            State::Degraded,
            ("Sleeping", ""),
            "pod b was woken by hand",
        ),
        // Asleep by hand before it was asked.
        (
            Asked,
            [slept, (false, Asleep, 3, Applied)],
            State::Sleeping,
            ("Sleeping", ""),
            "2 of 2",
        ),
        (
            Awake,
            [(false, Asleep, 3, Applied), (false, Waking, 4, Deferred)],
            State::Waking,
            ("Waking", "Reconciling"),
            "pod a is waking",
        ),
        (
            Awake,
            [(true, Serving, 4, Applied), (false, Asleep, 4, Refused)],
            State::Degraded,
            ("Waking", "Reconciling"),
            "pod b: did not wake: no memory",
        ),
        (
            Awake,
            [(true, Serving, 4, Applied), (false, Serving, 4, Applied)],
            State::Degraded,
            ("Waking", "Reconciling"),
            "about to be ready",
        ),
        (
            Awake,
            [(true, Serving, 4, Applied), (true, Serving, 4, Applied)],
            State::Serving,
            ("Serving", ""),
            "2 of 2",
        ),
        // By hand, and nobody asked.
        (
            Awake,
            [(true, Serving, 4, Applied), slept],
            State::Degraded,
            ("EngineSilent", "Reconciling"),
            "pod b",
        ),
    ];
    for (asked, engines, state, (reason, kstatus), part) in table {
        let mut facts = inspected(SMOLLM2);
        asking(&mut facts, 4, asked);
        // What stood before: all slept.
        let all = [(); 2].map(|()| (false, saying(Asleep, 4, Applied)));
        asking(&mut facts, 4, Asked);
        pods(&mut facts, all);
        facts.status = told(&facts);
        asking(&mut facts, 4, asked);
        pods(
            &mut facts,
            engines.map(|(ready, state, generation, outcome)| {
                (ready, saying(state, generation, outcome))
            }),
        );
        let told = told(&facts);
        let got = short(&told);
        assert_eq!((got.1.as_str(), got.2), (reason, kstatus), "{engines:?}");
        assert_eq!(told.state, Some(state), "{engines:?}");
        let words = &find(&told, "Ready").unwrap().message;
        assert!(words.contains(part), "{engines:?}: {words}");
    }
}

#[test]
fn a_sleeper_is_no_failure_however_long_it_sleeps_and_whoever_looks() {
    let asleep = || {
        (
            false,
            saying(EngineState::Asleep, 4, TargetOutcome::Applied),
        )
    };
    let mut facts = inspected(SMOLLM2);
    asking(&mut facts, 4, SleepState::Sleeping);
    pods(&mut facts, [asleep(), asleep()]);
    facts.now = at(1_000_000);
    let status = told(&facts);
    assert_eq!(short(&status), ("False".into(), "Sleeping".into(), ""));
    let available = find(&status, "Available").unwrap();
    assert_eq!(
        (&*available.status, &*available.reason),
        ("False", "Sleeping")
    );
    assert_eq!(find(&status, "TargetApplied").unwrap().status, "True");
    // An operator that began again believes what stands until it has heard the pods.
    facts.status = status.clone();
    facts.reports.clear();
    let unheard = told(&facts);
    assert_eq!(short(&unheard), short(&status));
    assert_eq!(unheard.state, Some(State::Sleeping));
    // One that is silent for too long is not asleep.
    pods(&mut facts, [asleep(), asleep()]);
    facts.reports.get_mut("b").unwrap().stale = true;
    facts.now = at(20);
    assert_eq!(short(&told(&facts)).1, "EngineSilent");
}

#[test]
fn a_sleeper_whose_engine_ended_is_not_asleep_whatever_it_reported_last() {
    let asleep = || {
        let report = saying(EngineState::Asleep, 4, TargetOutcome::Applied);
        (false, report)
    };
    let mut facts = inspected(SMOLLM2);
    asking(&mut facts, 4, SleepState::Sleeping);
    pods(&mut facts, [asleep(), asleep()]);
    assert!(crate::sleepers::in_place(&facts, &facts.pods[1]));
    let revision = facts.pods[1].revision.clone();
    facts.pods[1] = engine("b", &revision, crashed(1, "out of memory"));
    assert!(!crate::sleepers::in_place(&facts, &facts.pods[1]));
    assert_eq!(short(&told(&facts)).1, "PodFailed");
}

#[test]
fn who_woke_up_has_some_seconds_to_be_ready_and_hides_nothing() {
    let serving = || {
        let report = saying(EngineState::Serving, 5, TargetOutcome::Applied);
        (false, report)
    };
    let mut facts = inspected(SMOLLM2);
    asking(&mut facts, 4, SleepState::Sleeping);
    let all = [(); 2].map(|()| {
        (
            false,
            saying(EngineState::Asleep, 4, TargetOutcome::Applied),
        )
    });
    pods(&mut facts, all);
    facts.status = told(&facts);
    asking(&mut facts, 5, SleepState::Awake);
    pods(&mut facts, [serving(), serving()]);
    let look = |facts: &mut Facts, now| {
        facts.now = at(now);
        facts.awake = crate::sleepers::awake(&facts.pods, &facts.reports, &facts.awake, facts.now);
        facts.status = told(facts);
        let again = crate::sleepers::next_look(facts).map(|rest| rest.as_secs());
        (short(&facts.status).1, again)
    };
    assert_eq!(look(&mut facts, 10), ("Waking".to_owned(), Some(20)));
    assert_eq!(look(&mut facts, 29), ("Waking".to_owned(), Some(1)));
    // It does not keep itself alive.
    assert_eq!(look(&mut facts, 30), ("EngineSilent".to_owned(), None));
    // One of another container that is not ready is not about to be.
    let revision = facts.pods[0].revision.clone();
    let mut beside = hung();
    beside["containerStatuses"][0]["ready"] = json!(true);
    for name in ["a", "b"] {
        facts.pods.retain(|pod| pod.name != name);
        facts.pods.push(engine(name, &revision, beside.clone()));
    }
    let reason = &mut facts.status.conditions[0].reason;
    *reason = "Waking".to_owned();
    assert_eq!(look(&mut facts, 31), ("WaitingForPods".to_owned(), None));
    assert!(facts.awake.is_empty());
}

#[test]
fn sleeps_and_wakes_are_told_once_each() {
    use EngineState::{Asleep, Serving, Waking};
    let mut facts = inspected(SMOLLM2);
    asking(&mut facts, 4, SleepState::Sleeping);
    let applied = TargetOutcome::Applied;
    let mut told_of = None;
    let mut look = |facts: &mut Facts, is_ready, state| {
        let report = || {
            let mut report = saying(state, 4, applied);
            report.woken_by = Some(WokenBy::Request);
            (is_ready, report)
        };
        pods(facts, [report(), report()]);
        let happened = of_pods(facts, &told(facts), &mut told_of);
        happened
            .into_iter()
            .map(|it| (it.reason, it.note))
            .collect::<Vec<_>>()
    };
    assert_eq!(look(&mut facts, true, Serving), []);
    let slept = look(&mut facts, false, Asleep);
    let reasons: Vec<EventReason> = slept.iter().map(|(reason, _)| *reason).collect();
    assert_eq!(reasons, [EventReason::EngineSlept; 2]);
    let note = "pod a sleeps as spec.sleep asks at level 1, and holds 300 B still";
    assert_eq!(slept[0].1, note);
    assert_eq!(look(&mut facts, false, Asleep), []);
    facts.status = told(&facts);
    assert_eq!(look(&mut facts, false, Waking), []);
    let woken = look(&mut facts, true, Serving);
    assert_eq!(woken.len(), 2, "{woken:?}");
    assert!(woken[0].1.contains("woken by a request"), "{woken:?}");
    assert!(
        woken
            .iter()
            .all(|(reason, _)| *reason == EventReason::EngineWoken)
    );
}

/// A rollout while all sleep comes to its end: each new pod falls asleep before it is ready.
#[test]
fn a_rollout_and_a_change_of_scale_come_to_their_end_asleep() {
    let mut facts = inspected(SMOLLM2);
    asking(&mut facts, 4, SleepState::Sleeping);
    let asleep = || heard(saying(EngineState::Asleep, 5, TargetOutcome::Applied));
    let old = told(&facts).update_revision.unwrap();
    facts.replica_sets = vec![replica_set(&format!("smollm2-{old}"), &old, 2)];
    let mut made = 0;
    for (replicas, sequences) in [(2, 4), (3, 4), (1, 4), (2, 8)] {
        let mut object = (*facts.object).clone();
        object.spec.replicas = Some(replicas);
        object.spec.limits.max_num_seqs = sequences;
        facts.object = object.into();
        let mut rounds = 0;
        loop {
            let desire = desire(&facts, &settings(), "token", PATIENCE).unwrap();
            facts.status = status(&facts, &desire.outcome);
            for (name, count) in &desire.replicas {
                let revision = name.strip_prefix("smollm2-").unwrap();
                if !facts.replica_sets.iter().any(|set| set.name == *name) {
                    facts.replica_sets.push(replica_set(name, revision, 0));
                }
                let mut sets = facts.replica_sets.iter_mut();
                sets.find(|set| set.name == *name).unwrap().replicas = *count;
                let of_set = |pod: &&PodFacts| pod.revision == revision;
                let mut have = facts.pods.iter().filter(of_set).count();
                while have > *count as usize {
                    let last = facts.pods.iter().rposition(|pod| pod.revision == revision);
                    facts.pods.remove(last.unwrap());
                    have -= 1;
                }
                for _ in have..*count as usize {
                    made += 1;
                    let pod = format!("pod-{made}");
                    facts.pods.push(engine(&pod, revision, hung()));
                    facts.reports.insert(pod, asleep());
                }
            }
            if short(&facts.status).1 == "Sleeping" {
                break;
            }
            rounds += 1;
            assert!(rounds < 20, "{:?}", facts.status.conditions);
        }
        let update = facts.status.update_revision.clone().unwrap();
        assert_eq!(facts.pods.len(), replicas as usize);
        assert!(facts.pods.iter().all(|pod| pod.revision == update));
    }
}
