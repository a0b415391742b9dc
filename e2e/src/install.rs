//! Puts Plimsoll on a Kubernetes the way a user does: images on the nodes, the chart through helm.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::build;
use crate::images;
use crate::kube::{Kubectl, Kubernetes};
use crate::model;
use crate::paths;
use crate::process;
use crate::progress::Progress;
use crate::tools::Tools;

/// The operator's namespace.
pub(crate) const SYSTEM: &str = "plimsoll-system";
/// The release's name; the operator's objects are named after it.
pub(crate) const RELEASE: &str = "plimsoll";

/// Everything that goes onto the nodes.
#[derive(Debug, Clone)]
pub(crate) struct Archives {
    pub(crate) programs: Vec<PathBuf>,
    pub(crate) model: PathBuf,
}

impl Archives {
    /// Builds programs and images, fetches the model: what is there already is kept.
    pub(crate) fn ensure(progress: &Progress) -> Result<Self> {
        let built = build::programs(progress)?;
        let gguf = model::ensure(progress)?;
        progress.step("write the images", || {
            let archives = Self {
                programs: images::programs(&built)?,
                model: model::image(&gguf)?,
            };
            images::print_sizes(&archives.all())?;
            Ok(archives)
        })
    }

    pub(crate) fn all(&self) -> Vec<PathBuf> {
        self.programs.iter().chain([&self.model]).cloned().collect()
    }
}

/// Installs the chart and waits until the operator is there.
pub(crate) fn chart(tools: &Tools, kubernetes: &Kubernetes, values: &[&str]) -> Result<()> {
    kubernetes.create_namespace(SYSTEM, "restricted")?;
    let mut install = helm(tools, Some(&kubernetes.kubectl))?;
    install
        .args(["upgrade", "--install", RELEASE])
        .arg(chart_folder());
    install.args(["--namespace", SYSTEM, "--wait", "--timeout", "3m"]);
    for value in values {
        install.args(["--set", value]);
    }
    process::stdout_of(&mut install).map(drop)
}

/// Helm with folders of its own in the cache, and the kubeconfig of `kubectl` if one is given.
pub(crate) fn helm(tools: &Tools, kubectl: Option<&Kubectl>) -> Result<Command> {
    let mut command = Command::new(tools.helm());
    let folder = paths::cache()?.join("helm");
    for (name, below) in [
        ("HELM_CACHE_HOME", "cache"),
        ("HELM_CONFIG_HOME", "config"),
        ("HELM_DATA_HOME", "data"),
    ] {
        command.env(name, folder.join(below));
    }
    command.env_remove("KUBECONFIG");
    if let Some(kubectl) = kubectl {
        command.env("KUBECONFIG", kubectl.kubeconfig());
    }
    Ok(command)
}

/// The chart in this repository.
pub(crate) fn chart_folder() -> PathBuf {
    paths::repository().join("charts/plimsoll")
}
