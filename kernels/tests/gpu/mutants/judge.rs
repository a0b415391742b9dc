//! What became of a run of trials in a process of its own.

use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use crate::options::Mode;

#[derive(Debug)]
pub(super) enum Verdict {
    /// All trials passed.
    Passed,
    /// A trial failed, or the process died and said why: in which words.
    Caught(String),
    /// Neither: nothing is proved.
    Unclear(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Passed => write!(f, "passed"),
            Verdict::Caught(text) => write!(f, "{text}"),
            Verdict::Unclear(text) => write!(f, "unclear: {text}"),
        }
    }
}

/// A broken loop may never end.
const MOST_PROCESSOR_SECONDS: u32 = 60;
const XCPU: i32 = 24;

/// Runs the trials that `filter` names with the kernels of `library`.
pub(super) fn run(library: &Path, mode: Mode, seeds: u64, filter: &str) -> Verdict {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return Verdict::Unclear(error.to_string()),
    };
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -t {MOST_PROCESSOR_SECONDS}; exec \"$@\""))
        .arg("sh")
        .arg(program)
        .args(["--first", "--mode", mode.name()])
        .args(["--seeds", &seeds.to_string(), "--library"])
        .arg(library)
        .arg(filter)
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return Verdict::Unclear(format!("cannot start again: {error}")),
    };
    let (said, died) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let line = |text: &str, part: &str| {
        let found = text.lines().find(|line| line.contains(part));
        found.map(|line| line.trim().to_owned())
    };
    let failed = said
        .split("FAILED  ")
        .nth(1)
        .map(|text| text.lines().take(2).map(str::trim).collect::<Vec<_>>());
    let reported = line(&died, "SUMMARY: AddressSanitizer")
        .or_else(|| line(&died, "runtime error:"))
        // How the emulator names a kernel that crashed.
        .or_else(|| line(&died, "kernel ").filter(|line| line.contains(", block (")));
    match (output.status.code(), failed, reported) {
        (Some(0), _, _) => Verdict::Passed,
        (Some(1), Some(failed), _) => Verdict::Caught(failed.join(": ")),
        (Some(1) | None, None, Some(reported)) => Verdict::Caught(reported),
        _ if output.status.signal() == Some(XCPU) => Verdict::Unclear(format!(
            "still runs after {MOST_PROCESSOR_SECONDS} s of processor time"
        )),
        _ => Verdict::Unclear(format!("{}:\n{said}{died}", output.status)),
    }
}
