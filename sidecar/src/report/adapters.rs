//! The rows of a report's adapters, and why they should not be served.

use plimsoll_crds::names::MESSAGE_CHARS;
use plimsoll_crds::v1alpha1::report::{AdapterReport, DynamicAdapterReport, DynamicAdapterState};

use crate::adapters::{Compared, Validated, Verdict};
use crate::engine::dynamic::{AdapterInSlot, AdaptersInSlots};

/// Of why answers were not compared.
const WHY_NOT_CHARS: usize = 200;

pub(super) fn of(verdict: &Verdict) -> (Vec<AdapterReport>, String) {
    let Verdict {
        adapters,
        answers_change,
        compared,
        wrong,
    } = verdict;
    let (apart, why_not) = match compared {
        Compared::NotAsked => (None, ""),
        Compared::Cannot(why) => (None, why.as_str()),
        Compared::Apart(apart) => (Some(apart), ""),
    };
    let row = |of: &Validated| {
        let Validated {
            name,
            rank,
            tensors,
            figures,
        } = of;
        AdapterReport {
            name: name.clone(),
            rank: u32::try_from(*rank).unwrap_or(u32::MAX),
            tensors: u32::try_from(*tensors).unwrap_or(u32::MAX),
            numbers: figures.numbers,
            changed_per_million: millionths(figures.changed_share()),
            norm_ratio_per_million: millionths(figures.norm_ratio()),
            lost_per_million: millionths(figures.lost()),
            answers_changed_per_million: answers_change.map(millionths),
            answers_apart_per_million: apart.map(|apart| millionths(apart.share)),
            answers_apart_most_per_million: apart.map(|apart| millionths(apart.bound)),
            answers_not_compared: why_not.chars().take(WHY_NOT_CHARS).collect(),
        }
    };
    let why = wrong.iter().flat_map(|why| why.chars());
    let rows = adapters.iter().map(row).collect();
    (rows, why.take(MESSAGE_CHARS).collect())
}

/// Those that requests choose. `away`: their memory is given back.
pub(super) fn in_slots(dynamic: &AdaptersInSlots, away: bool) -> Vec<DynamicAdapterReport> {
    let row = |of: &AdapterInSlot| DynamicAdapterReport {
        name: of.name.clone(),
        state: match (of.leaving, away) {
            (true, _) => DynamicAdapterState::Leaving,
            (false, true) => DynamicAdapterState::Away,
            (false, false) => DynamicAdapterState::Serving,
        },
        message: String::new(),
        path: of.path.display().to_string(),
        scale: of.scale,
        digest: of.digest.clone(),
        rank: of.rank,
        matrices: u32::try_from(of.matrices).unwrap_or(u32::MAX),
        bytes: dynamic.slot_bytes.get(),
        answers_changed_per_million: of.answers_change.map(millionths),
    };
    dynamic.adapters.iter().map(row).collect()
}

/// Rounded up: what is there is not nothing.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "no less than 0, and what is too large is the largest"
)]
fn millionths(share: f64) -> u32 {
    (share * 1e6).ceil() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_adapters_should_not_be_served_is_told_and_bounded() {
        assert_eq!(of(&Verdict::default()), (Vec::new(), String::new()));
        let wrong = Some("row 3 ".repeat(1000));
        let (_, why) = of(&Verdict {
            wrong,
            ..Verdict::default()
        });
        assert!(why.starts_with("row 3 "));
        assert_eq!(why.chars().count(), MESSAGE_CHARS);
    }

    #[test]
    fn an_adapter_in_a_slot_is_told_with_its_bytes_and_what_it_does() {
        let of = |leaving| AdapterInSlot {
            name: "sql".to_owned(),
            path: "/a/sql".into(),
            scale: plimsoll_crds::v1alpha1::adapters::AdapterScale::ONE,
            digest: "sha256:ab".to_owned(),
            rank: 8,
            matrices: 14,
            slot: 1,
            load: 3,
            leaving,
            answers_change: Some(0.25),
        };
        for (leaving, away, state) in [
            (false, false, DynamicAdapterState::Serving),
            (false, true, DynamicAdapterState::Away),
            (true, true, DynamicAdapterState::Leaving),
        ] {
            let dynamic = AdaptersInSlots {
                slot_bytes: plimsoll_planner::Bytes::measured(700),
                adapters: vec![of(leaving)],
                ..AdaptersInSlots::default()
            };
            let rows = in_slots(&dynamic, away);
            let row = &rows[0];
            assert_eq!((row.state, row.bytes, row.rank), (state, 700, 8));
            assert_eq!(row.answers_changed_per_million, Some(250_000));
        }
    }

    #[test]
    fn a_share_is_rounded_up_and_bounded() {
        for (share, expected) in [
            (0.0, 0),
            (1e-12, 1),
            (0.5, 500_000),
            (1.0, 1_000_000),
            (1e12, u32::MAX),
            (f64::NAN, 0),
        ] {
            assert_eq!(millionths(share), expected, "{share}");
        }
    }
}
