//! The summary of memory, beside the rows that it sums up.

use super::*;

#[test]
fn totals_follow_a_pod_that_goes_without_ever_having_reported() {
    let mut facts = with_pods([ready(), running(false)]);
    let mut object = (*facts.object).clone();
    object.spec.replicas = Some(1);
    facts.object = object.into();
    facts.reports = [("a".to_owned(), heard(report(900)))].into();
    let totals = |status: &InferenceDeploymentStatus| {
        let summary = status.memory.clone().unwrap().summary.unwrap();
        (summary.planned.unwrap(), summary.quota.unwrap())
    };
    let alone = ("900".to_owned(), "1000".to_owned());
    let two = told(&facts);
    assert_ne!(totals(&two), alone, "the second one is planned for");
    // It is told to go: it will never report.
    facts.pods[1].leaves_at = Some(at(40));
    let leaving = told(&facts);
    assert_eq!(totals(&leaving), alone);
    // Gone, where a status was written before that counted it: nothing but the totals tells.
    facts.pods.pop();
    let gone = told(&facts);
    assert_eq!(totals(&gone), alone);
    let mut stands = gone.clone();
    stands.memory.as_mut().unwrap().summary = two.memory.unwrap().summary;
    let soon = Some(Duration::from_secs(1));
    assert_eq!(due(&stands, &gone, soon, PATIENCE), Due::Now);
}
