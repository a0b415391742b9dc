//! Who is told the newest target, who its sleep alone, and what the files and the status say meanwhile.

use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::report::{EngineState, MemoryReport};
use plimsoll_crds::v1alpha1::sleep::{SleepSpec, SleepState};
use plimsoll_crds::v1alpha1::target::TargetSleep;
use plimsoll_crds::v1alpha1::{InferenceDeployment, TargetOutcome};

use super::*;
use crate::facts::Files;
use crate::gather::identity;
use crate::status::status;
use crate::steer;
use crate::testing::*;

fn desired(facts: &Facts) -> Desire {
    desire(facts, &settings(), "token", Duration::from_secs(60)).unwrap()
}

/// The resource of the next generation.
pub(super) fn change(facts: &mut Facts, change: impl FnOnce(&mut InferenceDeployment)) {
    let mut object = (*facts.object).clone();
    change(&mut object);
    object.metadata.generation = object.metadata.generation.map(|it| it + 1);
    facts.identity = identity(&object.metadata).unwrap();
    facts.object = object.into();
}

pub(super) fn asleep(object: &mut InferenceDeployment) {
    object.spec.sleep = Some(SleepSpec {
        state: SleepState::Sleeping,
        level: 1,
        idle_after: None,
        wake_on_request: false,
    });
}

pub(super) fn refused(object: &mut InferenceDeployment) {
    object.spec.memory.gpu_quotas = crate::testing::object(REFUSED).spec.memory.gpu_quotas;
}

/// The documents of the ConfigMap that is written for a revision, if it is.
pub(super) fn files_of(desire: &Desire, revision: &str) -> Option<Files> {
    let name = format!("smollm2-{revision}");
    let mut children = desire.children.iter();
    let map = children.rfind(|it| it.kind == ChildKind::ConfigMap && it.name == name)?;
    let text = |key: &str| map.object["data"][key].as_str().unwrap().to_owned();
    Some(Files {
        boot: text(names::BOOT_KEY),
        target: serde_json::from_str(&text(names::TARGET_KEY)).unwrap(),
    })
}

/// Two pods of the newest revision and one of an older one; all were told generation 3, and answer.
fn mixed() -> (Facts, String) {
    let mut facts = inspected(SMOLLM2);
    let first = desired(&facts);
    let revision = first.outcome.revision().unwrap().to_owned();
    let files = files_of(&first, &revision).unwrap();
    facts.replica_sets = vec![
        replica_set("smollm2-0ld", "0ld", 1),
        replica_set(&format!("smollm2-{revision}"), &revision, 2),
    ];
    for (pod, of) in [("a", &*revision), ("b", &*revision), ("old", "0ld")] {
        facts.pods.push(engine(pod, of, ready()));
        facts.reports.insert(pod.to_owned(), heard(report(500)));
        facts.files.insert(of.to_owned(), files.clone());
    }
    (facts, revision)
}

/// Who is told the target, and who its sleep alone.
fn told(desire: &Desire) -> (Vec<&str>, Vec<&str>) {
    fn pods(tell: &[Tell]) -> Vec<&str> {
        let uids = tell.iter().map(|it| it.uid.as_str());
        uids.map(|uid| uid.trim_start_matches("uid-")).collect()
    }
    let target = desire.told.as_ref();
    let sleep = desire.told_sleep.as_ref();
    (
        target.map_or(Vec::new(), |(_, tell)| pods(tell)),
        sleep.map_or(Vec::new(), |(_, tell)| pods(tell)),
    )
}

#[test]
fn engines_of_the_newest_revision_are_told_its_target_and_all_others_its_sleep_alone() {
    let (mut facts, _) = mixed();
    let nobody = desired(&facts);
    assert_eq!(told(&nobody), (vec![], vec![]), "their files said so");
    assert!(matches!(nobody.outcome.told, steer::Stand::Applied(_)));
    change(&mut facts, asleep);
    let both = desired(&facts);
    assert_eq!(told(&both), (vec!["a", "b"], vec!["old"]));
    let (target, (order, _)) = (&both.told.as_ref().unwrap().0, both.told_sleep.unwrap());
    assert_eq!(target.sleep_order(), order);
    assert_eq!(
        (target.generation, order.sleep),
        (4, Some(TargetSleep { level: 1 }))
    );
    assert!(matches!(both.outcome.told, steer::Stand::Pending(_)));
    assert!(matches!(both.outcome.slept, steer::Stand::Pending(_)));
}

