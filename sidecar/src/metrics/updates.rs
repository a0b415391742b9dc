//! Updates of pushed weights: vLLM's metrics by their names.

use std::time::Instant;

use prometheus::{HistogramOpts, HistogramVec, IntGauge};

use super::Maker;
use crate::engine::rest::TRANSITION_EDGES;

#[derive(Clone, Debug)]
pub(super) struct Updates {
    durations: HistogramVec,
    in_flight: IntGauge,
}

/// A phase of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Start,
    /// A body of tensors.
    Update,
    Finish,
}

impl Phase {
    const ALL: [Phase; 3] = [Phase::Start, Phase::Update, Phase::Finish];

    fn name(self) -> &'static str {
        match self {
            Phase::Start => "start",
            Phase::Update => "update",
            Phase::Finish => "finish",
        }
    }
}

impl Updates {
    pub(super) fn new(maker: &mut Maker) -> Updates {
        let durations = maker.vllm(
            "rl_weight_update_operation_duration_seconds",
            "Time of the phases of pushed updates, refused ones included.",
        );
        let in_flight = maker.vllm(
            "rl_weight_update_operations_in_flight",
            "Phases of pushed updates under way.",
        );
        let opts = HistogramOpts::from(durations).buckets(TRANSITION_EDGES.to_vec());
        let updates = Updates {
            durations: maker.add(HistogramVec::new(opts, &["operation"])),
            in_flight: maker.add(IntGauge::with_opts(in_flight)),
        };
        for phase in Phase::ALL {
            updates.durations.with_label_values(&[phase.name()]);
        }
        updates
    }

    /// Counts a phase until it is dropped.
    pub(super) fn begin(&self, phase: Phase) -> Under {
        self.in_flight.inc();
        Under {
            updates: self.clone(),
            phase,
            began: Instant::now(),
        }
    }
}

/// A phase under way.
#[derive(Debug)]
pub struct Under {
    updates: Updates,
    phase: Phase,
    began: Instant,
}

impl Drop for Under {
    fn drop(&mut self) {
        self.updates.in_flight.dec();
        let of = self
            .updates
            .durations
            .with_label_values(&[self.phase.name()]);
        of.observe(self.began.elapsed().as_secs_f64());
    }
}
