//! What ranks stream of their weights, and how long steps wait for it.

use plimsoll_crds::v1alpha1::MemoryReport;
use prometheus::{CounterVec, IntCounterVec, IntGaugeVec};

use super::Maker;

#[derive(Debug)]
pub(super) struct Offload {
    layers: IntGaugeVec,
    streamed: IntCounterVec,
    waited: CounterVec,
}

impl Offload {
    pub(super) fn new(maker: &mut Maker) -> Offload {
        let by_gpu = &["gpu"];
        let layers = maker.plimsoll("offload_layers", "Layers whose matrices are offloaded.");
        let streamed = maker.plimsoll(
            "offload_streamed_bytes_total",
            "Bytes of offloaded weights that steps streamed.",
        );
        let waited = maker.plimsoll(
            "offload_wait_seconds_total",
            "Time that steps waited for offloaded weights.",
        );
        Offload {
            layers: maker.add(IntGaugeVec::new(layers, by_gpu)),
            streamed: maker.add(IntCounterVec::new(streamed, by_gpu)),
            waited: maker.add(CounterVec::new(waited, by_gpu)),
        }
    }

    /// Ranks that offload nothing have no series.
    pub(super) fn set(&self, report: &MemoryReport) {
        for rank in &report.ranks {
            let Some(offload) = &rank.offload else {
                continue;
            };
            let gpu = rank.rank.to_string();
            let gpu = &[gpu.as_str()];
            self.layers
                .with_label_values(gpu)
                .set(offload.layers.into());
            let streamed = self.streamed.with_label_values(gpu);
            streamed.inc_by(rank.streamed_bytes.saturating_sub(streamed.get()));
            #[expect(
                clippy::cast_precision_loss,
                reason = "microseconds of centuries are exact"
            )]
            let seconds = rank.stream_wait_microseconds as f64 / 1e6;
            let waited = self.waited.with_label_values(gpu);
            waited.inc_by((seconds - waited.get()).max(0.0));
        }
    }
}
