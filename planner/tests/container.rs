//! Quotas and a container's memory limit, refused together: what is recommended holds with both in
//! force.

mod samples;

use plimsoll_planner::{
    Bytes, MOST_CHARACTERS, RankCapacity, Reason, Remedy, Request, plan_within,
};
use proptest::prelude::*;
use samples::{MIB, on_cpu};

/// With quotas in MiB.
fn request(quotas: &[Option<u64>]) -> Request {
    let bytes: Vec<_> = quotas
        .iter()
        .map(|quota| quota.map(|mib| mib * MIB))
        .collect();
    on_cpu(&bytes)
}

/// What a user who takes a remedy writes: the request and the container's limit.
fn taken(remedy: &Remedy, request: &Request, limit: Bytes) -> (Request, Bytes) {
    match remedy {
        Remedy::MemoryLimit { bytes } => (request.clone(), *bytes),
        Remedy::All(all) => all
            .iter()
            .fold((request.clone(), limit), |(request, limit), remedy| {
                taken(remedy, &request, limit)
            }),
        Remedy::TensorParallelSize { ranks } => {
            let open = RankCapacity {
                quota: None,
                total: None,
            };
            let ranks = vec![open; *ranks as usize];
            (
                Request {
                    ranks,
                    ..request.clone()
                },
                limit,
            )
        }
        one => (one.apply(request), limit),
    }
}

#[test]
fn a_limit_and_quotas_that_are_both_too_small_are_told_together() {
    let request = request(&[Some(60), Some(120)]);
    let limit = Bytes::measured(100 * MIB);
    let refusal = plan_within(&request, Some(limit)).unwrap_err();
    let message = refusal.message();
    assert!(
        matches!(refusal.reason, Reason::HostMemoryTooSmall { .. }),
        "{message}"
    );
    for words in [
        "the engine container's memory limit: 100.00 MiB is less than the quotas (180.00 MiB)",
        "the quotas are too small too: rank 1 needs",
        "with the engine container's memory limit at least",
    ] {
        assert!(message.contains(words), "{words} is missing: {message}");
    }
    assert!(!refusal.remedies.is_empty());
    for remedy in &refusal.remedies {
        let (request, limit) = taken(remedy, &request, limit);
        assert!(
            plan_within(&request, Some(limit)).is_ok(),
            "{remedy} does not hold"
        );
    }
}

#[test]
fn a_limit_alone_is_answered_with_a_limit_that_is_enough_and_no_larger_than_must_be() {
    // Ranks without a quota share what is left: just nothing is not enough for them.
    for quotas in [&[Some(300), Some(700)][..], &[None, None], &[None]] {
        let request = request(quotas);
        let limit = Bytes::measured(100 * MIB);
        let refusal = plan_within(&request, Some(limit)).unwrap_err();
        let [Remedy::MemoryLimit { bytes }] = refusal.remedies.as_slice() else {
            panic!("{refusal}")
        };
        assert!(plan_within(&request, Some(*bytes)).is_ok(), "{refusal}");
        let less = Bytes::measured(bytes.get() - MIB);
        assert!(plan_within(&request, Some(less)).is_err(), "{refusal}");
    }
}

#[test]
fn a_quota_that_is_raised_in_a_limit_that_just_holds_needs_a_larger_limit() {
    let request = request(&[Some(60), Some(120)]);
    // The limit holds the quotas as they are, and no larger ones.
    let enough = plan_within(&request, Some(Bytes::measured(4096 * MIB))).unwrap_err();
    let Reason::QuotaTooSmall = enough.reason else {
        panic!("{enough}")
    };
    assert!(!enough.message().contains("memory limit"), "{enough}");
    for limit in (420..=4096).step_by(700) {
        let limit = Bytes::measured(limit * MIB);
        let refusal = plan_within(&request, Some(limit)).unwrap_err();
        assert!(!refusal.remedies.is_empty(), "{refusal}");
        for remedy in &refusal.remedies {
            let (request, limit) = taken(remedy, &request, limit);
            assert!(
                plan_within(&request, Some(limit)).is_ok(),
                "{remedy}: {refusal}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever the quotas and the limit: a remedy that is printed was solved with all of it.
    #[test]
    fn every_remedy_holds_with_everything_else_in_force(
        quotas in proptest::collection::vec(proptest::option::of(1u64..400), 1..4),
        limit in 1u64..1500,
        size in proptest::option::of(1u64..64),
    ) {
        let mut request = request(&quotas);
        request.kv.size = size.map(|mib| Bytes::measured(mib * MIB));
        let limit = Bytes::measured(limit * MIB);
        if let Err(refusal) = plan_within(&request, Some(limit)) {
            prop_assert!(refusal.message().len() <= MOST_CHARACTERS);
            for remedy in &refusal.remedies {
                let (request, limit) = taken(remedy, &request, limit);
                let solved = plan_within(&request, Some(limit));
                prop_assert!(solved.is_ok(), "{remedy} does not hold: {refusal}");
            }
        }
    }
}

#[test]
fn a_refusal_of_one_rank_is_sentences_and_speaks_of_no_quotas_where_none_are_written() {
    let none = request(&[None]);
    let limit = Bytes::measured(20 * MIB);
    let message = plan_within(&none, Some(limit)).unwrap_err().message();
    assert!(
        message.contains("20.00 MiB is less than the host reserve ("),
        "{message}"
    );
    assert!(!message.contains("quotas ("), "{message}");
    let one = request(&[Some(60)]);
    let message = plan_within(&one, None).unwrap_err().message();
    let (_, rest) = message.split_once(", short by ").expect("it is short");
    let (short, rest) = rest.split_once("; it takes ").expect("a clause of its own");
    assert!(short.ends_with("iB"), "{message}");
    assert!(!rest.contains("all ranks"), "said once: {message}");
    assert!(rest.contains(" before any share (") && rest.contains("), and a KV head group adds "));
}