/// Whatever keeps the spec from leading to a revision: all are told who sleeps, and the status says why
/// they are told no more.
#[test]
fn while_the_spec_leads_to_no_revision_or_its_rollout_waits_all_are_told_its_sleep_alone() {
    type Case = fn(&mut Facts);
    let table: [(Case, &str); 4] = [
        (
            |facts| change(facts, refused),
            "the spec is refused (MemoryFits says why)",
        ),
        (
            // Nobody has read the new source yet.
            |facts| {
                change(facts, |object| {
                    object.spec.model.source.path = Some("other".to_owned());
                });
            },
            "the model is not read (ModelResolved says why)",
        ),
        (
            |facts| {
                change(facts, |object| {
                    object.spec.memory.gpu_quotas[0].limit.0 = "none".to_owned();
                });
            },
            "the spec cannot be used as it is (Ready says why)",
        ),
        (
            |facts| {
                facts.replica_sets.remove(1);
                facts
                    .pods
                    .iter_mut()
                    .for_each(|pod| "0ld".clone_into(&mut pod.revision));
                facts.replica_sets[0].spec = crate::build::spec_hash(&facts.object);
                facts.turn = Turn::Waits("another rolls".to_owned());
            },
            "the rollout waits for its turn",
        ),
    ];
    for (case, why) in table {
        let (mut facts, _) = mixed();
        case(&mut facts);
        change(&mut facts, asleep);
        let desire = desired(&facts);
        assert_eq!(told(&desire), (vec![], vec!["a", "b", "old"]), "{why}");
        let generation = facts.identity.generation;
        let stand = &desire.outcome.told;
        assert_eq!(
            stand.words().unwrap(),
            &format!(
                "generation {generation} waits, and engines keep the memory that they have: {why}"
            ),
        );
        assert!(matches!(stand, steer::Stand::Pending(_)), "{stand:?}");
        // Those that run begin again with it, and with the memory that they have.
        for (revision, before) in &facts.files {
            let lives = facts.pods.iter().any(|pod| pod.revision == *revision);
            let written = files_of(&desire, revision);
            assert_eq!(written.is_some(), lives, "{why}");
            let Some(after) = written else { continue };
            assert_eq!(after.boot, before.boot);
            assert_eq!(after.target.generation, 3);
            assert!(after.target.same_demand(&before.target));
            assert_eq!(after.target.sleep, Some(TargetSleep { level: 1 }));
        }
    }
    // The API server refuses what the spec describes.
    let (mut facts, _) = mixed();
    change(&mut facts, asleep);
    let mut desire = desired(&facts);
    desire.refuse(&facts, "no").unwrap();
    assert_eq!(told(&desire), (vec![], vec!["a", "b", "old"]));
    assert!(files_of(&desire, "0ld").is_some());
    let stand = desire.outcome.told;
    assert!(
        stand.words().unwrap().contains("cannot be used"),
        "{stand:?}"
    );
}

#[test]
fn a_file_is_written_for_another_sleep_alone_and_as_the_revision_would_write_it() {
    let (mut facts, revision) = mixed();
    // What a wait or a refusal leaves is what was made, to the letter.
    let made = desired(&facts);
    let maps = |desire: &Desire| {
        let maps = desire.children.iter().cloned();
        let maps = maps.filter(|it| it.kind == ChildKind::ConfigMap);
        maps.collect::<Vec<Prepared>>()
    };
    let whole = maps(&made).pop().unwrap();
    let files = &facts.files[&revision];
    let again = crate::build::config_map(
        &facts.object,
        &facts.identity,
        &revision,
        (&files.boot, &files.target),
    );
    assert_eq!(again.unwrap(), whole);
    assert_eq!(maps(&made).len(), 1, "nothing of 0ld's changed");
    change(&mut facts, refused);
    assert!(
        maps(&desired(&facts)).is_empty(),
        "not for every generation"
    );
    change(&mut facts, asleep);
    assert_eq!(maps(&desired(&facts)).len(), 2);
    // A revision without pods begins with what it is told when it is made again.
    facts.replica_sets[0].replicas = 0;
    facts.pods.pop();
    assert_eq!(maps(&desired(&facts)).len(), 1);
}

