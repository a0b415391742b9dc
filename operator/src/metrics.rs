//! The operator's own metrics. Names are API: dashboards and alert rules read them.

use std::time::{Duration, SystemTime};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use plimsoll_crds::v1alpha1::ConditionType;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

/// Seconds; a pass that writes nothing takes well under a millisecond.
const DURATION_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
const STATUSES: [&str; 3] = ["True", "False", "Unknown"];

/// Every metric of the operator.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Passes over a resource, by result (`ok` or `error`).
    pub(crate) reconciles: IntCounterVec,
    /// Failed passes by kind of failure.
    pub(crate) errors: IntCounterVec,
    duration: Histogram,
    pub(crate) status_writes: IntCounter,
    /// Objects written for resources, by kind.
    pub(crate) applies: IntCounterVec,
    conditions: IntGaugeVec,
    /// Report streams that are connected.
    pub(crate) streams: IntGauge,
    /// 1 while this process holds the Lease.
    pub(crate) leader: IntGauge,
    /// Failures of watches, by kind.
    pub(crate) watch_failures: IntCounterVec,
    /// 1 while a watch of the kind fails.
    pub(crate) watch_failing: IntGaugeVec,
    last_list: IntGaugeVec,
    last_event: IntGaugeVec,
    /// Objects met that could not be read, whole or in part, by kind.
    pub(crate) unreadable: IntCounterVec,
    /// When the Lease was last renewed, in seconds since 1970: the operator's heartbeat.
    pub(crate) lease_renewed: IntGauge,
    /// Report streams that a pod refused because of the token.
    pub(crate) refused_streams: IntCounter,
    /// Status writes that only renewed the age of rows.
    pub(crate) status_renewals: IntCounter,
}

impl Metrics {
    /// # Errors
    /// Two metrics with one name: a mistake of this file.
    pub(crate) fn new() -> Result<Metrics, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let reconciles = counters(
            "plimsoll_operator_reconcile_total",
            "Passes over a resource, by result.",
            &["result"],
        )?;
        let errors = counters(
            "plimsoll_operator_reconcile_errors_total",
            "Failed passes over a resource, by reason.",
            &["reason"],
        )?;
        let applies = counters(
            "plimsoll_operator_applies_total",
            "Objects written for resources, by kind.",
            &["kind"],
        )?;
        let watch_failures = counters(
            "plimsoll_operator_watch_failures_total",
            "Failures of a watch, each followed by a new list, by kind.",
            &["kind"],
        )?;
        let unreadable = counters(
            "plimsoll_operator_unreadable_objects_total",
            "Objects met that this version cannot read, whole or in part, by kind.",
            &["kind"],
        )?;
        let gauges = |name: &str, help: &str| {
            let family = IntGaugeVec::new(Opts::new(name, help), &["kind"])?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let watch_failing = gauges(
            "plimsoll_operator_watch_failing",
            "1 from a failure of a watch of the kind until its next list is whole.",
        )?;
        let last_list = gauges(
            "plimsoll_operator_watch_last_list_timestamp_seconds",
            "When the kind was last listed in full.",
        )?;
        let last_event = gauges(
            "plimsoll_operator_watch_last_event_timestamp_seconds",
            "When a change of the kind was last seen.",
        )?;
        let duration = Histogram::with_opts(
            HistogramOpts::new(
                "plimsoll_operator_reconcile_duration_seconds",
                "Time of one pass over a resource.",
            )
            .buckets(DURATION_BUCKETS.to_vec()),
        )?;
        registry.register(Box::new(duration.clone()))?;
        let status_writes = IntCounter::new(
            "plimsoll_operator_status_writes_total",
            "Writes of a resource's status.",
        )?;
        registry.register(Box::new(status_writes.clone()))?;
        let conditions = IntGaugeVec::new(
            Opts::new(
                "plimsoll_inferencedeployment_condition",
                "Conditions of every resource: 1 at the status that holds.",
            ),
            &["namespace", "name", "type", "status"],
        )?;
        registry.register(Box::new(conditions.clone()))?;
        let streams = IntGauge::new(
            "plimsoll_operator_report_streams",
            "Memory report streams that are connected.",
        )?;
        registry.register(Box::new(streams.clone()))?;
        let leader = IntGauge::new("plimsoll_operator_leader", "1 while this process leads.")?;
        registry.register(Box::new(leader.clone()))?;
        let lease_renewed = IntGauge::new(
            "plimsoll_operator_lease_renewed_timestamp_seconds",
            "When this process last saw its Lease renewed: its heartbeat.",
        )?;
        registry.register(Box::new(lease_renewed.clone()))?;
        let refused_streams = IntCounter::new(
            "plimsoll_operator_report_refusals_total",
            "Report streams that an engine pod refused because of the token.",
        )?;
        registry.register(Box::new(refused_streams.clone()))?;
        let status_renewals = IntCounter::new(
            "plimsoll_operator_status_renewals_total",
            "Writes of a resource's status that only renewed the age of its rows.",
        )?;
        registry.register(Box::new(status_renewals.clone()))?;
        for result in ["ok", "error"] {
            reconciles.with_label_values(&[result]).inc_by(0);
        }
        Ok(Metrics {
            registry,
            reconciles,
            errors,
            duration,
            status_writes,
            applies,
            conditions,
            streams,
            leader,
            watch_failures,
            watch_failing,
            last_list,
            last_event,
            unreadable,
            lease_renewed,
            refused_streams,
            status_renewals,
        })
    }

