//! Which weights status says that pods answer with.

use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::weights::WeightsRow;

use super::*;

fn say(facts: &mut Facts, pod: &str, version: &str, verified: Option<bool>, message: &str) {
    let mut report = report(500);
    report.weight_version = version.to_owned();
    report.weights_verified = verified;
    report.message = message.to_owned();
    facts.reports.insert(pod.to_owned(), heard(report));
}

fn verified(status: &InferenceDeploymentStatus) -> Option<(String, String)> {
    let mut conditions = status.conditions.iter();
    let found = conditions.find(|condition| condition.type_ == "WeightsVerified");
    found.map(|found| (found.status.clone(), found.message.clone()))
}

#[test]
fn versions_stand_per_pod_and_as_one_where_all_agree() {
    let mut facts = with_pods([ready(), ready()]);
    say(&mut facts, "a", "", None, "");
    facts.reports.remove("b");
    assert_eq!(told(&facts).weights, None, "nothing is loaded");
    say(&mut facts, "a", "default", None, "");
    say(&mut facts, "b", "default", None, "");
    let status = told(&facts);
    assert_eq!(status.weights.unwrap().version.as_deref(), Some("default"));
    assert_eq!(verified(&told(&facts)), None, "nobody was woken");
    say(&mut facts, "b", "step-1", Some(true), "");
    let status = told(&facts);
    let weights = status.weights.clone().unwrap();
    assert_eq!(weights.version, None);
    let row = |pod: &str, version: &str, verified| WeightsRow {
        pod: pod.to_owned(),
        version: version.to_owned(),
        verified,
    };
    let rows = [row("a", "default", None), row("b", "step-1", Some(true))];
    assert_eq!(weights.pods, rows);
    assert_eq!(verified(&status).unwrap().0, "True");
    // An operator that has begun anew says what it said.
    facts.status = status.clone();
    facts.reports.clear();
    assert_eq!(told(&facts).weights, status.weights);
    assert_eq!(verified(&told(&facts)), verified(&status));
}

#[test]
fn a_mixture_is_told_with_the_engines_words_until_it_is_mended() {
    let mut facts = with_pods([ready(), ready()]);
    say(&mut facts, "a", "1", Some(true), "");
    let words = "a pushed update ended in or behind tensor `model.norm.weight`";
    say(&mut facts, "b", "1", Some(false), words);
    let status = told(&facts);
    let (is, message) = verified(&status).unwrap();
    assert_eq!((is.as_str(), message), ("False", format!("pod b: {words}")));
    facts.status = status.clone();
    facts.reports.clear();
    assert_eq!(
        verified(&told(&facts)),
        verified(&status),
        "as it was told last"
    );
    say(&mut facts, "b", "1", Some(true), "");
    assert_eq!(verified(&told(&facts)).unwrap().0, "True");
}

#[test]
fn a_broken_pod_that_has_no_row_is_told_all_the_same() {
    let mut facts = with_pods([ready(), ready()]);
    let revision = facts.pods[0].revision.clone();
    let names: Vec<String> = (0..=names::STATUS_ROWS)
        .map(|it| format!("p{it:03}"))
        .collect();
    facts.pods = names
        .iter()
        .map(|pod| engine(pod, &revision, ready()))
        .collect();
    for pod in &names {
        say(&mut facts, pod, "1", Some(true), "");
    }
    assert_eq!(verified(&told(&facts)).unwrap().0, "True");
    let last = names.last().unwrap();
    say(&mut facts, last, "1", Some(false), "a mixture");
    let status = told(&facts);
    let told = (String::from("False"), format!("pod {last}: a mixture"));
    assert_eq!(verified(&status), Some(told));
    assert_eq!(status.weights.unwrap().pods.len(), names::STATUS_ROWS);
}