#[test]
fn a_file_that_waits_for_a_memory_limit_has_the_newest_sleep_all_the_same() {
    let (mut facts, revision) = mixed();
    let map = (ChildKind::ConfigMap, format!("smollm2-{revision}"));
    facts.children.insert(map, Default::default());
    for pod in &mut facts.pods {
        (pod.limit.asked, pod.limit.in_force) = (Some(1 << 20), Some(1 << 20));
    }
    let before = facts.files[&revision].target.clone();
    change(&mut facts, |object| {
        object.spec.memory.gpu_quotas[0].limit.0 = "320Mi".to_owned();
    });
    assert!(files_of(&desired(&facts), &revision).is_none());
    change(&mut facts, asleep);
    let file = files_of(&desired(&facts), &revision).unwrap();
    assert_eq!(
        file.target,
        before.with_sleep(&crate::build::sleep_order(&facts.object))
    );
}

/// Awake they are where nobody asks for a sleep: those that cannot be told hold nothing up.
#[test]
fn engines_that_cannot_be_told_are_waited_for_only_where_a_sleep_is_asked_for() {
    let (mut facts, _) = mixed();
    facts.pods[2] = engine("old", "0ld", running(false));
    facts.reports.remove("old");
    change(&mut facts, |object| object.spec.sleep = None);
    assert_eq!(desired(&facts).outcome.slept, steer::Stand::Nobody);
    change(&mut facts, asleep);
    let stand = desired(&facts).outcome.slept;
    assert_eq!(
        stand.words().unwrap(),
        "the sleep of generation 5, told alone, is in force in 0 of 1 engines; pod old is loading"
    );
}

fn saying(state: EngineState, sleep: i64, outcome: TargetOutcome) -> MemoryReport {
    let mut report = report(300);
    report.state = state;
    report.sleep_level = (state == EngineState::Asleep).then_some(1);
    let mut told = report.target.clone().unwrap();
    (told.generation, told.outcome) = (sleep, outcome);
    report.sleep = Some(told);
    report
}

