//! A histogram whose counts somebody else keeps: the library's own takes single observations only.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::Opts;
use prometheus::core::{Collector, Desc, Describer};
use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType};

/// What was counted so far.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    /// Upper edges, inclusive, and what fell into each.
    pub(super) buckets: Vec<(f64, u64)>,
    /// All that was counted, past the edges, too.
    pub(super) count: u64,
    pub(super) sum: f64,
}

/// One histogram for each value of a label, or one without.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    desc: Desc,
    label: Option<&'static str>,
    metrics: Arc<Mutex<Vec<Metric>>>,
}

impl Kept {
    pub(super) fn new(opts: Opts, label: Option<&'static str>) -> prometheus::Result<Kept> {
        let opts = match label {
            Some(label) => opts.variable_label(label),
            None => opts,
        };
        Ok(Kept {
            desc: opts.describe()?,
            label,
            metrics: Arc::default(),
        })
    }

    pub(super) fn set<'a>(&self, all: impl IntoIterator<Item = (&'a str, Counted)>) {
        let metrics = all.into_iter().map(|(value, counted)| {
            let mut labels = self.desc.const_label_pairs.clone();
            if let Some(label) = self.label {
                let mut pair = LabelPair::default();
                pair.set_name(label.to_owned());
                pair.set_value(value.to_owned());
                labels.push(pair);
            }
            let mut metric = Metric::from_label(labels);
            metric.set_histogram(histogram(counted));
            metric
        });
        *self.metrics.lock().unwrap_or_else(PoisonError::into_inner) = metrics.collect();
    }
}

fn histogram(counted: Counted) -> Histogram {
    let mut below = 0;
    let buckets = counted.buckets.into_iter().map(|(edge, count)| {
        below += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(edge);
        bucket.set_cumulative_count(below);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(counted.count);
    histogram.set_sample_sum(counted.sum);
    histogram
}

impl Collector for Kept {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(metrics.clone());
        vec![family]
    }
}
