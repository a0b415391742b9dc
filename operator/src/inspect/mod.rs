//! The inspection of a model: what is known of the source, and what to do to know more. Pure;
//! the pod itself is built in `build::inspect`.

use std::time::Duration;

use plimsoll_crds::v1alpha1::status::Inspection;
use plimsoll_crds::v1alpha1::{InferenceDeploymentSpec, InspectResult, ModelFacts, Reason};
use sha2::{Digest, Sha256};

use crate::facts::Facts;
use crate::memory::Failure;
use crate::pods::{Ended, PodFacts, age};
use crate::token::hex;

/// A volume that is not mounted after this long is reported as unavailable.
const MOUNT_PATIENCE: Duration = Duration::from_secs(30);
/// Reasons of a waiting container that come from its images.
const IMAGE_TROUBLE: [&str; 6] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "RegistryUnavailable",
];

/// What is known of the model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Model {
    Known(Box<ModelFacts>, Inspection),
    /// The inspection is under way; the text says what it waits for.
    Inspecting(String),
    /// The source cannot be mounted, so far.
    Unavailable(String),
    Failed(Failure),
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Decision {
    pub(crate) model: Model,
    /// Make an inspect pod of this name.
    pub(crate) start: Option<String>,
    /// Inspect pods that have served their purpose; to be deleted once the status is written.
    pub(crate) discard: Vec<String>,
    pub(crate) look_again: Option<Duration>,
}

/// Hash of all that decides which files an engine will see: the source, and where its content
/// depends on the node, the nodes in question.
pub(crate) fn source_key(spec: &InferenceDeploymentSpec) -> String {
    let source = &spec.model.source;
    let mut hash = Sha256::new();
    // A struct of strings always encodes.
    hash.update(serde_json::to_vec(source).unwrap_or_default());
    if source.host_path.is_some() {
        let pods = spec
            .template
            .as_ref()
            .and_then(|template| template.spec.as_ref());
        let nodes = pods.map(|pods| &pods.node_selector);
        hash.update(serde_json::to_vec(&nodes).unwrap_or_default());
    }
    hex(&hash.finalize()[..8])
}

/// Name of the pod that inspects a source.
pub(crate) fn pod_name(resource: &str, key: &str) -> String {
    format!("{resource}-inspect-{}", &key[..key.len().min(8)])
}

/// What is known, and what to do.
pub(crate) fn decide(facts: &Facts) -> Decision {
    let key = source_key(&facts.object.spec);
    let name = pod_name(&facts.identity.name, &key);
    let (ours, others): (Vec<&PodFacts>, Vec<&PodFacts>) =
        facts.inspect_pods.iter().partition(|pod| pod.name == name);
    let discard: Vec<String> = others
        .iter()
        .filter(|pod| !pod.leaving())
        .map(|pod| pod.name.clone())
        .collect();
    let decision = |model| Decision {
        model,
        start: None,
        discard,
        look_again: None,
    };

    if let (Some(model), Some(inspection)) = (&facts.status.model, &facts.status.inspection)
        && inspection.source == key
    {
        let mut known = decision(Model::Known(Box::new(model.clone()), inspection.clone()));
        known.discard.extend(
            ours.iter()
                .filter(|pod| !pod.leaving())
                .map(|pod| pod.name.clone()),
        );
        return known;
    }
    match ours.first() {
        Some(pod) if !pod.leaving() => look_at(facts, &key, pod, decision),
        // Its successor has the same name, so it waits until this one is gone.
        Some(_) => Decision {
            start: None,
            ..start_or_wait(facts, &key, name, decision)
        },
        None => start_or_wait(facts, &key, name, decision),
    }
}

fn start_or_wait(
    facts: &Facts,
    key: &str,
    name: String,
    decision: impl FnOnce(Model) -> Decision,
) -> Decision {
    let generation = facts.identity.generation;
    let failure = facts.inspect_failure.as_ref();
    match failure.filter(|f| f.source == key && f.generation == generation) {
        Some(failure) if failure.retry_at.is_none_or(|at| at > facts.now) => {
            let rest = failure.retry_at.map(|at| age(Some(facts.now), at));
            Decision {
                look_again: rest,
                ..decision(Model::Failed(failure.clone()))
            }
        }
        // While it is tried again the condition keeps what went wrong.
        Some(failure) => Decision {
            start: Some(name),
            ..decision(Model::Failed(failure.clone()))
        },
        None => {
            let text = "an inspect pod reads the model's headers".to_owned();
            Decision {
                start: Some(name),
                ..decision(Model::Inspecting(text))
            }
        }
    }
}

