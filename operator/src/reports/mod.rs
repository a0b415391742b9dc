//! Reports: one stream per engine pod, the newest report of each, and a nudge to the controller
//! when it says something new.

mod lines;
mod listeners;
mod stream;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use kube::runtime::reflector::ObjectRef;
use plimsoll_crds::v1alpha1::InferenceDeployment;
use plimsoll_crds::v1alpha1::report::{MemoryReport, RankMemory};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::changes::moved;
use crate::facts::ReportFacts;
use crate::metrics::Metrics;
pub(crate) use listeners::listeners;
use stream::{ReportStream, StreamError};

/// Pauses between two attempts to connect to a pod.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Who is listened to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    pub(crate) resource: ObjectRef<InferenceDeployment>,
    pub(crate) pod: String,
    pub(crate) pod_uid: String,
    pub(crate) ip: String,
    pub(crate) port: u16,
}

/// All streams of this process.
#[derive(Debug)]
pub(crate) struct Reports {
    streams: Mutex<HashMap<String, Tracked>>,
    nudges: mpsc::Sender<ObjectRef<InferenceDeployment>>,
    metrics: Arc<Metrics>,
    stale_after: Duration,
}

#[derive(Debug)]
struct Tracked {
    owner: String,
    pod: String,
    ip: String,
    last: Arc<Mutex<Last>>,
    task: JoinHandle<()>,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Default)]
struct Last {
    report: Option<Arc<MemoryReport>>,
    stale: bool,
    refused: bool,
}

impl Reports {
    /// Nudges go into `nudges`; a pod that is silent for `stale_after` is stale.
    pub(crate) fn new(
        nudges: mpsc::Sender<ObjectRef<InferenceDeployment>>,
        metrics: Arc<Metrics>,
        stale_after: Duration,
    ) -> Reports {
        Reports {
            streams: Mutex::default(),
            nudges,
            metrics,
            stale_after,
        }
    }

    /// Listens to exactly these pods of the resource with the uid `owner`.
    pub(crate) fn listen(&self, owner: &str, token: &str, listeners: Vec<Listener>) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.retain(|uid, tracked| {
            let wanted = |l: &Listener| l.pod_uid == *uid && l.ip == tracked.ip;
            tracked.owner != owner || listeners.iter().any(wanted)
        });
        for listener in listeners {
            if streams.contains_key(&listener.pod_uid) {
                continue;
            }
            let last = Arc::new(Mutex::new(Last::default()));
            let task = Task {
                last: Arc::clone(&last),
                token: token.to_owned(),
                nudges: self.nudges.clone(),
                metrics: Arc::clone(&self.metrics),
                stale_after: self.stale_after,
                heard: Instant::now(),
                nudged: None,
                listener: listener.clone(),
            };
            let tracked = Tracked {
                owner: owner.to_owned(),
                pod: listener.pod,
                ip: listener.ip,
                last,
                task: tokio::spawn(task.run()),
            };
            streams.insert(listener.pod_uid, tracked);
        }
    }

    /// The newest reports of a resource's pods, by pod name.
    pub(crate) fn of(&self, owner: &str) -> BTreeMap<String, ReportFacts> {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = streams.values().filter(|tracked| tracked.owner == owner);
        ours.map(|tracked| {
            let last = tracked.last.lock().unwrap_or_else(PoisonError::into_inner);
            let facts = ReportFacts {
                report: last.report.clone(),
                stale: last.stale,
                refused: last.refused,
            };
            (tracked.pod.clone(), facts)
        })
        .collect()
    }
}

/// The life of one stream.
struct Task {
    listener: Listener,
    token: String,
    last: Arc<Mutex<Last>>,
    nudges: mpsc::Sender<ObjectRef<InferenceDeployment>>,
    metrics: Arc<Metrics>,
    stale_after: Duration,
    /// When the pod was last heard.
    heard: Instant,
    /// What the controller was last nudged with.
    nudged: Option<Arc<MemoryReport>>,
}

