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
