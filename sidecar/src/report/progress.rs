//! How far an engine is: its weights are read, or the rest of its KV cache is taken.
//!
//! One that takes memory computes requests already; to whoever counts bytes it is not there yet, and
//! its rows change until it is.

use plimsoll_crds::v1alpha1::report::LoadProgress;
use plimsoll_planner::Account;

use crate::engine::handle::Progress;
use crate::memory::snapshot::LedgerSnapshot;

/// What is done while the KV cache is taken behind the first requests.
const TAKING_MEMORY: &str = "TakingMemory";

pub(super) fn of(load: &Progress, filling: bool, ledger: &LedgerSnapshot) -> LoadProgress {
    if !filling {
        return LoadProgress {
            stage: load.stage.to_owned(),
            done_bytes: load.done_bytes,
            total_bytes: load.total_bytes,
        };
    }
    let rows = ledger.ranks.iter().flat_map(|rank| &rank.accounts);
    let caches = rows.filter(|row| row.account == Account::KvCache);
    let sums = caches.fold((0, 0), |(done, total), row| {
        (done + row.reserved.get(), total + row.planned.get())
    });
    LoadProgress {
        stage: TAKING_MEMORY.to_owned(),
        done_bytes: sums.0,
        total_bytes: sums.1,
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_crds::v1alpha1::report::EngineState as ReportedState;

    use super::super::tests::{identity, view};
    use crate::engine::handle::EngineState;
    use crate::report::HostReader;

    #[test]
    fn an_engine_that_still_takes_memory_is_loading_to_whoever_counts_bytes() {
        for (filling, state) in [
            (true, ReportedState::Loading),
            (false, ReportedState::Serving),
        ] {
            let mut view = view(EngineState::Serving);
            view.rest.filling = filling;
            let cache = view.ledger.ranks[0].accounts[1];
            let report = super::super::build(&identity(), || Some(view), false, &HostReader::new());
            assert_eq!(report.state, state);
            let progress = report
                .progress
                .map(|at| (at.stage, at.done_bytes, at.total_bytes));
            let (done, total) = (cache.reserved.get(), cache.planned.get());
            let expected = filling.then(|| ("TakingMemory".to_owned(), done, total));
            assert_eq!(progress, expected);
        }
    }
}
