//! Adapters that the newest target names and that are in no slot as it asks for them.

use plimsoll_crds::v1alpha1::report::{DynamicAdapterReport, DynamicAdapterState};

use crate::target::adapters::{Standing, Wanted};

/// Of what is told about one.
const MESSAGE_CHARS: usize = 400;

/// What all rows may take as JSON. An operator reads a report of 256 KiB; its other parts are bounded by
/// the number of ranks.
const BYTES: usize = 128 << 10;

/// Leaves out what passes the bound, and tells how many rows that was: first of those that no target
/// named, whose paths nobody bounds.
pub(super) fn bound(rows: &mut Vec<DynamicAdapterReport>, wanted: Option<&Wanted>) -> Option<u32> {
    // A comma, or a bracket.
    let bytes =
        |row: &DynamicAdapterReport| serde_json::to_vec(row).map_or(BYTES, |row| row.len() + 1);
    let sizes: Vec<usize> = rows.iter().map(bytes).collect();
    if sizes.iter().sum::<usize>() <= BYTES {
        return None;
    }
    let is_asked = |row: &DynamicAdapterReport| {
        let mut asked = wanted.iter().flat_map(|wanted| wanted.standings());
        asked.any(|(asked, _)| asked.name == row.name)
    };
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|at| !is_asked(&rows[*at]));
    let mut room = BYTES;
    let mut kept = vec![false; rows.len()];
    for at in order {
        if let Some(less) = room.checked_sub(sizes[at]) {
            (room, kept[at]) = (less, true);
        }
    }
    let before = rows.len();
    let mut kept = kept.into_iter();
    rows.retain(|_| kept.next().unwrap_or(false));
    u32::try_from(before - rows.len()).ok()
}

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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use plimsoll_crds::v1alpha1::adapters::AdapterScale;
    use plimsoll_crds::v1alpha1::boot::BootAdapter;

    use super::*;
    use crate::engine::dynamic::{AdapterInSlot, AdaptersInSlots};

    /// In slots, under a path of so many characters that take six bytes each in JSON.
    fn in_slots(count: u32, path: usize) -> Vec<DynamicAdapterReport> {
        let slot = |slot: u32| AdapterInSlot {
            name: format!("a{slot}"),
            path: "\u{1}".repeat(path).into(),
            scale: AdapterScale::ONE,
            digest: "sha256:".repeat(10),
            rank: 8,
            matrices: 14,
            slot,
            load: 1,
            leaving: false,
            answers_change: Some(0.5),
        };
        let dynamic = AdaptersInSlots {
            adapters: (0..count).map(slot).collect(),
            ..AdaptersInSlots::default()
        };
        super::super::adapters::in_slots(&dynamic, false)
    }

    #[test]
    fn rows_stay_within_their_bytes_and_those_of_the_target_are_left_out_last() {
        let mut wanted = Wanted::default();
        let asked = BootAdapter {
            name: "a255".to_owned(),
            path: "/a".to_owned(),
            scale: AdapterScale::ONE,
        };
        wanted.tell(&[asked], Instant::now());
        for (count, path, all) in [(256, 20, true), (256, 680, false), (9, 30_000, false)] {
            let mut rows = in_slots(count, path);
            beside(&mut rows, &wanted);
            let before = u32::try_from(rows.len()).unwrap();
            let left_out = bound(&mut rows, Some(&wanted));
            assert_eq!(left_out.is_none(), all, "{count} {path}");
            let left_out = left_out.unwrap_or_default();
            assert_eq!(rows.len(), (before - left_out) as usize);
            let bytes = serde_json::to_vec(&rows).unwrap().len();
            assert!(bytes <= BYTES + 1, "{bytes}");
            // Another row would not have fitted, and order is kept.
            let next = serde_json::to_vec(&in_slots(1, path)[0]).unwrap().len();
            assert!(all || bytes + next + 8 > BYTES, "{bytes} {next}");
            let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
            assert!(names.contains(&"a255"), "{names:?}");
        }
    }
}
