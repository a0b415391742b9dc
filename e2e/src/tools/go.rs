//! Builds the Go programs under `e2e/cluster/` into the cache, keyed by version and source.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::paths;
use crate::process;
use crate::progress::Progress;
use crate::tools::compiler::go;

/// One module under `e2e/cluster/` and the programs that come out of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GoModule {
    folder: &'static str,
    /// The module whose pinned version names the cache folder; empty for our own program.
    pinned: &'static str,
    /// (package, program)
    programs: &'static [(&'static str, &'static str)],
    /// Other names for the first program.
    links: &'static [&'static str],
    tags: &'static str,
    variables: &'static str,
    expect: &'static str,
}

/// Kubernetes with etcd, containerd, helm, pause: in the order that `Tools` names them.
pub(crate) const ALL: [GoModule; 4] = [
    GoModule {
        folder: "kubernetes",
        pinned: "k8s.io/kubernetes",
        programs: &[(".", "kubernetes")],
        links: &[
            "etcd",
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kubelet",
            "kube-proxy",
            "kubectl",
        ],
        tags: "",
        variables: "-X k8s.io/component-base/version.gitVersion=v1.36.3 \
                    -X k8s.io/component-base/version.gitMajor=1 \
                    -X k8s.io/component-base/version.gitMinor=36",
        expect: "about 6 minutes on 2 cores, once per machine",
    },
    GoModule {
        folder: "containerd",
        pinned: "github.com/containerd/containerd/v2",
        programs: &[
            (
                "github.com/containerd/containerd/v2/cmd/containerd",
                "containerd",
            ),
            (
                "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
                "containerd-shim-runc-v2",
            ),
            ("github.com/containerd/containerd/v2/cmd/ctr", "ctr"),
        ],
        links: &[],
        tags: "no_btrfs,no_zfs,no_devmapper,no_aufs",
        variables: "-X github.com/containerd/containerd/v2/version.Version=2.1.9",
        expect: "about 1 minute, once per machine",
    },
    GoModule {
        folder: "helm",
        pinned: "helm.sh/helm/v4",
        programs: &[("helm.sh/helm/v4/cmd/helm", "helm")],
        links: &[],
        tags: "",
        variables: "-X helm.sh/helm/v4/internal/version.version=v4.3.1",
        expect: "about 2 minutes, once per machine",
    },
    GoModule {
        folder: "pause",
        pinned: "",
        programs: &[(".", "pause")],
        links: &[],
        tags: "",
        variables: "",
        expect: "a second",
    },
];

impl GoModule {
    /// The folder with the built programs; builds them when the cache lacks them.
    pub(crate) fn ensure(&self, progress: &Progress) -> Result<PathBuf> {
        let target = self.cached()?;
        if target.is_dir() {
            return Ok(target);
        }
        let name = format!(
            "build {} from its Go module ({})",
            self.label()?,
            self.expect
        );
        progress.step(&name, || self.build(&target))?;
        Ok(target)
    }

    /// Name and version, such as `helm v4.3.1`.
    pub(crate) fn label(&self) -> Result<String> {
        Ok(match self.version()? {
            Some(version) => format!("{} {version}", self.folder),
            None => self.folder.to_owned(),
        })
    }

    fn source(&self) -> PathBuf {
        paths::repository().join("e2e/cluster").join(self.folder)
    }

    fn version(&self) -> Result<Option<String>> {
        if self.pinned.is_empty() {
            return Ok(None);
        }
        pinned_version(&self.source(), self.pinned).map(Some)
    }

    fn cached(&self) -> Result<PathBuf> {
        let version = self.version()?.unwrap_or_else(|| "own".to_owned());
        let mut hash = Sha256::new();
        for file in ["go.mod", "go.sum", "main.go"] {
            let path = self.source().join(file);
            if path.is_file() {
                hash.update(fs::read(&path)?);
            }
            hash.update([0]);
        }
        hash.update(self.tags);
        hash.update(self.variables);
        let digest: String = hash
            .finalize()
            .iter()
            .take(6)
            .map(|b| format!("{b:02x}"))
            .collect();
        Ok(paths::cache()?
            .join("tools")
            .join(format!("{}-{version}-{digest}", self.folder)))
    }

    fn build(&self, target: &Path) -> Result<()> {
        let tools = target.parent().context("the cache folder has no parent")?;
        fs::create_dir_all(tools)?;
        let work = tools.join(format!(".building-{}-{}", self.folder, std::process::id()));
        fs::create_dir_all(&work)?;
        let result = self.compile(&work);
        if result.is_ok() {
            // Whoever comes second keeps the first one's result.
            if fs::rename(&work, target).is_err() && !target.is_dir() {
                bail!("cannot move {} to {}", work.display(), target.display());
            }
        }
        let _ = fs::remove_dir_all(&work);
        result
    }

    fn compile(&self, work: &Path) -> Result<()> {
        for (package, program) in self.programs {
            let mut build = go()?;
            build.current_dir(self.source()).env("CGO_ENABLED", "0");
            build.args(["build", "-trimpath", "-tags", self.tags]);
            build.args(["-ldflags", &format!("-s -w {}", self.variables)]);
            build.arg("-o").arg(work.join(program)).arg(package);
            process::stdout_of(&mut build)?;
        }
        if let Some((_, first)) = self.programs.first() {
            for link in self.links {
                symlink(first, work.join(link))?;
            }
        }
        Ok(())
    }
}

/// The PodMonitor resource definition, out of the module that publishes it.
pub(crate) fn pod_monitor_definition() -> Result<PathBuf> {
    const MODULE: &str = "github.com/prometheus-operator/prometheus-operator";
    const FILE: &str = "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml";
    let source = paths::repository().join("e2e/cluster/podmonitor");
    let version = pinned_version(&source, MODULE)?;
    let kept = paths::cache()?
        .join("tools")
        .join(format!("podmonitors-{version}.yaml"));
    if kept.is_file() {
        return Ok(kept);
    }
    let mut download = go()?;
    download
        .current_dir(&source)
        .args(["mod", "download", "-json", MODULE]);
    let answer: Value = serde_json::from_str(&process::stdout_of(&mut download)?)?;
    let folder = answer["Dir"]
        .as_str()
        .context("go mod download names no folder")?;
    fs::create_dir_all(paths::cache()?.join("tools"))?;
    fs::write(&kept, fs::read(Path::new(folder).join(FILE))?)?;
    Ok(kept)
}

fn pinned_version(module: &Path, dependency: &str) -> Result<String> {
    let file = module.join("go.mod");
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    text.lines()
        .filter(|line| !line.contains("=>"))
        .map(|line| line.trim().trim_start_matches("require "))
        .filter_map(|line| line.strip_prefix(dependency)?.strip_prefix(' '))
        .find_map(|rest| rest.split_whitespace().next())
        .map(str::to_owned)
        .with_context(|| format!("{} does not pin {dependency}", file.display()))
}
