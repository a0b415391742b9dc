//! `vllm:iteration_tokens_total`: the tokens of each step, copied from the engine's own counts.
//!
//! The engine counts into buckets itself, so that a step costs no lock; a histogram of the library
//! takes single observations only, hence a collector of our own.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc, Describer};
use prometheus::proto::{Bucket, Histogram, Metric, MetricFamily, MetricType};

use super::Maker;
use crate::engine::stats::{EngineStats, STEP_SIZE_EDGES};

#[derive(Clone, Debug)]
pub(super) struct StepSizes {
    desc: Desc,
    histogram: Arc<Mutex<Histogram>>,
}

impl StepSizes {
    pub(super) fn new(maker: &mut Maker) -> StepSizes {
        let opts = maker.vllm("iteration_tokens_total", "Tokens computed in one step.");
        let sizes = opts.describe().map(|desc| StepSizes {
            desc,
            histogram: Arc::new(Mutex::new(histogram(&EngineStats::default()))),
        });
        maker.add(sizes)
    }

    pub(super) fn set(&self, stats: &EngineStats) {
        *self
            .histogram
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = histogram(stats);
    }
}

fn histogram(stats: &EngineStats) -> Histogram {
    let mut steps = 0;
    let buckets = STEP_SIZE_EDGES.iter().zip(&stats.step_sizes);
    let buckets = buckets.map(|(edge, count)| {
        steps += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(f64::from(*edge));
        bucket.set_cumulative_count(steps);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(stats.steps);
    #[expect(clippy::cast_precision_loss, reason = "the format has floats only")]
    histogram.set_sample_sum(stats.step_tokens as f64);
    histogram
}

impl Collector for StepSizes {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut metric = Metric::from_label(self.desc.const_label_pairs.clone());
        let histogram = self
            .histogram
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        metric.set_histogram(histogram.clone());
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(vec![metric]);
        vec![family]
    }
}
