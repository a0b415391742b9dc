//! How much of each adapter is in the weights, from the same report that `/memory` answers.

use plimsoll_crds::v1alpha1::MemoryReport;
use prometheus::GaugeVec;

use super::Maker;

#[derive(Debug)]
pub(super) struct Adapters {
    changed: GaugeVec,
    norm_ratio: GaugeVec,
    lost: GaugeVec,
    apart: GaugeVec,
}

impl Adapters {
    pub(super) fn new(maker: &mut Maker) -> Adapters {
        let mut gauge = |name: &str, help: &str| {
            let opts = maker.plimsoll(name, help);
            maker.add(GaugeVec::new(opts, &["adapter"]))
        };
        Adapters {
            changed: gauge(
                "adapter_changed_ratio",
                "Share of the numbers that an adapter names that it changes.",
            ),
            norm_ratio: gauge(
                "adapter_norm_ratio",
                "Length of what an adapter adds, as it is kept, to that of what it means.",
            ),
            lost: gauge(
                "adapter_lost_ratio",
                "Share of what an adapter adds that rounding takes.",
            ),
            apart: gauge(
                "adapter_answers_apart_ratio",
                "How far answers to a probe are from those of the base with the adapters beside it.",
            ),
        }
    }

    /// An engine without adapters, or that measures nothing, has no series.
    pub(super) fn set(&self, report: &MemoryReport) {
        for of in &report.adapters {
            let name = &[of.name.as_str()];
            let ratio = |per_million: u32| f64::from(per_million) / 1e6;
            self.changed
                .with_label_values(name)
                .set(ratio(of.changed_per_million));
            self.norm_ratio
                .with_label_values(name)
                .set(ratio(of.norm_ratio_per_million));
            self.lost
                .with_label_values(name)
                .set(ratio(of.lost_per_million));
            if let Some(apart) = of.answers_apart_per_million {
                self.apart.with_label_values(name).set(ratio(apart));
            }
        }
    }
}
