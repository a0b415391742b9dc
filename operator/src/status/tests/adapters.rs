//! What is said of adapters, and what a broken one leaves alone.

use plimsoll_crds::v1alpha1::Reason;
use plimsoll_crds::v1alpha1::facts::AdapterFacts;
use plimsoll_crds::v1alpha1::report::{AdapterReport, EngineState};
use plimsoll_crds::v1alpha1::weights::{WeightsRow, WeightsStatus};

use super::*;
use crate::memory::Failure;

fn ready(facts: &Facts) -> (String, String, String) {
    let status = told(facts);
    let ready = find(&status, "AdaptersReady").unwrap();
    let Condition {
        status,
        reason,
        message,
        ..
    } = ready.clone();
    (status, reason, message)
}

#[test]
fn adapters_are_spoken_of_where_there_are_some() {
    assert!(find(&told(&inspected(SMOLLM2)), "AdaptersReady").is_none());
    let unknown = facts(&with_adapters());
    let (status, reason, _) = ready(&unknown);
    assert_eq!((&*status, &*reason), ("Unknown", "ModelUnresolved"));
    let mut known = inspected(&with_adapters());
    let adapter = |name: &str, tensors| AdapterFacts {
        name: name.to_owned(),
        digest: "sha256:12ab".to_owned(),
        tensors,
    };
    known.status.model.as_mut().unwrap().adapters =
        vec![adapter("sql", 168), adapter("polite", 60)];
    let (status, reason, message) = ready(&known);
    assert_eq!((&*status, &*reason), ("True", "AdaptersMerged"));
    assert_eq!(
        message,
        "sql: 168 tensors, sha256:12ab; polite: 60 tensors, sha256:12ab"
    );
}

#[test]
fn a_broken_adapter_is_named_and_what_runs_is_left_alone() {
    let status = |ready| json!({"phase": "Running", "containerStatuses": [ready]});
    let container = || container("engine", json!({"running": {}}), true);
    let mut facts = with_pods([status(container()), status(container())]);
    let running = facts.pods.clone();
    facts.object = std::sync::Arc::new(object(&with_adapters()));
    let failure = Failure::after(
        None,
        (
            &crate::inspect::source_key(&facts.object.spec),
            facts.identity.generation,
            "pod",
        ),
        (Reason::AdapterInvalid, "adapter `sql`: r is 0".to_owned()),
        facts.now,
    );
    facts.inspect_failure = Some(failure);
    let (status, reason, message) = ready(&facts);
    assert_eq!((&*status, &*reason), ("False", "AdapterInvalid"));
    assert_eq!(message, "adapter `sql`: r is 0");
    let told = told(&facts);
    assert_eq!(find(&told, "Ready").unwrap().reason, "AdapterInvalid");
    assert_eq!(
        find(&told, "ModelResolved").unwrap().reason,
        "AdapterInvalid"
    );
    let desire = desire(&facts, &settings(), "token", PATIENCE).unwrap();
    assert!(desire.outcome.planned == crate::outcome::Planned::Unresolved);
    assert_eq!(facts.pods, running);
}

#[test]
fn an_adapter_that_an_engine_refuses_is_told_with_its_words_until_an_engine_gets_further() {
    let mut known = inspected(&with_adapters());
    let revision = wanted_revision(&known);
    let words = "not served: adapter `sql`: rounding takes 97.0% of what it adds";
    let code = i32::from(plimsoll_crds::names::EXIT_ADAPTER_REFUSED);
    let refusing = crashed(code, words);
    let mut loading = refusing.clone();
    loading["containerStatuses"][0]["state"] = json!({"running": {}});
    let mut answering = loading.clone();
    answering["containerStatuses"][0]["started"] = json!(true);
    for (pod, revision, expected) in [
        (&refusing, revision.as_str(), "AdapterRefused"),
        (&loading, revision.as_str(), "AdapterRefused"),
        (&answering, revision.as_str(), "AdaptersMerged"),
        (&crashed(1, words), revision.as_str(), "AdaptersMerged"),
        (&refusing, "before", "AdaptersMerged"),
    ] {
        known.pods = vec![engine("a", revision, pod.clone())];
        let (status, reason, message) = ready(&known);
        assert_eq!(reason, expected);
        if expected == "AdapterRefused" {
            assert_eq!(status, "False");
            assert_eq!(message, format!("pod a: {words}"));
        }
    }
    known.pods = vec![engine("a", &revision, refusing)];
    let told = told(&known);
    assert_eq!(find(&told, "Ready").unwrap().reason, "PodFailed");
}

/// The inspection has read both adapters.
fn with_both() -> Facts {
    let mut known = inspected(&with_adapters());
    let adapters = ["sql", "polite"].map(|name| AdapterFacts {
        name: name.to_owned(),
        digest: format!("sha256:{}", "12ab".repeat(16)),
        tensors: 14,
    });
    known.status.model.as_mut().unwrap().adapters = adapters.to_vec();
    known
}

fn proved(name: &str) -> AdapterReport {
    AdapterReport {
        name: name.to_owned(),
        rank: 8,
        tensors: 14,
        numbers: 159_744,
        changed_per_million: 981_234,
        norm_ratio_per_million: 1_000_500,
        lost_per_million: 40_100,
        answers_changed_per_million: Some(7),
        answers_apart_per_million: Some(320),
        answers_apart_most_per_million: Some(9_100),
        answers_not_compared: String::new(),
    }
}

