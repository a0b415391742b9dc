//! Sends targets and sleeps: one call at a time to each pod, and what became of it, until the pod is forgotten.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use kube::runtime::reflector::ObjectRef;
use plimsoll_crds::v1alpha1::{InferenceDeployment, TargetReport};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::call::{self, CallError};
use super::{Failed, Tries, What};
use crate::mandate::Mandate;

/// A call that took longer has failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Who is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addressee {
    pub(crate) resource: ObjectRef<InferenceDeployment>,
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) ip: String,
    pub(crate) port: u16,
}

/// What a pod is told.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) what: What,
    pub(crate) generation: i64,
    /// The document.
    pub(crate) body: Bytes,
    /// Its container's memory limit holds the target.
    pub(crate) held: bool,
}

/// All calls of this process.
#[derive(Debug)]
pub(crate) struct Steering {
    pods: Mutex<HashMap<String, Tracked>>,
    nudges: mpsc::Sender<ObjectRef<InferenceDeployment>>,
    mandate: Mandate,
    pub(super) patience: Duration,
}

#[derive(Debug)]
struct Tracked {
    owner: String,
    past: Arc<Mutex<Past>>,
    call: JoinHandle<()>,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.call.abort();
    }
}

/// What became of the calls to one pod.
#[derive(Debug, Default)]
struct Past {
    what: What,
    under_way: bool,
    failed: Option<(i64, u32, Instant, String)>,
    answer: Option<(TargetReport, Instant)>,
    held: Option<i64>,
}

impl Steering {
    /// Nudges go into `nudges` when a call ended; without the mandate none is made.
    pub(crate) fn new(
        nudges: mpsc::Sender<ObjectRef<InferenceDeployment>>,
        mandate: Mandate,
    ) -> Steering {
        Steering {
            pods: Mutex::default(),
            nudges,
            mandate,
            patience: CALL_TIMEOUT,
        }
    }

    /// What became of the calls to a resource's pods, by uid of the pod.
    pub(crate) fn of(&self, owner: &str) -> BTreeMap<String, Tries> {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = pods.iter().filter(|(_, tracked)| tracked.owner == owner);
        ours.map(|(uid, tracked)| (uid.clone(), lock(&tracked.past).tries()))
            .collect()
    }

    /// Keeps only these pods of the resource with the uid `owner`; what is on its way to others
    /// ends.
    pub(crate) fn keep(&self, owner: &str, uids: &[&str]) {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.retain(|uid, tracked| tracked.owner != owner || uids.contains(&uid.as_str()));
    }

    /// Tells a pod of the resource with the uid `owner`, unless a call to it is on its way.
    pub(crate) fn tell(&self, owner: &str, token: &str, addressee: Addressee, told: Told) {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let past = pods
            .get(&addressee.uid)
            .map(|known| Arc::clone(&known.past));
        let past = past.unwrap_or_default();
        if !lock(&past).begins(told.what) {
            return;
        }
        let (uid, token) = (addressee.uid.clone(), token.to_owned());
        let (mandate, nudges) = (self.mandate.clone(), self.nudges.clone());
        let patience = self.patience;
        let kept = Arc::clone(&past);
        let call = tokio::spawn(async move {
            let at = (addressee.ip.as_str(), addressee.port);
            let document = (told.what.path(), told.body);
            let outcome = call::put(at, &token, document, (&mandate, patience)).await;
            let outcome = outcome.and_then(|report| of_generation(report, told.generation));
            log(&addressee, (told.what, told.generation), &outcome);
            lock(&kept).take((told.generation, told.held), outcome);
            // The receiver lives as long as the controller; without it nobody needs to know.
            let _ = nudges.send(addressee.resource).await;
        });
        let owner = owner.to_owned();
        pods.insert(uid, Tracked { owner, past, call });
    }
}

/// # Errors
/// It answers of another target, and would be told again at once for ever.
fn of_generation(report: TargetReport, told: i64) -> Result<TargetReport, CallError> {
    let answered = report.generation;
    match answered == told {
        true => Ok(report),
        false => Err(CallError::Generation { told, answered }),
    }
}

fn lock(past: &Mutex<Past>) -> std::sync::MutexGuard<'_, Past> {
    past.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Past {
    /// Whether a call may begin: one at a time. What became of those that told something else is
    /// forgotten then.
    fn begins(&mut self, what: What) -> bool {
        if self.under_way {
            return false;
        }
        if self.what != what {
            *self = Past::default();
        }
        (self.what, self.under_way) = (what, true);
        true
    }

    fn take(&mut self, (generation, held): (i64, bool), outcome: Result<TargetReport, CallError>) {
        self.under_way = false;
        match outcome {
            Ok(report) => {
                self.failed = None;
                self.held = held.then_some(generation);
                self.answer = Some((report, Instant::now()));
            }
            Err(error) => {
                let before = self.failed.take().filter(|(of, ..)| *of == generation);
                let times = before.map_or(0, |(_, times, ..)| times).saturating_add(1);
                self.failed = Some((generation, times, Instant::now(), error.to_string()));
            }
        }
    }

    fn tries(&self) -> Tries {
        let failed = self.failed.as_ref();
        let answer = self.answer.as_ref();
        Tries {
            what: self.what,
            under_way: self.under_way,
            failed: failed.map(|(generation, times, at, words)| Failed {
                generation: *generation,
                times: *times,
                ago: at.elapsed(),
                words: words.clone(),
            }),
            answer: answer.map(|(report, at)| (report.clone(), at.elapsed())),
            held: self.held,
        }
    }
}

fn log(
    addressee: &Addressee,
    (what, generation): (What, i64),
    outcome: &Result<TargetReport, CallError>,
) {
    let (namespace, name) = (&addressee.resource.namespace, &addressee.resource.name);
    let (namespace, pod) = (namespace.as_deref(), &addressee.pod);
    match outcome {
        Ok(report) => tracing::info!(
            namespace, name, pod, generation, ?what,
            outcome = ?report.outcome,
            message = report.message,
            "an engine was told its target"
        ),
        Err(error) => {
            tracing::warn!(namespace, name, pod, generation, ?what, %error, "an engine could not be told its target");
        }
    }
}
