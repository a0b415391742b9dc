//! Engines that sleep by their own clock, or until a request comes: healthy, and counted as they are.

use plimsoll_crds::v1alpha1::TargetOutcome;
use plimsoll_crds::v1alpha1::report::{EngineState, MemoryReport, SleepReason};
use plimsoll_crds::v1alpha1::sleep::{SleepSpec, SleepState, Span};

use super::sleepers::{pods, saying};
use super::*;
use crate::gather::identity;
use crate::sleepers::in_place;

/// The resource of a generation with a clock of 15 minutes.
fn clocked(facts: &mut Facts, generation: i64, state: SleepState, wake_on_request: bool) {
    let mut object = (*facts.object).clone();
    object.spec.sleep = Some(SleepSpec {
        state,
        level: 1,
        idle_after: Span::try_from("15m".to_owned()).ok(),
        wake_on_request,
    });
    object.metadata.generation = Some(generation);
    facts.identity = identity(&object.metadata).unwrap();
    facts.object = object.into();
}

/// What an engine says that sleeps, or does not.
fn says(state: EngineState, why: Option<SleepReason>, wakes: bool) -> MemoryReport {
    let mut report = saying(state, 4, TargetOutcome::Applied);
    report.sleep_reason = why;
    report.sleep_level = why.map(|_| 1);
    report.wakes_on_request = wakes;
    report
}

