//! What status says of targets, pod by pod, and when that is worth a write.

use plimsoll_crds::v1alpha1::TargetOutcome;

use super::*;

#[test]
fn who_hears_of_a_generation_makes_no_write_of_its_own_and_what_becomes_of_it_does() {
    let mut facts = with_pods([ready(), ready()]);
    let mut look = |of: [(i64, TargetOutcome); 2]| {
        for (name, (generation, outcome)) in ["a", "b"].into_iter().zip(of) {
            let mut report = report(500);
            let target = report.target.as_mut().unwrap();
            (target.generation, target.outcome) = (generation, outcome);
            facts.reports.insert(name.to_owned(), heard(report));
        }
        told(&facts)
    };
    let second = Some(Duration::from_secs(1));
    let soon = Due::In(Duration::from_secs(2));
    let decide = |written, next| due(written, next, second, PATIENCE);
    use TargetOutcome::{Applied, Refused};
    let nobody = look([(2, Applied), (2, Applied)]);
    let one = look([(3, Applied), (2, Applied)]);
    let all = look([(3, Applied), (3, Applied)]);
    assert_eq!(decide(&nobody, &one), soon);
    assert_eq!(decide(&one, &all), Due::Now, "the condition flips");
    let refused = look([(3, Applied), (3, Refused)]);
    assert_eq!(decide(&one, &refused), Due::Now);
    // Rows follow an answer that the condition told of already.
    let mut late = all.clone();
    late.memory.as_mut().unwrap().targets[1].generation = 2;
    assert_eq!(decide(&late, &all), soon);
    assert_eq!(decide(&all, &all), Due::Nothing);
}

#[test]
fn an_engines_own_words_are_cut_to_what_a_status_holds() {
    let mut facts = with_pods([ready(), ready()]);
    let mut talks = report(500);
    talks.target.as_mut().unwrap().message = "é".repeat(100_000);
    facts.reports.insert("a".to_owned(), heard(talks));
    let words = |status: &InferenceDeploymentStatus| {
        let rows = &status.memory.as_ref().unwrap().targets;
        rows[0].message.chars().count()
    };
    let status = told(&facts);
    let most = words(&status);
    assert!(most > 100 && most < 5_000, "{most}");
    // As an operator wrote it that did not cut.
    facts.status = status;
    facts.status.memory.as_mut().unwrap().targets[0].message = "é".repeat(100_000);
    facts.reports.clear();
    assert_eq!(words(&told(&facts)), most);
}
