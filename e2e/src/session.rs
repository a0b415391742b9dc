//! One run that owns the test cluster: alone on the machine, and cleaned up however the run ends.

use std::fs::{File, TryLockError};

use anyhow::{Context as _, Result, bail};

use crate::cluster::{Cluster, cleanup};
use crate::interrupt;
use crate::paths;
use crate::progress::Progress;
use crate::tools::Tools;

/// A cluster that goes down with this value.
#[derive(Debug)]
pub(crate) struct Session {
    cluster: Cluster,
    kept: bool,
    _alone: Alone,
}

/// Nobody else works on the machine's test cluster while this lives.
#[derive(Debug)]
pub(crate) struct Alone {
    _file: File,
}

impl Alone {
    /// Fails at once when another run is at work; the kernel lets go of a dead run's lock.
    pub(crate) fn take() -> Result<Self> {
        let path = paths::cache()?.join("cluster.lock");
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => {
                bail!("another e2e/run is at work with the test cluster; there is one per machine")
            }
            Err(TryLockError::Error(error)) => Err(error).context("cannot lock the test cluster"),
        }
    }
}

impl Session {
    /// Brings a cluster up for this run.
    pub(crate) fn begin(progress: &Progress, tools: &Tools, nodes: u32) -> Result<Self> {
        let alone = Alone::take()?;
        let cluster = Cluster::up(progress, tools, nodes)?;
        Ok(Self {
            cluster,
            kept: false,
            _alone: alone,
        })
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Leaves the cluster up when this value goes.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }

    /// Takes the cluster down and says how that went.
    pub(crate) fn end(mut self) -> Result<()> {
        self.kept = true;
        cleanup::down()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.kept {
            println!("           taking the cluster down");
            if let Err(error) = interrupt::shielded(cleanup::down) {
                println!("error: {error:#}");
            }
        }
    }
}
