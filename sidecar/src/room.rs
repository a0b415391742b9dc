//! Whether the container has room for what an engine is to start with: an operator raises its memory
//! limit before it tells a larger target, and a container that starts again may read the target first.

use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll_kernels::device::{Cpu, Device};
use plimsoll_planner::{Account, Bytes, RankCapacity, Remedy, Request, plan_within};

use crate::args::{MemoryArgs, in_flags};
use crate::config::{Asked, Planned, Settings};
use crate::error::{BootError, OverLimit};
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
        let planned = resizes.start();
        return Err(BootError::Flag(match &settings.memory {
            Asked::Flags(flags) => too_much(flags, &planned, &over),
            Asked::Documents(_) => over.to_string(),
        }));
    }
    Ok(resizes.start())
}

/// More than this container or machine has, in words: the flag that asks for it, or else what takes the
/// most of it and what fits.
pub fn too_much(flags: &MemoryArgs, planned: &Planned, over: &OverLimit) -> String {
    if !flags.quota.is_empty() {
        return format!("--quota: {over}; lower it");
    }
    if flags.memory_limit.is_some() {
        return format!("--memory-limit: {over}; lower it");
    }
    let bytes = |account: Account| -> Bytes {
        let ranks = planned.plan.ranks.iter();
        ranks.map(|rank| rank.bytes(account)).sum()
    };
    let most = Account::ALL.into_iter().max_by_key(|of| bytes(*of));
    let take = |of: Account| match of.name().ends_with('s') {
        true => "take",
        false => "takes",
    };
    let most = most.map(|of| format!("; {} {} {} of it", of.name(), take(of), bytes(of)));
    format!(
        "{over}{}{}",
        most.unwrap_or_default(),
        what_fits(planned, over.limit)
    )
}

/// What could be asked for in a container of this limit.
fn what_fits(planned: &Planned, limit: Bytes) -> String {
    let open = RankCapacity {
        quota: None,
        total: None,
    };
    let request = Request {
        ranks: vec![open; planned.request.ranks.len()],
        ..planned.request.clone()
    };
    let mebibytes = limit.get() >> 20;
    let limited = plan_within(&request, Some(Bytes::measured(mebibytes << 20)));
    let refusal = match limited {
        Ok(_) => return format!(". This fits: --memory-limit {mebibytes}Mi, with less KV cache"),
        Err(refusal) => refusal,
    };
    // This machine has no more.
    let within = |remedy: &&Remedy| !matches!(remedy, Remedy::MemoryLimit { .. } | Remedy::All(_));
    let remedies = refusal.remedies.iter().filter(within);
    let remedies: Vec<String> = remedies.map(|of| in_flags(&of.to_string())).collect();
    match remedies.is_empty() {
        true => ". Use a smaller model or more memory".to_owned(),
        false => format!(
            ". With --memory-limit {mebibytes}Mi this fits: {}",
            remedies.join("; or ")
        ),
    }
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

    use clap::Parser;
    use plimsoll_crds::v1alpha1::report::EngineState;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::config::plan_flags;
    use crate::http::app::HttpLimits;
    use crate::http::testing::empty_app;
    use crate::resizes::tests::{resizes, target};

    /// Nobody gave a quota: what is told is what was asked for too much of.
    #[test]
    fn more_than_the_machine_has_names_its_account_and_flags_that_fit() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = folder.join("tests/fixtures/models/tiny-llama");
        let model = crate::model::ModelFolder::open(&folder).unwrap();
        for (line, says) in [
            (
                "--max-adapters 256 --max-rank 4096",
                &[
                    "; Adapters take 13.",
                    "With --memory-limit 512Mi this fits: --max-rank at most 16",
                ][..],
            ),
            (
                "--kv-cache-size 900Mi --max-num-seqs 4096 --max-model-len 512",
                &[
                    "; KVCache takes 900.00 MiB of it",
                    "With --memory-limit 512Mi this fits: --max-num-seqs at most 128",
                ],
            ),
            (
                "--quota 0=900Mi",
                &["--quota: the ranks' budgets", "; lower it"],
            ),
            (
                "--memory-limit 900Mi",
                &["--memory-limit: the ranks' budgets", "; lower it"],
            ),
        ] {
            let line = format!("x plan m {line}");
            let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
            let Command::Plan(args) = cli.command else {
                panic!("not a plan")
            };
            let planned = plan_flags(&args.memory, &model).unwrap();
            let over = planned
                .within(Some(Bytes::measured(512 << 20)))
                .unwrap_err();
            let told = too_much(&args.memory, &planned, &over);
            for says in says {
                assert!(told.contains(says), "{line}: no {says:?} in {told}");
            }
            let quota = told.contains("--quota");
            assert_eq!(quota, line.contains("--quota"), "{told}");
        }
    }

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
