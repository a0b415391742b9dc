//! Our engine beside an earlier build of itself: whether a change has cost speed, pair by pair.

use std::path::Path;

use anyhow::{Result, bail};

use crate::bench::{Row, await_idle, our_rates, random_model};
use crate::build;
use crate::cluster::cleanup;
use crate::model;
use crate::process;
use crate::progress::Progress;

/// Runs of each build and model, in turn, so that a machine whose speed drifts does so for both.
const ROUNDS: usize = 3;

/// Cases, with the medians of both builds; `ratio` is not theirs but the median of the pairs'.
pub(super) fn run(progress: &Progress, peer: Option<&Path>) -> Result<Vec<Row>> {
    let Some(peer) = peer else {
        bail!(
            "bench before wants --peer FILE: a plimsoll-sidecar of the earlier state, built with \
             `cargo build --release --locked -p plimsoll-sidecar`"
        );
    };
    if cleanup::is_anything_left() {
        bail!("the test cluster takes part of the cores: `e2e/run down` first");
    }
    process::stdout_of(&mut process::command(peer, ["--version"]))?;
    let sidecar = build::programs(progress)?.sidecar;
    let mut rows = Vec::new();
    for (label, model) in [
        ("smollm2-135m", model::ensure(progress)?),
        ("random-qwen2-0.5b", random_model::ensure(progress)?),
    ] {
        let found = progress.step(label, || in_turn(label, (&sidecar, peer), &model))?;
        // The second model takes minutes: what is known is shown.
        for row in &found {
            println!("           {}: {:.3}", row.case, row.ratio);
        }
        rows.extend(found);
    }
    Ok(rows)
}

fn in_turn(label: &str, (ours, peer): (&Path, &Path), model: &Path) -> Result<Vec<Row>> {
    // Tokens per second by case, then by round.
    let mut pairs: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for round in 0..ROUNDS {
        await_idle()?;
        // Who goes second may find a warmer machine.
        let (now, then) = match round % 2 {
            0 => {
                let now = our_rates(ours, model, &[])?;
                (now, our_rates(peer, model, &[])?)
            }
            _ => {
                let then = our_rates(peer, model, &[])?;
                (our_rates(ours, model, &[])?, then)
            }
        };
        for row in &now {
            let Some(case) = row["case"].as_str() else {
                bail!("a line of `plimsoll-sidecar bench` names no case: {row}");
            };
            let other = then.iter().find(|it| it["case"] == case);
            let rate = |row: &serde_json::Value| row["tokensPerSecond"].as_f64();
            let (Some(a), Some(b)) = (rate(row), other.and_then(rate)) else {
                bail!("{case} is not measured by both builds");
            };
            match pairs.iter_mut().find(|(name, _)| name == case) {
                Some((_, found)) => found.push((a, b)),
                None => pairs.push((case.to_owned(), vec![(a, b)])),
            }
        }
    }
    let row = |(case, pairs): (String, Vec<(f64, f64)>)| Row {
        case: format!("{label}/{case}"),
        ours: median(pairs.iter().map(|(a, _)| *a)),
        peer: median(pairs.iter().map(|(_, b)| *b)),
        ratio: median(pairs.iter().map(|(a, b)| a / b)),
    };
    Ok(pairs.into_iter().map(row).collect())
}

/// The middle of an odd number of values.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
