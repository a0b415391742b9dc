//! `kubectl`, as a user types it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::paths;
use crate::process::{self, Outcome};

/// One kubectl and one kubeconfig; the one that the environment names is never used.
#[derive(Debug, Clone)]
pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    pub(crate) fn new(program: PathBuf, kubeconfig: PathBuf) -> Self {
        Self {
            program,
            kubeconfig,
        }
    }

    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The command with its words, not yet run.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        // What it remembers of a cluster's API goes with our cache, not into the user's home.
        if let Ok(cache) = paths::cache() {
            command.env("KUBECACHEDIR", cache.join("kubectl"));
        }
        command
            .env_remove("KUBECONFIG")
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(words);
        command
    }

    /// Runs it; it must succeed.
    pub(crate) fn run(&self, words: &[&str]) -> Result<String> {
        process::stdout_of(&mut self.command(words))
    }

    /// Runs it and hands over how it ended.
    pub(crate) fn outcome(&self, words: &[&str], input: Option<&str>) -> Result<Outcome> {
        process::outcome(&mut self.command(words), input)
    }

    /// Applies YAML or JSON text.
    pub(crate) fn apply(&self, text: &str) -> Result<String> {
        process::stdout_with_input(&mut self.command(&["apply", "-f", "-"]), Some(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubeconfig_of_the_environment_is_never_used() {
        let kubectl = Kubectl::new("kubectl".into(), "/some/file".into());
        let command = kubectl.command(&["get", "pods"]);
        let words: Vec<_> = command.get_args().collect();
        assert_eq!(words, ["--kubeconfig", "/some/file", "get", "pods"]);
        // Nothing else of the environment is touched: one variable is set, one taken away.
        let changed: Vec<_> = command
            .get_envs()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.is_some()))
            .collect();
        let wanted = [("KUBECACHEDIR", true), ("KUBECONFIG", false)];
        assert_eq!(changed, wanted.map(|(name, set)| (name.to_owned(), set)));
    }
}
