//! The age of rows: where nothing that matters moved, a status is written now and then all the
//! same, so that a reader who sees old rows knows that nobody writes them any more. Pure.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use plimsoll_crds::v1alpha1::InferenceDeploymentStatus;
use plimsoll_crds::v1alpha1::status::MemoryStatus;

use crate::changes::Due;
use crate::pods::age;
use crate::watch::hash_of;

/// Where a renewal is due and no report is newer than the last, one is waited for this long.
const NEXT_REPORT: Duration = Duration::from_secs(30);

/// The pause of one resource: that of the flag, give or take a fifth, always the same for the same
/// resource, so that many that were made together are not renewed together.
pub(crate) fn pause(every: Duration, uid: &str) -> Duration {
    let thousandths = 800 + u32::try_from(hash_of(&uid) % 401).unwrap_or(0);
    every * thousandths / 1000
}

/// Whether rows of pods that report should be renewed, given when a status was last written (none:
/// not by this process).
pub(crate) fn renewal(
    written: &InferenceDeploymentStatus,
    next: &InferenceDeploymentStatus,
    since_last: Option<Duration>,
    pause: Duration,
    now: Timestamp,
) -> Due {
    let rows = |status: &InferenceDeploymentStatus| -> Vec<(Timestamp, bool)> {
        let gpus = status
            .memory
            .iter()
            .flat_map(|memory: &MemoryStatus| &memory.gpus);
        gpus.map(|row| (row.reported_at.0, row.stale)).collect()
    };
    let (before, after) = (rows(written), rows(next));
    let live = || before.iter().zip(&after).filter(|(_, (_, stale))| !stale);
    let Some(oldest) = live().map(|((at, _), _)| *at).min() else {
        return Due::Nothing;
    };
    let since = since_last.unwrap_or_else(|| age(Some(oldest), now));
    match pause.saturating_sub(since) {
        Duration::ZERO if live().any(|((old, _), (new, _))| new > old) => Due::Renewal,
        Duration::ZERO => Due::In(NEXT_REPORT.min(pause)),
        rest => Due::In(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, heard, inspected, ready, report};

    /// A status whose one pod reported at this second.
    fn reported(second: i64, stale: bool) -> InferenceDeploymentStatus {
        let mut facts = inspected(crate::testing::SMOLLM2);
        facts.pods = vec![crate::testing::engine("a", "r", ready())];
        let mut report = report(500);
        report.time.0 = at(second);
        let mut known = heard(report);
        known.stale = stale;
        facts.reports.insert("a".to_owned(), known);
        let desire = crate::desire::desire(
            &facts,
            &crate::testing::settings(),
            "token",
            Duration::from_secs(60),
        );
        crate::status::status(&facts, &desire.unwrap().outcome)
    }

    const PAUSE: Duration = Duration::from_secs(300);

    #[test]
    fn rows_of_pods_that_report_are_renewed_after_the_pause_and_no_sooner() {
        let look = |written: i64, next: i64, since: Option<u64>, now: i64| {
            let since = since.map(Duration::from_secs);
            renewal(
                &reported(written, false),
                &reported(next, false),
                since,
                PAUSE,
                at(now),
            )
        };
        let rest = |seconds| Due::In(Duration::from_secs(seconds));
        assert_eq!(look(0, 28, Some(28), 28), rest(272));
        assert_eq!(look(0, 280, Some(299), 300), rest(1));
        assert_eq!(look(0, 280, Some(300), 300), Due::Renewal);
        // The clock of the node is an hour behind, which changes nothing.
        assert_eq!(look(-3600, -3300, Some(28), 28), rest(272));
        assert_eq!(look(-3600, -3300, Some(300), 300), Due::Renewal);
        // A new process goes by the rows that it finds, and waits for a first report.
        assert_eq!(look(0, 0, None, 100), rest(200));
        assert_eq!(look(0, 0, None, 4_000), rest(30));
        assert_eq!(look(0, 3_990, None, 4_000), Due::Renewal);
    }

    #[test]
    fn silent_pods_and_resources_without_rows_are_never_renewed() {
        let silent = renewal(
            &reported(0, true),
            &reported(0, true),
            None,
            PAUSE,
            at(9_999),
        );
        assert_eq!(silent, Due::Nothing);
        let none = InferenceDeploymentStatus::default();
        assert_eq!(renewal(&none, &none, None, PAUSE, at(9_999)), Due::Nothing);
    }

    #[test]
    fn resources_made_together_are_renewed_within_two_fifths_of_the_pause_of_each_other() {
        let pauses: Vec<u64> = (0..50)
            .map(|index| pause(PAUSE, &format!("uid-{index}")).as_secs())
            .collect();
        let (least, most) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
        assert!(*least >= 240 && *most <= 360, "{least} to {most}");
        assert!(most - least > 60, "{least} to {most}");
        assert_eq!(pause(PAUSE, "uid-1"), pause(PAUSE, "uid-1"));
    }
}
