//! What became of adapters that running engines load. Pure.

use plimsoll_crds::v1alpha1::Reason;
use plimsoll_crds::v1alpha1::boot::BootAdapter;
use plimsoll_crds::v1alpha1::conditions::ConditionStatus::{self, False, True, Unknown};
use plimsoll_crds::v1alpha1::report::{DynamicAdapterReport, DynamicAdapterState, MemoryReport};

use super::loaded;
use crate::build::dynamic_adapters;
use crate::error::bounded;
use crate::facts::Facts;

/// How one adapter stands in all engines of the wanted revision that have come past loading.
#[derive(Debug, Default)]
struct Tally {
    loaded: usize,
    rank: u32,
    /// The first engine that refuses it, and its words.
    refused: Option<String>,
    /// The first that has it not yet.
    waits: Option<String>,
}

/// Whether every engine has every one of them; a refusal is told before one that waits.
pub(super) fn ready(facts: &Facts, revision: Option<&str>) -> (ConditionStatus, Reason, String) {
    let engines: Vec<(&str, &MemoryReport)> = loaded(facts, revision)
        .map(|(pod, report)| (pod.name.as_str(), report))
        .collect();
    let wanted = dynamic_adapters(&facts.object);
    let tallies: Vec<(&BootAdapter, Tally)> = wanted
        .iter()
        .map(|adapter| (adapter, tally(adapter, &engines)))
        .collect();
    if let Some(words) = tallies.iter().find_map(|(_, tally)| tally.refused.clone()) {
        return (False, Reason::AdapterRefused, words);
    }
    if engines.is_empty() {
        let words = "no engine of this spec answers yet that could load them".to_owned();
        return (Unknown, Reason::AdaptersLoading, words);
    }
    if let Some(words) = tallies.iter().find_map(|(_, tally)| tally.waits.clone()) {
        return (Unknown, Reason::AdaptersLoading, words);
    }
    let one = |(adapter, tally): &(&BootAdapter, Tally)| {
        let rank = tally.rank;
        let pods = if tally.loaded == 1 { "pod" } else { "pods" };
        format!(
            "{}: rank {rank}, loaded in {} {pods}",
            adapter.name, tally.loaded
        )
    };
    let words: Vec<String> = tallies.iter().map(one).collect();
    (True, Reason::AdaptersLoaded, bounded(&words.join("; ")))
}

fn tally(adapter: &BootAdapter, engines: &[(&str, &MemoryReport)]) -> Tally {
    let mut tally = Tally::default();
    for (pod, report) in engines {
        let row = report.dynamic_adapters.iter().find(|row| is(adapter, row));
        match row.map(|row| (row.state, row)) {
            Some((DynamicAdapterState::Serving | DynamicAdapterState::Away, row)) => {
                tally.loaded += 1;
                tally.rank = row.rank;
            }
            Some((DynamicAdapterState::Refused, row)) => {
                let why = bounded(&row.message);
                tally
                    .refused
                    .get_or_insert(format!("adapter `{}`: pod {pod}: {why}", adapter.name));
            }
            Some((DynamicAdapterState::Loading | DynamicAdapterState::Leaving, _)) | None => {
                let left_out = report.dynamic_adapters_left_out.filter(|_| row.is_none());
                tally
                    .waits
                    .get_or_insert_with(|| waits(&adapter.name, pod, left_out));
            }
        }
    }
    tally
}

/// A report without a row for it may have had no room for one.
fn waits(adapter: &str, pod: &str, left_out: Option<u32>) -> String {
    match left_out {
        None => format!("{adapter}: pod {pod} has it not yet"),
        Some(rows) => format!(
            "{adapter}: pod {pod} says nothing of it: its report has no room for {rows} adapters, whose \
             paths are too long together"
        ),
    }
}

/// Whether a row is of the adapter as it is asked for now.
fn is(adapter: &BootAdapter, row: &DynamicAdapterReport) -> bool {
    let BootAdapter { name, path, scale } = adapter;
    row.name == *name && row.path == *path && row.scale == *scale
}
