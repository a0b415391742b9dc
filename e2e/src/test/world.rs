//! What tests share: programs, images, one cluster, one installed chart; each made when first needed.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::Result;
use plimsoll_crds::names;

use crate::install::{self, Archives, SYSTEM};
use crate::kube::Kubernetes;
use crate::model;
use crate::progress::Progress;
use crate::session::Session;
use crate::tools::{self, Tools, python};

/// Two, so that a node can go away and its pods find another place.
const NODES: u32 = 2;

/// The shared ground of one test run. Tests that run beside each other wait while one of them makes
/// something, and then have it, too.
#[derive(Default)]
pub(super) struct Ground {
    tools: OnceLock<Tools>,
    archives: OnceLock<Archives>,
    /// Who makes tools or archives holds it.
    making: Mutex<()>,
    session: Mutex<Option<Arc<Session>>>,
    installed: Mutex<bool>,
    imported: Mutex<Vec<PathBuf>>,
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The ground, and what one test adds to it.
pub(super) struct World<'p> {
    pub(super) progress: &'p Progress,
    ground: &'p Ground,
    namespaces: RefCell<Vec<String>>,
}

impl<'p> World<'p> {
    pub(super) fn new(progress: &'p Progress, ground: &'p Ground) -> Self {
        Self {
            progress,
            ground,
            namespaces: RefCell::default(),
        }
    }

    /// The built tools; installs and builds what is missing.
    pub(super) fn tools(&self) -> Result<&'p Tools> {
        let _making = hold(&self.ground.making);
        if self.ground.tools.get().is_none() {
            let _ = self.ground.tools.set(tools::setup(self.progress)?);
        }
        let tools = self.ground.tools.get();
        Ok(tools.unwrap_or_else(|| unreachable!("set above")))
    }

    /// Images of operator, sidecar and model.
    pub(super) fn archives(&self) -> Result<&'p Archives> {
        let _making = hold(&self.ground.making);
        if self.ground.archives.get().is_none() {
            let _ = self.ground.archives.set(Archives::ensure(self.progress)?);
        }
        let archives = self.ground.archives.get();
        Ok(archives.unwrap_or_else(|| unreachable!("set above")))
    }

    /// The real model's file.
    pub(super) fn model(&self) -> Result<PathBuf> {
        model::ensure(self.progress)
    }

    /// An interpreter with the official client.
    pub(super) fn python(&self) -> Result<PathBuf> {
        python::openai(self.progress)
    }

    /// A cluster of two nodes.
    pub(super) fn session(&self) -> Result<Arc<Session>> {
        let mut held = hold(&self.ground.session);
        if let Some(session) = held.as_ref() {
            return Ok(Arc::clone(session));
        }
        let session = Arc::new(Session::begin(self.progress, self.tools()?, NODES)?);
        *held = Some(Arc::clone(&session));
        Ok(session)
    }

    /// The cluster's API server.
    pub(super) fn kubernetes(&self) -> Result<Kubernetes> {
        Ok(self.session()?.cluster().kubernetes())
    }

    /// The cluster with Plimsoll installed through its chart.
    pub(super) fn installed(&self) -> Result<Kubernetes> {
        let mut installed = hold(&self.ground.installed);
        let session = self.session()?;
        let kubernetes = session.cluster().kubernetes();
        if !*installed {
            let archives = self.archives()?;
            self.progress.step("import the images into the nodes", || {
                session.cluster().import(&archives.all())
            })?;
            // What other tests applied by hand is not the chart's to adopt.
            let definition = format!("{}.{}", names::PLURAL, names::GROUP);
            kubernetes.kubectl.run(&[
                "delete",
                "customresourcedefinition",
                &definition,
                "--ignore-not-found",
            ])?;
            self.progress.step("helm install plimsoll", || {
                install::chart(self.tools()?, &kubernetes, VALUES)
            })?;
            *installed = true;
        }
        Ok(kubernetes)
    }

    /// Imports a further image into the nodes, once per cluster.
    pub(super) fn import_once(&self, archive: &Path) -> Result<()> {
        let mut imported = hold(&self.ground.imported);
        if !imported.iter().any(|known| known == archive) {
            self.session()?.cluster().import(&[archive.to_path_buf()])?;
            imported.push(archive.to_path_buf());
        }
        Ok(())
    }

    /// A fresh namespace of a Pod Security level; a failing test shows what is in it.
    pub(super) fn namespace(&self, name: &str, level: &str) -> Result<Namespace> {
        let kubernetes = self.kubernetes()?;
        kubernetes.create_namespace(name, level)?;
        self.look_at(name);
        Ok(Namespace {
            kubernetes,
            name: name.to_owned(),
        })
    }

    /// A failing test shows what is in this namespace.
    pub(super) fn look_at(&self, namespace: &str) {
        self.namespaces.borrow_mut().push(namespace.to_owned());
    }

    /// Where to look when a test has failed.
    pub(super) fn to_diagnose(&self) -> Option<(Kubernetes, Vec<String>)> {
        let session = hold(&self.ground.session).as_ref().map(Arc::clone)?;
        let namespaces = [SYSTEM.to_owned()]
            .into_iter()
            .chain(self.namespaces.borrow().clone());
        Some((session.cluster().kubernetes(), namespaces.collect()))
    }

    /// Takes the cluster down, for tests that bring up their own.
    pub(super) fn end(&self) -> Result<()> {
        *hold(&self.ground.installed) = false;
        hold(&self.ground.imported).clear();
        let session = hold(&self.ground.session).take();
        match session.and_then(Arc::into_inner) {
            Some(session) => self.progress.step("cluster down", || session.end()),
            None => Ok(()),
        }
    }
}

/// Less patience than in production, but more than the 30 s between two heartbeats, and the
/// operator away from the node that is killed: what it says while it lives is what is tested.
pub(super) const VALUES: &[&str] = &[
    "imagePullPolicy=IfNotPresent",
    "operator.args={--stale-after=40s,--unschedulable-after=5s}",
    "operator.nodeSelector.kubernetes\\.io/hostname=node-1",
];

/// A namespace that goes away with its test.
pub(super) struct Namespace {
    pub(super) kubernetes: Kubernetes,
    pub(super) name: String,
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self
            .kubernetes
            .api
            .delete(&format!("/api/v1/namespaces/{}", self.name));
    }
}