fn says(adapters: &[AdapterReport]) -> crate::facts::ReportFacts {
    says_while(EngineState::Serving, adapters)
}

fn says_while(state: EngineState, adapters: &[AdapterReport]) -> crate::facts::ReportFacts {
    let mut report = report(900);
    report.state = state;
    report.weight_version = "default".to_owned();
    report.adapters = adapters.to_vec();
    heard(report)
}

#[test]
fn figures_of_adapters_are_those_of_an_engine_of_the_newest_revision() {
    let mut known = with_both();
    let revision = wanted_revision(&known);
    known.pods = vec![
        engine("old", "before", crate::testing::ready()),
        engine("new", &revision, crate::testing::ready()),
    ];
    known.reports = [
        ("old".to_owned(), says(&[proved("gone")])),
        ("new".to_owned(), says(&[proved("sql")])),
    ]
    .into();
    let (status, _, message) = ready(&known);
    assert_eq!(status, "True");
    assert_eq!(
        message,
        "sql: 14 tensors, sha256:12ab12ab12ab, rank 8, 98.12% of 159744 numbers changed, norm ratio \
         1.000, 4.01% lost to rounding, answers 0.0320% from unmerged ones (0.9100% by rounding); polite: 14 tensors, sha256:12ab12ab12ab"
    );
    let rows = told(&known).weights.unwrap().adapters;
    assert_eq!(rows, [proved("sql")]);
    let other = AdapterReport {
        answers_apart_per_million: None,
        answers_not_compared: "adapter `sql` has use_dora".to_owned(),
        ..proved("sql")
    };
    let mut others = known.clone();
    others.reports.insert("new".to_owned(), says(&[other]));
    let (_, _, message) = ready(&others);
    let words = "answers not compared with unmerged ones: adapter `sql` has use_dora; polite";
    assert!(message.contains(words), "{message}");
    // An operator that has just begun has heard nothing, and unsays nothing.
    known.status = told(&known);
    known.reports.clear();
    assert_eq!(told(&known).weights.unwrap().adapters, rows);
}

#[test]
fn figures_of_other_engines_or_adapters_are_told_of_none() {
    let both = [proved("sql"), proved("polite")];
    // What status knows of which revision, whose pod says what, and what is told then.
    let none: &[AdapterReport] = &[];
    let wanted = wanted_revision(&with_both());
    let wanted = wanted.as_str();
    for (known_of, pod, says, told_of, what) in [
        (
            "before",
            "before",
            Some(says(&both)),
            none,
            "old pods, and a new revision",
        ),
        (
            "before",
            "before",
            None,
            none,
            "the same, and nobody has reported",
        ),
        (wanted, wanted, None, &both, "a new operator"),
        (
            wanted,
            wanted,
            Some(says_while(EngineState::Loading, none)),
            &both,
            "one that loads again",
        ),
        (
            wanted,
            wanted,
            Some(says(none)),
            none,
            "validation is off, or the engine is older",
        ),
        (
            "before",
            wanted,
            Some(says_while(EngineState::Loading, &both)),
            none,
            "not judged yet",
        ),
        (
            "before",
            wanted,
            Some(says_while(EngineState::Failed, &both)),
            none,
            "refused",
        ),
        (
            wanted,
            wanted,
            Some(says(&[proved("gone"), proved("sql")])),
            &both[..1],
            "another name",
        ),
    ] {
        let mut known = with_both();
        known.status.update_revision = Some(known_of.to_owned());
        known.status.weights = Some(WeightsStatus {
            version: None,
            adapters: both.to_vec(),
            pods: vec![WeightsRow {
                pod: "a".to_owned(),
                version: "default".to_owned(),
                verified: None,
            }],
        });
        known.pods = vec![engine("a", pod, crate::testing::ready())];
        known.reports = says
            .map(|said| ("a".to_owned(), said))
            .into_iter()
            .collect();
        assert_eq!(told(&known).weights.unwrap().adapters, told_of, "{what}");
        let (_, _, message) = ready(&known);
        let with_figures = message.matches("lost to rounding").count();
        assert_eq!(with_figures, told_of.len(), "{what}: {message}");
    }
}

#[test]
fn what_is_served_though_it_did_not_pass_is_told_with_the_figures() {
    let mut known = with_both();
    let revision = wanted_revision(&known);
    let doubted = |state| {
        let mut said = says_while(state, &[proved("sql")]);
        let report = std::sync::Arc::make_mut(said.report.as_mut().unwrap());
        report.adapters_refused_for = "adapter `sql`: row 3 of `w` answers".to_owned();
        said
    };
    known.pods = vec![engine("a", &revision, crate::testing::ready())];
    let words = "; pod a serves all the same: adapter `sql`: row 3 of `w` answers";
    for (state, expected) in [(EngineState::Serving, true), (EngineState::Loading, false)] {
        known.reports = [("a".to_owned(), doubted(state))].into();
        let (status, reason, message) = ready(&known);
        assert_eq!((&*status, &*reason), ("True", "AdaptersMerged"));
        assert_eq!(message.ends_with(words), expected, "{message}");
    }
}