impl Task {
    /// Ends when the pod is no longer listened to (the task is then aborted).
    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let before = self.heard;
            let error = self.listen().await;
            if let StreamError::Status(StatusCode::UNAUTHORIZED) = &error {
                self.mark_refused().await;
            }
            tracing::debug!(
                namespace = self.listener.resource.namespace,
                name = self.listener.resource.name,
                pod = self.listener.pod,
                %error,
                "report stream ended"
            );
            pause = if self.heard > before {
                FIRST_PAUSE
            } else {
                (pause * 2).min(LONGEST_PAUSE)
            };
            let rest = self.patience();
            if rest <= pause {
                tokio::time::sleep(rest).await;
                self.mark_stale().await;
            }
            tokio::time::sleep(pause.saturating_sub(rest.min(pause))).await;
        }
    }

    async fn listen(&mut self) -> StreamError {
        let mut stream =
            match ReportStream::open((&self.listener.ip, self.listener.port), &self.token).await {
                Ok(stream) => stream,
                Err(error) => return error,
            };
        let _connected = Connected::count(&self.metrics);
        loop {
            // A stale pod is listened to for another while before the connection is made anew.
            let patience = match self.patience() {
                Duration::ZERO => self.stale_after,
                rest => rest,
            };
            match stream.next(patience).await {
                Ok(report) => self.take(Arc::new(report)).await,
                Err(StreamError::Silent(_)) if self.patience() == Duration::ZERO => {
                    self.mark_stale().await;
                    return StreamError::Silent(self.stale_after);
                }
                Err(error) => return error,
            }
        }
    }

    /// How long the pod may be silent yet.
    fn patience(&self) -> Duration {
        self.stale_after.saturating_sub(self.heard.elapsed())
    }

    async fn take(&mut self, report: Arc<MemoryReport>) {
        self.heard = Instant::now();
        let was_lost = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            last.report = Some(Arc::clone(&report));
            let refused = std::mem::take(&mut last.refused);
            std::mem::take(&mut last.stale) || refused
        };
        let news = self
            .nudged
            .as_deref()
            .is_none_or(|before| says_more(before, &report));
        if was_lost || news {
            self.nudged = Some(report);
            self.nudge().await;
        }
    }

    async fn mark_stale(&mut self) {
        let turned = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            !std::mem::replace(&mut last.stale, true)
        };
        if turned {
            self.nudge().await;
        }
    }

    /// The pod does not know our token: told once, counted each time.
    async fn mark_refused(&self) {
        self.metrics.refused_streams.inc();
        let turned = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            !std::mem::replace(&mut last.refused, true)
        };
        if turned {
            tracing::warn!(
                namespace = self.listener.resource.namespace,
                name = self.listener.resource.name,
                pod = self.listener.pod,
                "the pod refuses the operator's token (401): its memory is not known"
            );
            self.nudge().await;
        }
    }

    async fn nudge(&self) {
        // The receiver lives as long as the controller; without it nobody needs to know.
        let _ = self.nudges.send(self.listener.resource.clone()).await;
    }
}

/// Counts an open stream for as long as it lives.
struct Connected(Arc<Metrics>);

impl Connected {
    fn count(metrics: &Arc<Metrics>) -> Connected {
        metrics.streams.inc();
        Connected(Arc::clone(metrics))
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.streams.dec();
    }
}

/// Whether a report says what the status should know: a state, or a figure that moved far enough.
fn says_more(before: &MemoryReport, next: &MemoryReport) -> bool {
    let MemoryReport {
        time: _,
        state,
        message,
        progress,
        weights_verified,
        sleep_level,
        sleep_reason,
        woken_by,
        wakes_on_request,
        weight_version,
        adapters,
        adapters_refused_for,
        dynamic_adapters,
        dynamic_adapters_left_out,
        backend,
        revision,
        target,
        sleep,
        effective,
        kv_used_percent: _,
        ranks,
        host,
    } = next;
    let states = before.state != *state
        || before.message != *message
        || before.progress != *progress
        || before.weights_verified != *weights_verified
        || before.sleep_level != *sleep_level
        || before.sleep_reason != *sleep_reason
        || before.woken_by != *woken_by
        || before.wakes_on_request != *wakes_on_request
        || before.weight_version != *weight_version
        || before.adapters != *adapters
        || before.adapters_refused_for != *adapters_refused_for
        || before.dynamic_adapters != *dynamic_adapters
        || before.dynamic_adapters_left_out != *dynamic_adapters_left_out
        || before.backend != *backend
        || before.revision != *revision
        || before.target != *target
        || before.sleep != *sleep
        || before.effective != *effective;
    let scale = host.limit_bytes.unwrap_or(host.cgroup_bytes);
    states
        || before.ranks.len() != ranks.len()
        || before
            .ranks
            .iter()
            .zip(ranks)
            .any(|(before, next)| rank_moved(before, next))
        || moved(before.host.cgroup_bytes, host.cgroup_bytes, scale)
}

fn rank_moved(before: &RankMemory, next: &RankMemory) -> bool {
    let scale = next.budget_bytes;
    let crossed = |rank: &RankMemory| rank.driver_bytes > rank.budget_bytes;
    let accounts = before
        .accounts
        .iter()
        .zip(&next.accounts)
        .any(|(before, next)| {
            moved(before.used_bytes, next.used_bytes, scale)
                || moved(before.reserved_bytes, next.reserved_bytes, scale)
        });
    accounts
        || before.accounts.len() != next.accounts.len()
        || moved(before.driver_bytes, next.driver_bytes, scale)
        || crossed(before) != crossed(next)
}

#[cfg(test)]
mod tests;
