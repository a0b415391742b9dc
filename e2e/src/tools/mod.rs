//! The programs that the cluster is made of: built from pinned Go modules, once per machine.

pub(crate) mod compiler;
pub(crate) mod debian;
pub(crate) mod go;
pub(crate) mod nvcc;
pub(crate) mod python;

use std::path::PathBuf;

use anyhow::Result;

use crate::progress::Progress;

/// Where each program lies after `ensure`.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    /// Folder with etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet,
    /// kube-proxy and kubectl.
    kubernetes: PathBuf,
    /// Folder with containerd, its shim and ctr.
    containerd: PathBuf,
    helm: PathBuf,
    pause: PathBuf,
}

impl Tools {
    /// Builds what is not in the cache yet.
    pub(crate) fn ensure(progress: &Progress) -> Result<Self> {
        let [kubernetes, containerd, helm, pause] = go::ALL;
        Ok(Self {
            kubernetes: kubernetes.ensure(progress)?,
            containerd: containerd.ensure(progress)?,
            helm: helm.ensure(progress)?,
            pause: pause.ensure(progress)?,
        })
    }

    /// A program of the Kubernetes build, by its own name.
    pub(crate) fn kubernetes(&self, program: &str) -> PathBuf {
        self.kubernetes.join(program)
    }

    /// `containerd`, `containerd-shim-runc-v2` or `ctr`.
    pub(crate) fn containerd(&self, program: &str) -> PathBuf {
        self.containerd.join(program)
    }

    pub(crate) fn kubectl(&self) -> PathBuf {
        self.kubernetes("kubectl")
    }

    pub(crate) fn helm(&self) -> PathBuf {
        self.helm.join("helm")
    }

    /// The program that holds a pod's namespaces, statically linked.
    pub(crate) fn pause(&self) -> PathBuf {
        self.pause.join("pause")
    }
}

/// Installs and builds everything that is missing; prints what and why.
pub(crate) fn setup(progress: &Progress) -> Result<Tools> {
    debian::ensure(progress)?;
    let tools = Tools::ensure(progress)?;
    go::pod_monitor_definition()?;
    progress.say("setup: complete");
    Ok(tools)
}
