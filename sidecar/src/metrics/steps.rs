//! `vllm:iteration_tokens_total`: the tokens of each step, copied from the engine's own counts, so
//! that a step costs no lock.

use super::Maker;
use super::histogram::{Counted, Kept};
use crate::engine::stats::{EngineStats, STEP_SIZE_EDGES};

#[derive(Debug)]
pub(super) struct StepSizes(Kept);

impl StepSizes {
    pub(super) fn new(maker: &mut Maker) -> StepSizes {
        let opts = maker.vllm("iteration_tokens_total", "Tokens computed in one step.");
        let sizes = StepSizes(maker.add(Kept::new(opts, None)));
        sizes.set(&EngineStats::default());
        sizes
    }

    pub(super) fn set(&self, stats: &EngineStats) {
        let edges = STEP_SIZE_EDGES.map(f64::from);
        #[expect(clippy::cast_precision_loss, reason = "the format has floats only")]
        let sum = stats.step_tokens as f64;
        let counted = Counted {
            buckets: edges.into_iter().zip(stats.step_sizes).collect(),
            count: stats.steps,
            sum,
        };
        self.0.set([("", counted)]);
    }
}
