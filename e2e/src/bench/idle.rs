//! Comparisons are made on idle cores: waits for them, and says how idle they were.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::interrupt;

/// The share of processor time that others may use.
const BUSY_LIMIT: f64 = 0.10;
const SAMPLE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns once the machine was idle for a second; prints how idle.
pub(crate) fn gate() -> Result<()> {
    let began = Instant::now();
    loop {
        interrupt::check()?;
        let before = ticks()?;
        thread::sleep(SAMPLE);
        let after = ticks()?;
        let all = after.all.saturating_sub(before.all).max(1);
        #[expect(clippy::cast_precision_loss, reason = "ticks of one second")]
        let busy = after.busy.saturating_sub(before.busy) as f64 / all as f64;
        if busy <= BUSY_LIMIT {
            println!("           cores idle ({:.0}% busy)", busy * 100.0);
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            bail!(
                "the cores were {:.0}% busy with other work for {} s; a comparison needs them idle \
                 (under {:.0}%)",
                busy * 100.0,
                PATIENCE.as_secs(),
                BUSY_LIMIT * 100.0
            );
        }
    }
}

struct Ticks {
    busy: u64,
    all: u64,
}

/// Processor time of the whole machine since it started, from the first line of `/proc/stat`
/// (user nice system idle iowait irq softirq steal ...).
fn ticks() -> Result<Ticks> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line.split_whitespace().skip(1).map_while(|f| f.parse().ok()).collect();
    let all: u64 = fields.iter().take(8).sum();
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    if all == 0 {
        bail!("/proc/stat has no 'cpu' line");
    }
    Ok(Ticks { busy: all - idle, all })
}