/// A refused spec stays refused, and says of its engines that they sleep as asked, and wake.
#[test]
fn of_a_refused_spec_the_status_says_who_sleeps() {
    use EngineState::{Asleep, Serving, Waking};
    use TargetOutcome::{Applied, Deferred};
    let (mut facts, revision) = mixed();
    facts.replica_sets.remove(0);
    facts.pods.pop();
    change(&mut facts, refused);
    change(&mut facts, asleep);
    let look = |facts: &mut Facts, is_ready: bool, said: MemoryReport| {
        for (index, name) in ["a", "b"].into_iter().enumerate() {
            let pod = if is_ready { ready() } else { hung() };
            facts.pods[index] = engine(name, &revision, pod);
            facts.reports.insert(name.to_owned(), heard(said.clone()));
        }
        let desire = desired(facts);
        assert_eq!(desire.replicas[0].1, 2, "nothing is replaced");
        let told = status(facts, &desire.outcome);
        let find = |kind: &str| {
            let found = told.conditions.iter().find(|it| it.type_ == kind).unwrap();
            (found.reason.clone(), found.message.clone())
        };
        assert_eq!(find("Ready").0, "QuotaTooSmall");
        let row = told.memory.as_ref().unwrap().targets[0].clone();
        let said = (
            find("Available").0,
            find("TargetApplied"),
            row.sleep_generation,
        );
        facts.status = told;
        said
    };
    let (available, (reason, words), row) = look(&mut facts, true, saying(Serving, 3, Applied));
    assert_eq!(
        (&*available, &*reason, row),
        ("ReplicasAnswer", "TargetPending", None)
    );
    assert!(words.contains("pod a is being told"), "{words}");
    let (available, (_, words), row) = look(&mut facts, false, saying(Asleep, 5, Applied));
    assert_eq!((&*available, row), ("Sleeping", Some(5)));
    assert_eq!(
        words,
        "generation 5 waits, and engines keep the memory that they have: the spec is refused \
         (MemoryFits says why); the sleep of generation 5, told alone, is in force in all engines (2)"
    );
    // An operator that began again believes what stands, and tells nobody anything.
    let mut unheard = facts.clone();
    unheard.reports.clear();
    let desire = desired(&unheard);
    let again = status(&unheard, &desire.outcome);
    let of = |status: &plimsoll_crds::v1alpha1::InferenceDeploymentStatus| {
        let all = status.conditions.iter();
        all.map(|it| (it.type_.clone(), it.reason.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(of(&again), of(&facts.status));
    assert_eq!(told(&desire), (vec![], vec![]));
    change(&mut facts, |object| {
        object.spec.sleep.as_mut().unwrap().state = SleepState::Awake;
    });
    let (available, (reason, words), _) = look(&mut facts, false, saying(Waking, 6, Deferred));
    assert_eq!(
        (&*available, &*reason),
        ("NoReadyReplicas", "TargetPending")
    );
    assert!(words.contains("in 0 of 2 engines"), "{words}");
    let (available, _, row) = look(&mut facts, true, saying(Serving, 6, Applied));
    assert_eq!((&*available, row), ("ReplicasAnswer", Some(6)));
}

/// Half way through a rollout those of the older revision sleep and count as ones that answer.
#[test]
fn a_rollout_whose_old_pods_were_put_to_sleep_alone_goes_on() {
    let (mut facts, revision) = mixed();
    change(&mut facts, asleep);
    facts.replica_sets[0].replicas = 2;
    facts.replica_sets[1].replicas = 1;
    facts.pods.clear();
    let said = |state| heard(saying(state, 4, TargetOutcome::Applied));
    let mut table = vec![("a", &*revision, running(false), None)];
    for name in ["old", "older"] {
        table.push((name, "0ld", hung(), Some(EngineState::Asleep)));
    }
    facts.reports.clear();
    for (name, of, pod, state) in table {
        facts.pods.push(engine(name, of, pod));
        facts
            .reports
            .extend(state.map(|it| (name.to_owned(), said(it))));
    }
    let before = desired(&facts);
    assert_eq!(
        before.replicas[0].1, 2,
        "none goes before the new one is there"
    );
    facts.pods[0] = engine("a", &revision, hung());
    facts
        .reports
        .insert("a".to_owned(), said(EngineState::Asleep));
    let after = desired(&facts);
    assert_eq!(
        after.replicas[0].1, 1,
        "a sleeper is as good as one that answers"
    );
    assert_eq!(after.replicas.len(), 2);
}

/// What an engine says of its sleep counts, whatever it says of a target's memory.
#[test]
fn who_was_woken_by_hand_is_known_by_the_sleep_that_it_was_told() {
    use crate::sleepers::{Rest, in_place, rest};
    let (mut facts, _) = mixed();
    change(&mut facts, asleep);
    let mut rests = |target: (i64, TargetOutcome), sleep: (i64, TargetOutcome)| {
        let mut said = saying(EngineState::Serving, sleep.0, sleep.1);
        let told = said.target.as_mut().unwrap();
        (told.generation, told.outcome) = target;
        facts.reports.insert("a".to_owned(), heard(said));
        assert_eq!(
            in_place(&facts, &facts.pods[0]),
            sleep == (4, TargetOutcome::Applied)
        );
        rest(&facts, &facts.pods[0])
    };
    use TargetOutcome::{Applied, Deferred, Refused};
    for target in [(3, Applied), (4, Refused), (4, Deferred)] {
        assert_eq!(rests(target, (4, Applied)), Rest::WokenByHand);
        for sleep in [(3, Applied), (4, Deferred)] {
            let words = "pod a is going to sleep".to_owned();
            assert_eq!(rests(target, sleep), Rest::GoingToSleep(words));
        }
    }
}
