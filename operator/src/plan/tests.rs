//! Plans and refusals of specs as users write them.

use super::*;
use crate::testing::*;

#[test]
fn two_unequal_ranks_share_three_heads() {
    let accepted = free_plan(&object(SMOLLM2), &smollm2()).unwrap();
    let ranks = &accepted.plan.ranks;
    assert_eq!(ranks.len(), 2);
    let heads: Vec<u32> = ranks
        .iter()
        .map(|r| r.kv_heads.end - r.kv_heads.start)
        .collect();
    assert_eq!(heads.iter().sum::<u32>(), 3, "{heads:?}");
    assert!(
        accepted.summary.contains("rank 1: "),
        "{}",
        accepted.summary
    );
}

#[test]
fn a_refusal_has_the_numbers_and_a_remedy_and_fits_an_event() {
    let rejected = free_plan(&object(REFUSED), &smollm2()).unwrap_err();
    let Rejected::Refused { reason, message } = rejected else {
        panic!("{rejected:?}")
    };
    assert_eq!(reason, Reason::QuotaTooSmall);
    assert!(message.contains("rank 0 needs"), "{message}");
    assert!(message.contains("This fits: "), "{message}");
    assert!(message.chars().count() <= 1000);
}

#[test]
fn a_memory_limit_below_what_is_needed_is_refused_with_the_numbers() {
    let yaml = SMOLLM2.replace(
        "spec:\n",
        "spec:\n  template: {engine: {resources: {limits: {memory: 500Mi}}}}\n",
    );
    let rejected = free_plan(&object(&yaml), &smollm2()).unwrap_err();
    let Rejected::Refused { reason, message } = rejected else {
        panic!("{rejected:?}")
    };
    assert_eq!(reason, Reason::HostMemoryInsufficient);
    assert!(message.starts_with("spec.template.engine.resources.limits.memory: 500.00 MiB"));
    let (_, limit) = message
        .split_once("This fits: spec.template.engine.resources.limits.memory at least ")
        .unwrap_or_else(|| panic!("{message}"));
    assert!(free_plan(&object(&yaml.replace("500Mi", limit)), &smollm2()).is_ok());
}

#[test]
fn quotas_and_a_memory_limit_that_are_both_too_small_are_refused_once() {
    let yaml = SMOLLM2
        .replace("300Mi", "60Mi")
        .replace("700Mi", "120Mi")
        .replace(
            "spec:\n",
            "spec:\n  template: {engine: {resources: {limits: {memory: 100Mi}}}}\n",
        );
    let Rejected::Refused { reason, message } = free_plan(&object(&yaml), &smollm2()).unwrap_err()
    else {
        panic!("not refused")
    };
    assert_eq!(reason, Reason::HostMemoryInsufficient);
    assert!(
        message.contains("memory: 100.00 MiB is less than the quotas"),
        "{message}"
    );
    assert!(
        message.contains("the quotas are too small too"),
        "{message}"
    );
    assert!(
        message.contains(" with spec.template.engine.resources.limits.memory at least "),
        "{message}"
    );
}

#[test]
fn a_larger_memory_limit_is_kept() {
    let yaml = SMOLLM2.replace(
        "spec:\n",
        "spec:\n  template: {engine: {resources: {limits: {memory: 64Gi}}}}\n",
    );
    assert_eq!(
        free_plan(&object(&yaml), &smollm2())
            .unwrap()
            .container
            .limit,
        64 << 30
    );
}

#[test]
fn specs_that_slipped_past_the_api_server_are_invalid_and_say_which_field() {
    for (from, to, field) in [
        ("limit: ", "limit: x", "spec.memory.gpuQuotas[rank 0].limit"),
        ("rank: 1", "rank: 5", "spec.memory.gpuQuotas"),
    ] {
        let yaml = SMOLLM2.replace(from, to);
        assert_ne!(yaml, SMOLLM2);
        match free_plan(&object(&yaml), &smollm2()) {
            Err(Rejected::Invalid(message)) => assert!(message.contains(field), "{message}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_name_that_no_service_can_carry_is_refused_before_anything_is_made() {
    for (name, good) in [
        ("chat", true),
        ("a.b", false),
        ("1a", false),
        (&"a".repeat(52), true),
        (&"a".repeat(53), false),
    ] {
        let mut object = object(SMOLLM2);
        object.metadata.name = Some(name.to_owned());
        assert_eq!(check_name(&object).is_ok(), good, "{name}");
    }
}

/// The words about a spec whose engine container has these `resources`.
fn refused_resources(resources: &str) -> Option<String> {
    let template = format!("spec:\n  template: {{engine: {{resources: {resources}}}}}\n");
    match free_plan(&object(&SMOLLM2.replace("spec:\n", &template)), &smollm2()) {
        Ok(_) => None,
        Err(Rejected::Invalid(message)) => Some(message),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_memory_request_above_the_computed_limit_is_refused_with_both_numbers_and_a_way_out() {
    let computed = free_plan(&object(SMOLLM2), &smollm2())
        .unwrap()
        .container
        .limit;
    let message = refused_resources("{requests: {memory: 64Gi}}").unwrap();
    assert!(
        message.starts_with("spec.template.engine.resources.requests.memory: 64Gi is above"),
        "{message}"
    );
    assert!(
        message.contains(&format!("memory limit {computed} (")),
        "{message}"
    );
    assert!(
        message.contains(&format!("ask for at most {computed}")),
        "{message}"
    );
    assert!(message.ends_with("limits.memory: 64Gi"), "{message}");
    // Both ways out hold.
    assert_eq!(
        refused_resources(&format!("{{requests: {{memory: {computed}}}}}")),
        None
    );
    let raised = "{requests: {memory: 64Gi}, limits: {memory: 64Gi}}";
    assert_eq!(refused_resources(raised), None);
    let by_a_byte = format!("{{requests: {{memory: {}}}}}", computed + 1);
    assert!(refused_resources(&by_a_byte).is_some());
}

#[test]
fn no_request_may_be_above_the_limit_beside_it() {
    for (resources, named) in [
        (
            "{requests: {memory: 4Gi}, limits: {memory: 3Gi}}",
            "requests.memory: 4Gi is above spec.template.engine.resources.limits.memory 3Gi",
        ),
        (
            "{requests: {cpu: 1500m}, limits: {cpu: 1}}",
            "requests.cpu: 1500m is above spec.template.engine.resources.limits.cpu 1",
        ),
        (
            "{requests: {cpu: many}}",
            "requests.cpu: \"many\" is not a quantity",
        ),
    ] {
        let message = refused_resources(resources).unwrap();
        assert!(message.contains(named), "{message}");
    }
    assert_eq!(
        refused_resources("{requests: {cpu: 0}, limits: {cpu: 500m}}"),
        None
    );
    assert_eq!(
        refused_resources("{requests: {cpu: 64, \"a.b/c\": 3}}"),
        None
    );
}