#[test]
fn all_ways_to_doze_have_their_words() {
    use EngineState::{Asleep, Serving, Sleeping as Going, Waking};
    use SleepReason::{Control, Idle, Target};
    use SleepState::{Awake, Sleeping};
    type Pod = (bool, EngineState, Option<SleepReason>, bool);
    type Row = (
        (SleepState, bool),
        [Pod; 2],
        State,
        (&'static str, &'static str, &'static str),
        &'static str,
    );
    let answers = (true, Serving, None, false);
    let out = (false, Asleep, Some(Idle), false);
    let dozes = (true, Asleep, Some(Idle), true);
    let until_asked = (true, Asleep, Some(Target), true);
    let by_hand = (false, Asleep, Some(Control), false);
    let table: [Row; 13] = [
        // Without wakeOnRequest: out of the Service, and healthy.
        (
            (Awake, false),
            [answers, answers],
            State::Serving,
            ("True", "Serving", ""),
            "2 of 2",
        ),
        (
            (Awake, false),
            [answers, out],
            State::Serving,
            ("True", "Serving", ""),
            "1 of 2 replicas answer, 1 sleep as spec.sleep lets them",
        ),
        (
            (Awake, false),
            [out, out],
            State::Sleeping,
            ("False", "Sleeping", ""),
            "asleep by their own clock (spec.sleep.idleAfter), 2 of 2 pods, 600 B held",
        ),
        (
            (Awake, false),
            [answers, (false, Going, Some(Idle), false)],
            State::Serving,
            ("True", "Serving", ""),
            "1 of 2",
        ),
        // With it: ready all the while.
        (
            (Awake, true),
            [dozes, dozes],
            State::Sleeping,
            ("True", "WakesOnRequest", ""),
            "2 of 2 pods, 600 B held; a request wakes them",
        ),
        (
            (Awake, true),
            [answers, dozes],
            State::Serving,
            ("True", "Serving", ""),
            "1 of 2 replicas answer, 1 sleep",
        ),
        (
            (Awake, true),
            [dozes, (true, Waking, Some(Idle), true)],
            State::Sleeping,
            ("True", "WakesOnRequest", ""),
            "a request wakes them",
        ),
        (
            (Sleeping, true),
            [until_asked, dozes],
            State::Sleeping,
            ("True", "WakesOnRequest", ""),
            "asleep as asked (spec.sleep), 2 of 2 pods",
        ),
        // A request woke one.
        (
            (Sleeping, true),
            [until_asked, answers],
            State::Serving,
            ("True", "Serving", ""),
            "1 of 2 replicas answer, 1 sleep",
        ),
        (
            (Sleeping, true),
            [answers, answers],
            State::Serving,
            ("True", "Serving", ""),
            "2 of 2",
        ),
        // By hand, and nobody asked: no request ends it.
        (
            (Awake, true),
            [answers, by_hand],
            State::Degraded,
            ("False", "EngineSilent", "Reconciling"),
            "pod b",
        ),
        (
            (Awake, false),
            [by_hand, by_hand],
            State::Silent,
            ("False", "EngineSilent", "Reconciling"),
            "pod a",
        ),
        // It answers not although it says that it serves: a clock is no excuse for ever.
        (
            (Sleeping, true),
            [until_asked, (false, Serving, None, false)],
            State::Degraded,
            ("False", "EngineSilent", "Reconciling"),
            "pod b",
        ),
    ];
    for ((asked, wakes), engines, state, (ready, reason, kstatus), part) in table {
        let mut facts = inspected(SMOLLM2);
        clocked(&mut facts, 4, asked, wakes);
        let reports = engines.map(|(ready, state, why, wakes)| (ready, says(state, why, wakes)));
        pods(&mut facts, reports);
        facts.status = told(&facts);
        facts.now = at(1_000);
        let told = told(&facts);
        let got = short(&told);
        let case = format!("{asked:?} {wakes} {engines:?}: {:?}", find(&told, "Ready"));
        assert_eq!(
            (&*got.0, &*got.1, got.2),
            (ready, reason, kstatus),
            "{case}"
        );
        assert_eq!(told.state, Some(state), "{case}");
        let words = &find(&told, "Ready").unwrap().message;
        assert!(words.contains(part), "{case}");
        let answering = engines.iter().filter(|(ready, ..)| *ready).count();
        assert_eq!(told.ready_replicas as usize, answering, "{case}");
        let available = find(&told, "Available").unwrap();
        assert_eq!(available.status == "True", answering > 0, "{case}");
    }
}

/// A wake for a request that fails is no rest.
#[test]
fn a_sleeper_that_a_request_could_not_wake_is_said_to_be_stuck() {
    let mut facts = inspected(SMOLLM2);
    clocked(&mut facts, 4, SleepState::Awake, true);
    let mut stuck = says(EngineState::Asleep, Some(SleepReason::Idle), false);
    stuck.message = "rank 0: no memory".to_owned();
    let well = says(EngineState::Serving, None, false);
    pods(&mut facts, [(true, well), (false, stuck)]);
    let status = told(&facts);
    assert_eq!(
        short(&status),
        ("False".into(), "Waking".into(), "Reconciling")
    );
    let words = &find(&status, "Ready").unwrap().message;
    assert!(
        words.contains("pod b: did not wake: rank 0: no memory"),
        "{words}"
    );
}

/// Neither form keeps a rollout waiting, nor is it taken for one that fails.
#[test]
fn a_dozer_is_in_place_and_an_operator_that_begins_again_believes_what_stands() {
    for wakes in [false, true] {
        let mut facts = inspected(SMOLLM2);
        clocked(&mut facts, 4, SleepState::Awake, wakes);
        let dozes = || {
            (
                wakes,
                says(EngineState::Asleep, Some(SleepReason::Idle), wakes),
            )
        };
        pods(&mut facts, [dozes(), dozes()]);
        assert!(facts.pods.iter().all(|pod| in_place(&facts, pod)));
        facts.now = at(1_000_000);
        let status = told(&facts);
        assert_eq!(status.state, Some(State::Sleeping));
        facts.status = status.clone();
        facts.reports.clear();
        let unheard = told(&facts);
        assert_eq!(short(&unheard), short(&status), "{wakes}");
        assert_eq!(unheard.state, Some(State::Sleeping));
        // A newer generation of which nobody was told changes nothing either.
        pods(&mut facts, [dozes(), dozes()]);
        clocked(&mut facts, 5, SleepState::Awake, wakes);
        assert_eq!(short(&told(&facts)), short(&status));
        // Silent for too long is not asleep.
        facts.reports.get_mut("b").unwrap().stale = true;
        facts.now = at(20);
        let silent = told(&facts);
        assert_eq!(short(&silent).1 == "EngineSilent", !wakes);
    }
}

/// Taking the clock away wakes who dozes, and until it is awake it is on its way.
#[test]
fn without_its_clock_a_dozer_is_waking() {
    let mut facts = inspected(SMOLLM2);
    clocked(&mut facts, 4, SleepState::Awake, false);
    let dozes = || {
        (
            false,
            says(EngineState::Asleep, Some(SleepReason::Idle), false),
        )
    };
    pods(&mut facts, [dozes(), dozes()]);
    facts.status = told(&facts);
    let mut object = (*facts.object).clone();
    object.spec.sleep = None;
    object.metadata.generation = Some(5);
    facts.identity = identity(&object.metadata).unwrap();
    facts.object = object.into();
    assert_eq!(
        short(&told(&facts)),
        ("False".into(), "Waking".into(), "Reconciling")
    );
    let desire = desire(&facts, &settings(), "token", PATIENCE).unwrap();
    let (target, tell) = desire.told.unwrap();
    assert_eq!((target.idle, target.sleep, tell.len()), (None, None, 2));
}

#[test]
fn a_clock_makes_no_revision_and_is_told_to_engines() {
    let mut facts = inspected(SMOLLM2);
    let before = told(&facts).update_revision;
    for (state, wakes, idle) in [
        (SleepState::Awake, false, Some(900)),
        (SleepState::Awake, true, Some(900)),
        (SleepState::Sleeping, false, None),
        (SleepState::Sleeping, true, Some(900)),
    ] {
        clocked(&mut facts, 4, state, wakes);
        assert_eq!(told(&facts).update_revision, before);
        let desire = desire(&facts, &settings(), "token", PATIENCE).unwrap();
        let (target, _) = desire.told.unwrap();
        assert_eq!(
            target.idle.map(|idle| idle.after_seconds),
            idle,
            "{state:?} {wakes}"
        );
        assert_eq!(target.wake_on_request, wakes);
        assert_eq!(target.sleep.is_some(), state == SleepState::Sleeping);
    }
}
