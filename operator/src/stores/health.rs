//! How the watches are: what has been listed, and what fails since when. Readiness and metrics are
//! told from it, so that an operator whose eyes are closed does not look well.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::Metrics;

/// A watch that fails for longer makes the operator unready. The API server may be restarted in
/// the meantime; each attempt is at most 5 s after the one before.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often it is looked whether everything is listed, until it is.
const LOOK: Duration = Duration::from_millis(100);

/// A kind, and the namespace that it is watched in (`None`: all).
type Watch = (String, Option<String>);

/// The state of every watch of this process.
#[derive(Debug)]
pub(crate) struct Watches {
    metrics: Arc<Metrics>,
    states: Mutex<BTreeMap<Watch, State>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    listed: bool,
    failing_since: Option<Instant>,
}

/// One watch, for as long as it is wanted.
#[derive(Debug)]
pub(crate) struct Observed {
    watches: Arc<Watches>,
    watch: Watch,
}

impl Watches {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Watches {
        Watches {
            metrics,
            states: Mutex::default(),
        }
    }

    /// Counts a watch in until what is returned is dropped.
    pub(crate) fn begin(self: &Arc<Self>, kind: &str, namespace: Option<&str>) -> Observed {
        let watch = (kind.to_owned(), namespace.map(str::to_owned));
        self.metrics
            .watch_failures
            .with_label_values(&[kind])
            .inc_by(0);
        self.change(&watch, |state| *state = State::default());
        Observed {
            watches: Arc::clone(self),
            watch,
        }
    }

    /// Why the operator cannot be relied on, if so. A process that only stands by watches nothing.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble_at(Instant::now())
    }

    /// Comes back when everything has been listed and is in the stores.
    ///
    /// Looked at, not waited for: a store wakes only the last of the tasks that wait for it, and the
    /// controller waits for the resources itself.
    pub(crate) async fn listed(&self) {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            looks.tick().await;
            if self.trouble().is_none() {
                break;
            }
        }
        // What was heard as listed a moment ago is in the store by now.
        looks.tick().await;
    }

    fn trouble_at(&self, now: Instant) -> Option<String> {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.iter().find_map(|((kind, namespace), state)| {
            let place = namespace.as_deref().unwrap_or("all namespaces");
            match state {
                State { listed: false, .. } => Some(format!("{kind} of {place}: not listed yet")),
                State {
                    failing_since: Some(since),
                    ..
                } if now.duration_since(*since) >= PATIENCE => Some(format!(
                    "{kind} of {place}: the watch has failed for {} s",
                    now.duration_since(*since).as_secs()
                )),
                State { .. } => None,
            }
        })
    }

    fn change(&self, watch: &Watch, change: impl FnOnce(&mut State)) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        change(states.entry(watch.clone()).or_default());
        let failing = states
            .iter()
            .any(|((kind, _), state)| *kind == watch.0 && state.failing_since.is_some());
        self.metrics
            .watch_failing
            .with_label_values(&[&watch.0])
            .set(failing.into());
    }
}

impl Observed {
    /// Everything of the kind has been listed.
    pub(crate) fn listed(&self) {
        self.watches.change(&self.watch, |state| {
            *state = State {
                listed: true,
                failing_since: None,
            };
        });
        self.watches.metrics.saw_list(&self.watch.0);
    }

    /// An object has changed.
    pub(crate) fn heard(&self) {
        self.watches.metrics.saw_event(&self.watch.0);
    }

    /// It starts over with a list, and counts as failing until that is whole.
    pub(crate) fn failed(&self) {
        let kind = self.watch.0.as_str();
        self.watches
            .metrics
            .watch_failures
            .with_label_values(&[kind])
            .inc();
        self.watches.change(&self.watch, |state| {
            state.failing_since = state.failing_since.or(Some(Instant::now()));
        });
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        let states = &self.watches.states;
        let mut states = states.lock().unwrap_or_else(PoisonError::into_inner);
        states.remove(&self.watch);
        let kind = self.watch.0.as_str();
        self.watches
            .metrics
            .watch_failing
            .with_label_values(&[kind])
            .set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_waits_for_every_list_and_ends_when_a_watch_fails_for_long() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let watches = Arc::new(Watches::new(Arc::clone(&metrics)));
        assert_eq!(watches.trouble(), None, "standing by");
        let pods = watches.begin("Pod", None);
        let sets = watches.begin("ReplicaSet", Some("team"));
        pods.listed();
        let words = watches.trouble().unwrap();
        assert_eq!(words, "ReplicaSet of team: not listed yet");
        sets.listed();
        assert_eq!(watches.trouble(), None);

        pods.failed();
        let began = Instant::now();
        pods.failed();
        let soon = watches.trouble_at(began + PATIENCE - Duration::from_secs(2));
        assert_eq!(soon, None, "a restart of the API server");
        let words = watches.trouble_at(began + PATIENCE).unwrap();
        assert_eq!(
            words,
            "Pod of all namespaces: the watch has failed for 60 s"
        );
        let text = metrics.text().unwrap();
        for line in [
            "plimsoll_operator_watch_failures_total{kind=\"Pod\"} 2",
            "plimsoll_operator_watch_failures_total{kind=\"ReplicaSet\"} 0",
            "plimsoll_operator_watch_failing{kind=\"Pod\"} 1",
            "plimsoll_operator_watch_last_list_timestamp_seconds{kind=\"Pod\"} ",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        pods.listed();
        assert_eq!(watches.trouble(), None);
        // The Lease is lost, and with it what is watched.
        drop((pods, sets));
        assert_eq!(watches.trouble(), None);
    }
}
