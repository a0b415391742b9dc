//! Whether the container has room for what an engine is to start with: an operator raises its memory
//! limit before it tells a larger target, and a container that starts again may read the target first.

use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll_kernels::device::{Cpu, Device};

use crate::config::{Asked, Planned, Settings};
use crate::error::BootError;
use crate::http::app::App;
use crate::resizes::Resizes;
use crate::target::Held;

/// How long a container waits for its memory limit before it ends, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(300);
const EVERY: Duration = Duration::from_millis(500);

/// Makes what is told the engine's to hold to. An operator's plan waits for its container's limit, and
/// what it is told meanwhile is what it starts with.
///
/// # Errors
/// A limit that stays too low, or without an operator is, with both numbers.
pub(crate) fn hold(app: &App, settings: &Settings, planned: Planned) -> Result<Planned, BootError> {
    let target = match &settings.memory {
        Asked::Documents(documents) => Some(documents.target.clone()),
        Asked::Flags(_) => None,
    };
    let limit = || Cpu.total_memory().ok();
    let resizes = Arc::new(Resizes::new(planned, target.clone(), limit));
    // Boot comes here once.
    let _ = app.resizes.set(Arc::clone(&resizes));
    if let Some(target) = target {
        let held = Held::new(target).with(Arc::clone(&resizes));
        let _ = app.identity.target.set(held);
        wait(app, &resizes, PATIENCE, EVERY)?;
    } else if let Err(over) = resizes.held() {
        // Nobody raises a limit for who typed flags.
        return Err(BootError::Flag(format!(
            "--quota: {over}; lower it, or --kv-cache-size"
        )));
    }
    Ok(resizes.start())
}

/// Waits until the container holds what is wanted.
fn wait(
    app: &App,
    resizes: &Resizes,
    patience: Duration,
    every: Duration,
) -> Result<(), BootError> {
    let end = Instant::now() + patience;
    let mut told = false;
    while let Err(over) = resizes.held() {
        if !std::mem::replace(&mut told, true) {
            let (needed, limit) = (over.needed.get(), over.limit.get());
            tracing::warn!(needed, limit, "waiting for the container's memory limit");
        }
        app.set_waiting(Some(over));
        if Instant::now() >= end {
            return Err(BootError::OverLimit(over));
        }
        std::thread::sleep(every);
    }
    app.set_waiting(None);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use plimsoll_crds::v1alpha1::report::EngineState;
    use plimsoll_planner::Bytes;

    use super::*;
    use crate::http::app::HttpLimits;
    use crate::http::testing::empty_app;
    use crate::resizes::tests::{resizes, target};

    static LIMIT: AtomicU64 = AtomicU64::new(100 << 20);

    fn limit() -> Option<Bytes> {
        Some(Bytes::measured(LIMIT.load(Relaxed)))
    }

    #[test]
    fn an_engine_waits_for_its_containers_limit_says_so_and_never_starts_above_it() {
        let app = empty_app(HttpLimits::default());
        let resizes = resizes(limit);
        let refused = wait(&app, &resizes, Duration::ZERO, EVERY).unwrap_err();
        let words = refused.to_string();
        assert!(
            words.contains("is 100.00 MiB; it was waited for"),
            "{words}"
        );
        let report = app.report();
        assert_eq!(report.state, EngineState::Loading);
        assert_eq!(report.progress.unwrap().stage, "WaitingForMemoryLimit");
        assert!(words.starts_with(&report.message), "{}", report.message);
        // Raised while somebody waits, who is told a smaller target, too.
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| wait(&app, &resizes, PATIENCE, Duration::from_millis(1)));
            resizes.tell(&target(4, [6, 7])).unwrap_err();
            LIMIT.store(4 << 30, Relaxed);
            waits.join().unwrap().unwrap();
        });
        assert_eq!(app.report().message, "");
    }
}
