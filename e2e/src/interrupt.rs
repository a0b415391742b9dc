//! Ctrl-C and SIGTERM: a flag that every wait looks at, so that what was started is also cleaned up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();
static CLEANING: AtomicBool = AtomicBool::new(false);

/// Turns SIGINT, SIGTERM and SIGHUP into a flag. Call once, before anything is started.
pub(crate) fn install() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(flag))
            .with_context(|| format!("cannot catch signal {signal}"))?;
    }
    Ok(())
}

/// Fails when the user asked to stop, except while cleaning up.
pub(crate) fn check() -> Result<()> {
    let asked = INTERRUPTED
        .get()
        .is_some_and(|flag| flag.load(Ordering::SeqCst));
    if asked && !CLEANING.load(Ordering::SeqCst) {
        bail!("interrupted");
    }
    Ok(())
}

/// Runs `work` to its end whatever the user types: half a cleanup helps nobody.
pub(crate) fn shielded<T>(work: impl FnOnce() -> T) -> T {
    let before = CLEANING.swap(true, Ordering::SeqCst);
    let result = work();
    CLEANING.store(before, Ordering::SeqCst);
    result
}