fn look_at(
    facts: &Facts,
    key: &str,
    pod: &PodFacts,
    decision: impl FnOnce(Model) -> Decision,
) -> Decision {
    let answer = pod
        .engine
        .ended
        .as_ref()
        .filter(|_| pod.finished() || !pod.engine.running);
    if answer.is_none() && !pod.finished() {
        return still_running(facts, pod, decision);
    }
    let done = |model| {
        let mut done = decision(model);
        done.discard.push(pod.name.clone());
        done
    };
    let problem = match answer.map(read_answer) {
        Some(Ok(model)) => {
            // Only a folder of the node depends on the node.
            let on_node = facts.object.spec.model.source.host_path.is_some();
            let node = pod.node.clone().filter(|_| on_node);
            let inspection = Inspection {
                source: key.to_owned(),
                node,
            };
            return done(Model::Known(model, inspection));
        }
        Some(Err(problem)) => problem,
        None => {
            let text = format!("pod {} ended without an answer ({})", pod.name, pod.phase);
            Problem {
                reason: Reason::InspectFailed,
                message: text,
                answered: false,
            }
        }
    };
    if let Some(known) = &facts.inspect_failure
        && known.pod_uid == pod.uid
    {
        return done(Model::Failed(known.clone()));
    }
    // The files of an image never change: what they are was said.
    let settled = problem.answered && facts.object.spec.model.source.image.is_some();
    let failure = Failure::after(
        facts.inspect_failure.as_ref(),
        (key, facts.identity.generation, &pod.uid),
        (problem.reason, problem.message),
        !settled,
        facts.now,
    );
    let rest = failure.retry_at.map(|at| age(Some(facts.now), at));
    Decision {
        look_again: rest,
        ..done(Model::Failed(failure))
    }
}

struct Problem {
    reason: Reason,
    message: String,
    /// The inspection itself said so.
    answered: bool,
}

/// The termination message as facts, or what is wrong.
fn read_answer(ended: &Ended) -> Result<Box<ModelFacts>, Problem> {
    let failed = |message| Problem {
        reason: Reason::InspectFailed,
        message,
        answered: false,
    };
    let last_words: String = ended.message.chars().take(400).collect();
    let result: InspectResult = serde_json::from_str(&ended.message).map_err(|_| {
        failed(format!(
            "the inspection ended with exit code {} ({}): {last_words}",
            ended.exit_code, ended.reason
        ))
    })?;
    match result {
        InspectResult {
            error: Some(error), ..
        } => Err(Problem {
            reason: Reason::parse(&error.reason)
                .filter(|reason| crate::conditions::refuses_model(*reason))
                .unwrap_or(Reason::ModelInvalid),
            message: error.message,
            answered: true,
        }),
        InspectResult {
            facts: Some(facts),
            error: None,
        } => Ok(Box::new(facts)),
        InspectResult {
            facts: None,
            error: None,
        } => Err(failed(
            "the inspection answered neither facts nor an error".to_owned(),
        )),
    }
}

fn still_running(
    facts: &Facts,
    pod: &PodFacts,
    decision: impl FnOnce(Model) -> Decision,
) -> Decision {
    if let Some(waits) = &pod.unschedulable {
        return decision(Model::Inspecting(format!(
            "pod {}: {}",
            pod.name, waits.message
        )));
    }
    let waiting = pod.engine.waiting.as_ref();
    if let Some(waiting) = waiting.filter(|w| IMAGE_TROUBLE.contains(&w.reason.as_str())) {
        let text = format!("pod {}: {}: {}", pod.name, waiting.reason, waiting.message);
        return decision(Model::Unavailable(text));
    }
    let running = pod.engine.running;
    let waited = age(pod.created, facts.now);
    if !running && pod.node.is_some() && waited >= MOUNT_PATIENCE {
        return decision(Model::Unavailable(format!(
            "pod {} does not start, so its source may not be mounted; see `kubectl describe pod`",
            pod.name
        )));
    }
    let rest = MOUNT_PATIENCE.saturating_sub(waited);
    let look_again = (!running && pod.node.is_some()).then_some(rest);
    let text = match running {
        true => format!("pod {} reads the model's headers", pod.name),
        false => format!("pod {} is starting", pod.name),
    };
    Decision {
        look_again,
        ..decision(Model::Inspecting(text))
    }
}

#[cfg(test)]
mod tests;
