//! Adapters that the newest target names and that are in no slot as it asks for them.

use plimsoll_crds::v1alpha1::report::{DynamicAdapterReport, DynamicAdapterState};

use crate::target::adapters::{Standing, Wanted};

/// Of what is told about one.
const MESSAGE_CHARS: usize = 400;

/// Adds a row for each to those that are in slots.
pub(super) fn beside(rows: &mut Vec<DynamicAdapterReport>, wanted: &Wanted) {
    for (asked, standing) in wanted.standings() {
        let is_it = |row: &DynamicAdapterReport| {
            row.name == asked.name
                && row.path == asked.path
                && row.scale == asked.scale
                && matches!(
                    row.state,
                    DynamicAdapterState::Serving | DynamicAdapterState::Away
                )
        };
        if rows.iter().any(is_it) {
            continue;
        }
        let (state, why) = match standing {
            Standing::Loading => (DynamicAdapterState::Loading, ""),
            Standing::Loaded => (
                DynamicAdapterState::Refused,
                "was unloaded, or another was loaded in its place, by hand; it comes back by hand, or when its \
                 row in the resource changes",
            ),
            Standing::Refused(why) => (DynamicAdapterState::Refused, why.as_str()),
        };
        rows.push(DynamicAdapterReport {
            name: asked.name.clone(),
            path: asked.path.clone(),
            scale: asked.scale,
            state,
            message: why.chars().take(MESSAGE_CHARS).collect(),
            digest: String::new(),
            rank: 0,
            matrices: 0,
            bytes: 0,
            answers_changed_per_million: None,
        });
    }
}
