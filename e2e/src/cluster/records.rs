//! What the cluster owns on this machine, written down before it is used: processes (by id AND start
//! time), sysctls, links. Any later run can clean up from these files alone.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::paths;

/// One process of ours. The start time tells it from a later one with the same id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) pid: i32,
    started: u64,
}

impl Process {
    /// The running process `pid`, if there is one.
    pub(crate) fn running(name: &str, pid: i32) -> Option<Self> {
        let (started, _) = stat(pid)?;
        Some(Self {
            name: name.to_owned(),
            pid,
            started,
        })
    }

    /// Alive and still the same process; a zombie counts as dead.
    pub(crate) fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|(started, state)| started == self.started && state != 'Z')
    }

    /// Ends the process at once. The descriptor keeps the id from being reused in between.
    pub(crate) fn kill(&self) {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return;
        };
        if let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty())
            && self.is_alive()
        {
            let _ = pidfd_send_signal(descriptor, Signal::KILL);
        }
    }

    /// Resident memory in bytes, for `status`.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let kib = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        kib.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0)
            * 1024
    }
}

/// Writes a process down.
pub(crate) fn remember(process: &Process) -> Result<()> {
    let line = format!("{}\t{}\t{}\n", process.name, process.pid, process.started);
    let file = file();
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(&file)
        .and_then(|mut opened| opened.write_all(line.as_bytes()))
        .with_context(|| format!("cannot write {}", file.display()))
}

/// Every process written down, dead or alive, oldest first.
pub(crate) fn processes() -> Vec<Process> {
    let text = fs::read_to_string(file()).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split('\t');
            let name = fields.next()?.to_owned();
            let pid = fields.next()?.parse().ok()?;
            let started = fields.next()?.parse().ok()?;
            Some(Process { name, pid, started })
        })
        .collect()
}

/// The living process of that name, the newest if it was started more than once.
pub(crate) fn living(name: &str) -> Option<Process> {
    processes()
        .into_iter()
        .rev()
        .find(|process| process.name == name && process.is_alive())
}

/// Ends all of them and waits until they are gone.
pub(crate) fn kill_all(processes: &[Process]) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    for process in processes {
        process.kill();
    }
    let began = Instant::now();
    while let Some(left) = processes.iter().find(|process| process.is_alive()) {
        if began.elapsed() > PATIENCE {
            bail!("{} (process {}) does not die", left.name, left.pid);
        }
        left.kill();
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Start time in clock ticks since boot, and the state letter.
fn stat(pid: i32) -> Option<(u64, char)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything, so fields are counted after the last.
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.nth(18)?.parse().ok()?, state))
}

fn file() -> PathBuf {
    paths::state().join("processes")
}
