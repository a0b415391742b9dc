//! What is said of adapters that running engines load.

use plimsoll_crds::v1alpha1::report::{DynamicAdapterReport, DynamicAdapterState};

use super::*;
use crate::build::dynamic_adapters;

fn two() -> Facts {
    let rows = "  adapters:\n  \
                - {name: sql, mode: Dynamic, source: {persistentVolumeClaim: {claimName: t}, path: sql}}\n  \
                - {name: polite, mode: Dynamic, source: {persistentVolumeClaim: {claimName: t}}}\n";
    inspected(&SMOLLM2.replacen("spec:\n", &format!("spec:\n{rows}"), 1))
}

/// An engine's report with the adapters as they are asked for, in these states.
fn says(facts: &Facts, states: &[DynamicAdapterState]) -> ReportFacts {
    let mut said = report(900);
    let row = |(of, state): (
        plimsoll_crds::v1alpha1::boot::BootAdapter,
        &DynamicAdapterState,
    )| {
        DynamicAdapterReport {
            name: of.name,
            path: of.path,
            scale: of.scale,
            state: *state,
            message: match state {
                DynamicAdapterState::Refused => "r is 64, there is room for 16".to_owned(),
                _ => String::new(),
            },
            digest: String::new(),
            rank: 8,
            matrices: 14,
            bytes: 0,
            answers_changed_per_million: None,
        }
    };
    let asked = dynamic_adapters(&facts.object).into_iter();
    said.dynamic_adapters = asked.zip(states).map(row).collect();
    heard(said)
}

#[test]
fn adapters_are_ready_once_every_engine_that_answers_has_loaded_them() {
    use DynamicAdapterState::{Leaving, Loading, Refused, Serving};
    let told_of = |first: &[DynamicAdapterState], second: &[DynamicAdapterState]| {
        let mut known = two();
        let revision = wanted_revision(&known);
        known.pods = ["a", "b", "old"]
            .map(|name| {
                let of = if name == "old" { "before" } else { &revision };
                engine(name, of, crate::testing::ready())
            })
            .to_vec();
        known.reports = [
            ("a".to_owned(), says(&known, first)),
            ("b".to_owned(), says(&known, second)),
            ("old".to_owned(), says(&known, &[])),
        ]
        .into();
        let status = told(&known);
        let found = find(&status, "AdaptersReady").unwrap();
        (
            found.status.clone(),
            found.reason.clone(),
            found.message.clone(),
        )
    };
    let all = [Serving, Serving];
    for (second, status, reason, says) in [
        (
            &all[..],
            "True",
            "AdaptersLoaded",
            "sql: rank 8, loaded in 2 pods; polite: rank 8, loaded in 2 pods",
        ),
        (
            &[Serving, Refused],
            "False",
            "AdapterRefused",
            "adapter `polite`: pod b: r is 64, there is room for 16",
        ),
        (
            &[Loading, Refused],
            "False",
            "AdapterRefused",
            "adapter `polite`: pod b: r is 64, there is room for 16",
        ),
        (
            &[Serving, Loading],
            "Unknown",
            "AdaptersLoading",
            "polite: pod b has it not yet",
        ),
        (
            &[Leaving, Serving],
            "Unknown",
            "AdaptersLoading",
            "sql: pod b has it not yet",
        ),
        (
            &[Serving],
            "Unknown",
            "AdaptersLoading",
            "polite: pod b has it not yet",
        ),
    ] {
        let expected = (status.to_owned(), reason.to_owned(), says.to_owned());
        assert_eq!(told_of(&all, second), expected);
    }
    let mut known = two();
    known.pods = vec![engine(
        "a",
        &wanted_revision(&known),
        crate::testing::ready(),
    )];
    let mut short = says(&known, &[Serving]);
    let report = short.report.as_mut().unwrap();
    std::sync::Arc::make_mut(report).dynamic_adapters_left_out = Some(1);
    known.reports = [("a".to_owned(), short)].into();
    let message = find(&told(&known), "AdaptersReady")
        .unwrap()
        .message
        .clone();
    assert_eq!(
        message,
        "polite: pod a says nothing of it: its report has no room for 1 adapters, whose paths are too \
         long together"
    );
    let none = find(&told(&two()), "AdaptersReady").unwrap().clone();
    assert_eq!(
        (&*none.status, &*none.reason),
        ("Unknown", "AdaptersLoading")
    );
}

/// What an engine has by this name from another place, or in another measure, is not what is asked.
#[test]
fn an_adapter_that_was_asked_for_before_counts_as_none() {
    let mut known = two();
    let revision = wanted_revision(&known);
    known.pods = vec![engine("a", &revision, crate::testing::ready())];
    let loaded = says(&known, &[DynamicAdapterState::Serving; 2]);
    known.reports = [("a".to_owned(), loaded)].into();
    assert_eq!(find(&told(&known), "AdaptersReady").unwrap().status, "True");
    let spec = std::sync::Arc::make_mut(&mut known.object);
    spec.spec.adapters[1].scale.0 = 0.5;
    let said = find(&told(&known), "AdaptersReady").unwrap().clone();
    assert_eq!(
        (&*said.status, &*said.reason),
        ("Unknown", "AdaptersLoading")
    );
    assert_eq!(said.message, "polite: pod a has it not yet");
}