    pub(crate) fn saw_list(&self, kind: &str) {
        self.last_list.with_label_values(&[kind]).set(seconds_now());
    }

    pub(crate) fn saw_event(&self, kind: &str) {
        self.last_event
            .with_label_values(&[kind])
            .set(seconds_now());
    }

    pub(crate) fn observe_reconcile(&self, took: Duration, ok: bool) {
        self.duration.observe(took.as_secs_f64());
        self.reconciles
            .with_label_values(&[if ok { "ok" } else { "error" }])
            .inc();
    }

    /// Shows the conditions of one resource; those it lacks are not shown.
    pub(crate) fn show_conditions(&self, namespace: &str, name: &str, conditions: &[Condition]) {
        for kind in ConditionType::ALL {
            let condition = conditions
                .iter()
                .find(|condition| condition.type_ == kind.as_str());
            for status in STATUSES {
                let labels = [namespace, name, kind.as_str(), status];
                match condition {
                    Some(condition) => {
                        let holds = condition.status == status;
                        self.conditions.with_label_values(&labels).set(holds.into());
                    }
                    // Fails only where there was none.
                    None => drop(self.conditions.remove_label_values(&labels)),
                }
            }
        }
    }

    pub(crate) fn forget_resource(&self, namespace: &str, name: &str) {
        self.show_conditions(namespace, name, &[]);
    }

    /// The text that Prometheus reads.
    pub(crate) fn text(&self) -> Result<String, prometheus::Error> {
        let mut buffer = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer).into_owned())
    }
}

/// Seconds since 1970.
fn seconds_now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn condition(status: &str) -> Condition {
        Condition {
            type_: "Ready".to_owned(),
            status: status.to_owned(),
            reason: "Serving".to_owned(),
            message: String::new(),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
            observed_generation: None,
        }
    }

    #[test]
    fn one_status_of_a_condition_is_one_and_a_forgotten_resource_has_none() {
        let metrics = Metrics::new().unwrap();
        metrics.show_conditions("team", "chat", &[condition("False")]);
        metrics.show_conditions("team", "chat", &[condition("True")]);
        let text = metrics.text().unwrap();
        let line = |status: &str, value: u8| {
            format!(
                "plimsoll_inferencedeployment_condition{{name=\"chat\",namespace=\"team\",\
                 status=\"{status}\",type=\"Ready\"}} {value}"
            )
        };
        assert!(text.contains(&line("True", 1)), "{text}");
        assert!(text.contains(&line("False", 0)), "{text}");
        metrics.forget_resource("team", "chat");
        assert!(!metrics.text().unwrap().contains("chat"));
    }

    #[test]
    fn the_names_are_those_that_dashboards_read() {
        let metrics = Metrics::new().unwrap();
        metrics.observe_reconcile(Duration::from_millis(2), true);
        metrics.errors.with_label_values(&["conflict"]).inc();
        metrics.applies.with_label_values(&["Service"]).inc();
        let text = metrics.text().unwrap();
        for name in [
            "plimsoll_operator_reconcile_total{result=\"ok\"} 1",
            "plimsoll_operator_reconcile_total{result=\"error\"} 0",
            "plimsoll_operator_reconcile_errors_total{reason=\"conflict\"} 1",
            "plimsoll_operator_reconcile_duration_seconds_count 1",
            "plimsoll_operator_status_writes_total 0",
            "plimsoll_operator_applies_total{kind=\"Service\"} 1",
            "plimsoll_operator_leader 0",
            "plimsoll_operator_lease_renewed_timestamp_seconds 0",
            "plimsoll_operator_report_refusals_total 0",
            "plimsoll_operator_status_renewals_total 0",
        ] {
            assert!(text.contains(name), "{name} is missing in\n{text}");
        }
    }
}
