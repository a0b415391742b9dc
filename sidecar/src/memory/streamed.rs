//! What a rank streams of its weights: planned, and counted since the start. Written by the rank, read
//! by any thread.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use plimsoll_planner::request::Backend;
use plimsoll_planner::{Bytes, Offload};

use super::snapshot::{OffloadUsage, Streamed};

/// One rank's stream.
#[derive(Debug)]
pub(super) struct Stream {
    layers: u32,
    step_bytes: Bytes,
    predicted: Duration,
    steps: AtomicU64,
    bytes: AtomicU64,
    wait_nanos: AtomicU64,
}

impl Stream {
    /// None where nothing is offloaded.
    pub(super) fn of(planned: &Offload, backend: Backend) -> Option<Stream> {
        (planned.layers > 0).then(|| Stream {
            layers: planned.layers,
            step_bytes: planned.bytes(),
            predicted: planned.time(backend),
            steps: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            wait_nanos: AtomicU64::new(0),
        })
    }

    pub(super) fn count(&self, streamed: &Streamed) {
        let nanos = u64::try_from(streamed.wait.as_nanos()).unwrap_or(u64::MAX);
        self.steps.fetch_add(streamed.steps, Relaxed);
        self.bytes.fetch_add(streamed.bytes, Relaxed);
        self.wait_nanos.fetch_add(nanos, Relaxed);
    }

    pub(super) fn usage(&self) -> OffloadUsage {
        OffloadUsage {
            layers: self.layers,
            bytes: self.step_bytes,
            predicted: self.predicted,
            streamed: Streamed {
                steps: self.steps.load(Relaxed),
                bytes: self.bytes.load(Relaxed),
                wait: Duration::from_nanos(self.wait_nanos.load(Relaxed)),
            },
        }
    }
}
