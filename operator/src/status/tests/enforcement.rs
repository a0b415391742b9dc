//! Who holds the ranks to their lines, and whether that can be known.

use super::*;

#[test]
fn who_enforces_the_quotas_is_told_with_the_values() {
    let words = |yaml: &str| {
        let told = told(&inspected(yaml));
        let found = find(&told, "QuotaEnforced").unwrap();
        (found.reason.clone(), found.message.clone())
    };
    let (reason, message) = words(SMOLLM2);
    assert_eq!(reason, "EngineAndMemoryLimit");
    assert!(
        message.contains("quota (rank 0: 300Mi, rank 1: 700Mi)"),
        "{message}"
    );
    let bytes = plimsoll_planner::Bytes::measured;
    let needed = free_plan(&object(SMOLLM2), &smollm2())
        .unwrap()
        .container
        .needed;
    let sum = format!("memory limit of {}, the sum", bytes(needed));
    assert!(message.contains(&sum), "{message}");
    let limit = "spec:\n  template: {engine: {resources: {limits: {memory: 64Gi}}}}\n";
    let (reason, message) = words(&SMOLLM2.replace("spec:\n", limit));
    assert_eq!(reason, "EngineAlone");
    let above = bytes((64 << 30) - needed);
    let words = format!("memory limit of 64.00 GiB, which is {above} above");
    assert!(message.contains(&words), "{message}");
}

#[test]
fn a_limit_that_was_not_lowered_is_no_bound_and_is_told_with_its_number() {
    let mut facts = inspected(SMOLLM2);
    let revision = wanted_revision(&facts);
    let planned = free_plan(&object(SMOLLM2), &smollm2()).unwrap().container;
    let asked = |facts: &Facts| {
        let found = told(facts);
        let found = find(&found, "QuotaEnforced").unwrap();
        (found.reason.clone(), found.message.clone())
    };
    facts.pods = ["a", "b", "old"]
        .map(|pod| engine(pod, &revision, ready()))
        .to_vec();
    facts.pods[2].revision = "0ld".to_owned();
    for (pod, more) in facts.pods.iter_mut().zip([0, 0, 1 << 30]) {
        pod.limit.in_force = Some(planned.limit + more);
    }
    assert_eq!(asked(&facts).0, "EngineAndMemoryLimit");
    facts.pods[1].limit.in_force = Some(planned.limit + (1 << 30));
    let (reason, message) = asked(&facts);
    assert_eq!(reason, "EngineAlone");
    let bytes = plimsoll_planner::Bytes::measured;
    let more = bytes(planned.limit + (1 << 30));
    let words = format!("in pod b: its container's memory limit in force is {more}, which is ");
    assert!(message.contains(&words), "{message}");
    let wanted = format!("is to be {}", bytes(planned.limit));
    assert!(message.ends_with(&wanted), "{message}");
}

#[test]
fn a_pod_that_refuses_the_token_leaves_the_pressure_unknown_and_is_named() {
    let mut facts = inspected(SMOLLM2);
    let revision = wanted_revision(&facts);
    facts.pods = vec![engine("a", &revision, ready())];
    let mut known = heard(report(500));
    known.refused = true;
    facts.reports.insert("a".to_owned(), known);
    let status = told(&facts);
    let pressure = find(&status, "MemoryPressure").unwrap();
    assert_eq!(
        (pressure.status.as_str(), pressure.reason.as_str()),
        ("Unknown", "ReportsRefused")
    );
    assert!(
        pressure
            .message
            .contains("pod a refuses the operator's token (401)")
    );
}
