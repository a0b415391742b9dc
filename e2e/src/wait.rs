//! Waiting for a condition with a deadline; there are no fixed sleeps.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::interrupt;

/// Asks again every `every` until `condition` says yes; the last "not yet" is in the error.
///
/// `condition` returns `Ok(Ok(value))` when it holds, `Ok(Err(why not))` when it does not hold yet,
/// and `Err` when waiting longer is pointless.
pub(crate) fn until<T>(
    what: &str,
    deadline: Duration,
    every: Duration,
    mut condition: impl FnMut() -> Result<Result<T, String>>,
) -> Result<T> {
    let began = Instant::now();
    loop {
        interrupt::check()?;
        let why = match condition()? {
            Ok(value) => return Ok(value),
            Err(why) => why,
        };
        if began.elapsed() > deadline {
            bail!("{what}: not within {} s: {why}", deadline.as_secs());
        }
        thread::sleep(every);
    }
}
