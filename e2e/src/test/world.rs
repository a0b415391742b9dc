//! What tests share: programs, images, one cluster, one installed chart; each made when first needed.

use std::cell::{Cell, OnceCell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;

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

/// The shared ground of one test run.
pub(super) struct World<'p> {
    pub(super) progress: &'p Progress,
    tools: OnceCell<Tools>,
    archives: OnceCell<Archives>,
    session: RefCell<Option<Rc<Session>>>,
    installed: Cell<bool>,
    imported: RefCell<Vec<PathBuf>>,
    namespaces: RefCell<Vec<String>>,
}

impl<'p> World<'p> {
    pub(super) fn new(progress: &'p Progress) -> Self {
        Self {
            progress,
            tools: OnceCell::new(),
            archives: OnceCell::new(),
            session: RefCell::default(),
            installed: Cell::new(false),
            imported: RefCell::default(),
            namespaces: RefCell::default(),
        }
    }

    /// The built tools; installs and builds what is missing.
    pub(super) fn tools(&self) -> Result<&Tools> {
        if self.tools.get().is_none() {
            let _ = self.tools.set(tools::setup(self.progress)?);
        }
        Ok(self
            .tools
            .get()
            .unwrap_or_else(|| unreachable!("set above")))
    }

    /// Images of operator, sidecar and model.
    pub(super) fn archives(&self) -> Result<&Archives> {
        if self.archives.get().is_none() {
            let _ = self.archives.set(Archives::ensure(self.progress)?);
        }
        Ok(self
            .archives
            .get()
            .unwrap_or_else(|| unreachable!("set above")))
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
    pub(super) fn session(&self) -> Result<Rc<Session>> {
        if let Some(session) = self.session.borrow().as_ref() {
            return Ok(Rc::clone(session));
        }
        let session = Rc::new(Session::begin(self.progress, self.tools()?, NODES)?);
        *self.session.borrow_mut() = Some(Rc::clone(&session));
        Ok(session)
    }

    /// The cluster's API server.
    pub(super) fn kubernetes(&self) -> Result<Kubernetes> {
        Ok(self.session()?.cluster().kubernetes())
    }

    /// The cluster with Plimsoll installed through its chart.
    pub(super) fn installed(&self) -> Result<Kubernetes> {
        let session = self.session()?;
        let kubernetes = session.cluster().kubernetes();
        if !self.installed.get() {
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
            self.installed.set(true);
        }
        Ok(kubernetes)
    }

    /// Imports a further image into the nodes, once per cluster.
    pub(super) fn import_once(&self, archive: &Path) -> Result<()> {
        if !self.imported.borrow().iter().any(|known| known == archive) {
            self.session()?.cluster().import(&[archive.to_path_buf()])?;
            self.imported.borrow_mut().push(archive.to_path_buf());
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
        let session = self.session.borrow().as_ref().map(Rc::clone)?;
        let namespaces = [SYSTEM.to_owned()]
            .into_iter()
            .chain(self.namespaces.borrow().clone());
        Some((session.cluster().kubernetes(), namespaces.collect()))
    }

    /// The next test has namespaces of its own.
    pub(super) fn forget_namespaces(&self) {
        self.namespaces.borrow_mut().clear();
    }

    /// Takes the cluster down, for tests that bring up their own.
    pub(super) fn end(&self) -> Result<()> {
        self.installed.set(false);
        self.imported.borrow_mut().clear();
        let session = self.session.borrow_mut().take();
        match session.and_then(Rc::into_inner) {
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
