//! Runs other programs: output captured, failures with the end of what they said, stopped on Ctrl-C.

use std::ffi::OsStr;
use std::io::{Read, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::interrupt;

/// How long a child may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// How a program ended and what it said.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A command with arguments, ready for the functions below.
pub(crate) fn command<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = S>,
) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Closes every descriptor but the standard three, then becomes the program that its arguments name.
const CLOSE_AND_RUN: &str = r#"for fd in /proc/$$/fd/*; do
  fd=${fd##*/}
  if [ "$fd" -gt 2 ]; then eval "exec $fd>&-"; fi
done
exec "$@""#;

/// A program that outlives us: in a session of its own, and without the descriptors that our
/// caller left open for us. A lock that a script holds must end with the script.
pub(crate) fn detached<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new("setsid");
    // A shell, since the standard library closes only what it has opened itself; bash, since
    // others know descriptors of one digit alone.
    command.args(["bash", "-c", CLOSE_AND_RUN, "detached"]);
    command.args(words);
    command
}

/// Runs a program to its end and returns what it said, whatever its exit status.
pub(crate) fn outcome(command: &mut Command, input: Option<&str>) -> Result<Outcome> {
    let name = describe(command);
    command.stdin(if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let stdout = child.stdout.take().map(drain);
    let stderr = child.stderr.take().map(drain);
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        // A program that does not read to the end says why in its exit status.
        let _ = stdin.write_all(text.as_bytes());
    }
    let status = wait(&mut child).with_context(|| name.clone())?;
    let collect = |reader: Option<thread::JoinHandle<String>>| {
        reader
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default()
    };
    Ok(Outcome {
        status,
        stdout: collect(stdout),
        stderr: collect(stderr),
    })
}

/// Runs a program that must succeed; returns its standard output.
pub(crate) fn stdout_of(command: &mut Command) -> Result<String> {
    stdout_with_input(command, None)
}

/// As `stdout_of`, with text on the program's standard input.
pub(crate) fn stdout_with_input(command: &mut Command, input: Option<&str>) -> Result<String> {
    let name = describe(command);
    let ended = outcome(command, input)?;
    if !ended.status.success() {
        let said = if ended.stderr.trim().is_empty() {
            &ended.stdout
        } else {
            &ended.stderr
        };
        bail!("{name}: {}\n{}", ended.status, tail(said, 40));
    }
    Ok(ended.stdout)
}

/// Runs a program that must succeed, on our own terminal.
pub(crate) fn shown(command: &mut Command) -> Result<()> {
    let name = describe(command);
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let status = wait(&mut child)?;
    if !status.success() {
        bail!("{name}: {status}");
    }
    Ok(())
}

/// Where a program lies on the search path, administrators' folders included.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    all(program).into_iter().next()
}

/// Every place on the search path where a program lies, first choice first.
pub(crate) fn all(program: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/usr/local/bin"].map(Into::into))
        .map(|folder| folder.join(program))
        .filter(|file| file.is_file())
        .collect()
}

/// The last `count` lines of a text.
pub(crate) fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Waits for a child; on Ctrl-C ends it first and reports the interruption.
pub(crate) fn wait(child: &mut Child) -> Result<ExitStatus> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            interrupt::check()?;
            return Ok(status);
        }
        if let Err(interrupted) = interrupt::check() {
            end(child);
            return Err(interrupted);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Ends a child of ours: SIGTERM, and SIGKILL if it takes too long.
pub(crate) fn end(child: &mut Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM);
    }
    let asked = Instant::now();
    while asked.elapsed() < GRACE {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    let line = line.join(" ");
    match line.char_indices().nth(160) {
        Some((cut, _)) => format!("`{}…`", &line[..cut]),
        None => format!("`{line}`"),
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::*;

    /// A script takes a lock on a descriptor of two digits, starts something that stays, and ends.
    #[test]
    fn what_stays_does_not_hold_the_locks_of_its_caller() {
        let lock = std::env::temp_dir().join(format!("plimsoll-lock-{}", std::process::id()));
        let stays = detached(["sleep", "30"]);
        let script =
            r#"exec 17>"$1"; flock -n 17 || exit 9; shift; "$@" >/dev/null 2>&1 & echo $!"#;
        let mut caller = command("bash", ["-c", script, "caller"]);
        caller.arg(&lock).arg(stays.get_program());
        caller.args(stays.get_args());
        let pid = stdout_of(&mut caller).unwrap();
        let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        let began = Instant::now();
        let name = format!("/proc/{}/comm", pid.as_raw_nonzero());
        // Bash closes before it becomes the program: from then on the lock is free.
        while std::fs::read_to_string(&name).unwrap().trim() != "sleep" {
            assert!(began.elapsed() < GRACE, "it never became its program");
            thread::sleep(Duration::from_millis(5));
        }
        let free = outcome(command("flock", ["-n"]).arg(&lock).arg("true"), None);
        kill_process(pid, Signal::KILL).unwrap();
        std::fs::remove_file(&lock).unwrap();
        assert!(free.unwrap().status.success(), "the lock is still held");
    }
}
