//! One run that owns the test cluster: alone on the machine, and cleaned up however the run ends.

use std::fs::{File, TryLockError};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cluster::{Cluster, cleanup};
use crate::interrupt;
use crate::paths;
use crate::progress::Progress;
use crate::tools::Tools;
use crate::wait;

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
    /// Fails when another run is at work; the kernel lets go of a dead run's lock.
    pub(crate) fn take() -> Result<Self> {
        // A killed run's lock outlives it until a child that it was just starting has begun its own
        // program: milliseconds, after one kill in twenty on a loaded machine.
        const OUTLIVES: Duration = Duration::from_secs(2);
        let path = paths::cache()?.join("cluster.lock");
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        wait::until(
            "the test cluster is free for this run",
            OUTLIVES,
            Duration::from_millis(5),
            || match file.try_lock() {
                Ok(()) => Ok(Ok(())),
                Err(TryLockError::WouldBlock) => Ok(Err(
                    "another e2e/run is at work with it; there is one per machine".to_owned(),
                )),
                Err(TryLockError::Error(error)) => {
                    Err(error).context("cannot lock the test cluster")
                }
            },
        )?;
        Ok(Self { _file: file })
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
