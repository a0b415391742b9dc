//! Starts a long-running program: a session and descriptors of its own, a log file, a line in the
//! records.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::cluster::records::{self, Process};
use crate::paths;
use crate::process;

/// A program to be started in the background.
#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    words: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Daemon {
    pub(crate) fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        let program = program.into().to_string_lossy().into_owned();
        Self {
            name: name.into(),
            words: vec![program],
            environment: Vec::new(),
        }
    }

    pub(crate) fn args<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.words.extend(words.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Runs it inside the namespaces of another process of ours.
    pub(crate) fn inside(mut self, holder: &Process) -> Self {
        let enter = [
            "nsenter".to_owned(),
            format!("--net=/proc/{}/ns/net", holder.pid),
            format!("--mount=/proc/{}/ns/mnt", holder.pid),
            "--".to_owned(),
        ];
        self.words.splice(0..0, enter);
        self
    }

    /// Starts it. `setsid`, `bash` and `nsenter` replace themselves, so the id is the program's own.
    pub(crate) fn start(&self) -> Result<Process> {
        let path = log(&self.name);
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let mut command = process::detached(&self.words);
        command.current_dir("/");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        let pid = i32::try_from(child.id()).context("process id out of range")?;
        let process = Process::running(&self.name, pid)
            .with_context(|| format!("{} ended at once", self.name))?;
        records::remember(&process)?;
        Ok(process)
    }
}

/// Where a daemon's output goes.
pub(crate) fn log(name: &str) -> PathBuf {
    paths::state().join("logs").join(format!("{name}.log"))
}

/// Fails with the end of its log when a daemon is dead.
pub(crate) fn expect_alive(process: &Process) -> Result<()> {
    if process.is_alive() {
        return Ok(());
    }
    let said = std::fs::read_to_string(log(&process.name)).unwrap_or_default();
    bail!("{} ended:\n{}", process.name, process::tail(&said, 15));
}
