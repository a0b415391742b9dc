//! The inspection of a model: what is known of the source, and what to do to know more. Pure;
//! the pod itself is built in `build::inspect`.

mod again;
mod waiting;

use std::time::Duration;

use plimsoll_crds::v1alpha1::conditions::ConditionStatus;
use plimsoll_crds::v1alpha1::facts::ModelFormat;
use plimsoll_crds::v1alpha1::status::Inspection;
use plimsoll_crds::v1alpha1::{
    ConditionType, InferenceDeploymentSpec, InspectResult, ModelFacts, Reason,
};
use sha2::{Digest, Sha256};

use crate::facts::Facts;
use crate::memory::{Failure, Reread};
use crate::pods::{Ended, PodFacts, age};
use crate::token::hex;
use again::reread;
pub(crate) use waiting::pull_trouble;
use waiting::{READING_PATIENCE, waits};

/// What is known of the model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Model {
    Known(Box<ModelFacts>, Inspection),
    /// The inspection is under way; the text says what it waits for.
    Inspecting(String),
    /// The inspect pod finds no node or may not be made: nothing is known of the source.
    Held(Reason, String),
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
    /// Readings in a row that found what was known, though an engine found something else.
    pub(crate) reread: Option<Reread>,
    pub(crate) look_again: Option<Duration>,
}

/// Changes when plans need facts that were not read before: models are inspected once more.
const FACTS_VERSION: &str = "3";
/// Of operators from before.
const FACTS_VERSIONS_BEFORE: [&str; 2] = ["", "2"];

/// Hash of all that decides which files an engine will see: the source, and where its content
/// depends on the node, the nodes in question.
pub(crate) fn source_key(spec: &InferenceDeploymentSpec) -> String {
    keyed(spec, FACTS_VERSION)
}

fn keyed(spec: &InferenceDeploymentSpec, version: &str) -> String {
    let source = &spec.model.source;
    let mut hash = Sha256::new();
    // Facts of an older operator lack what plans need now.
    hash.update(version);
    // A struct of strings always encodes.
    hash.update(serde_json::to_vec(source).unwrap_or_default());
    let merged: Vec<_> = spec.merged().collect();
    if !merged.is_empty() {
        hash.update(serde_json::to_vec(&merged).unwrap_or_default());
    }
    if on_nodes(spec) {
        let pods = spec
            .template
            .as_ref()
            .and_then(|template| template.spec.as_ref());
        let nodes = pods.map(|pods| &pods.node_selector);
        hash.update(serde_json::to_vec(&nodes).unwrap_or_default());
    }
    hex(&hash.finalize()[..8])
}

/// Whether facts that an operator from before took hold all that plans need: a folder that was not
/// quantised has no blocks. Of a GGUF file some tensors may have them where most numbers are floats.
fn is_enough(model: &ModelFacts, inspection: &Inspection, spec: &InferenceDeploymentSpec) -> bool {
    let mut before = FACTS_VERSIONS_BEFORE.iter();
    model.format == ModelFormat::HuggingFace
        && model.quantization.is_none()
        && before.any(|version| inspection.source == keyed(spec, version))
}

/// Whether what is read depends on the node: only a folder of the node does.
fn on_nodes(spec: &InferenceDeploymentSpec) -> bool {
    spec.sources().any(|source| source.host_path.is_some())
}

/// Whether volumes are images.
fn of_images(spec: &InferenceDeploymentSpec) -> bool {
    spec.sources().any(|source| source.image.is_some())
}

/// Name of the pod that inspects a source: another one where another pod is needed to read it,
/// such as one with the pull secret that was missing.
pub(crate) fn pod_name(resource: &str, spec: &InferenceDeploymentSpec) -> String {
    let mut hash = Sha256::new();
    hash.update(source_key(spec));
    let template = spec.template.as_ref();
    if let Some(pods) = template.and_then(|template| template.spec.as_ref()) {
        let place = (&pods.node_selector, &pods.tolerations, &pods.affinity);
        let means = (&pods.service_account_name, &pods.image_pull_secrets);
        // They come from JSON.
        hash.update(serde_json::to_vec(&(place, means)).unwrap_or_default());
    }
    format!("{resource}-inspect-{}", hex(&hash.finalize()[..4]))
}

/// What is known, and what to do.
pub(crate) fn decide(facts: &Facts) -> Decision {
    let key = source_key(&facts.object.spec);
    let name = pod_name(&facts.identity.name, &facts.object.spec);
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
        reread: None,
        look_again: None,
    };
    if let (Some(model), Some(inspection)) = (&facts.status.model, &facts.status.inspection)
        && (inspection.source == key || is_enough(model, inspection, &facts.object.spec))
    {
        let inspection = Inspection {
            source: key.clone(),
            ..inspection.clone()
        };
        let known = Model::Known(Box::new(model.clone()), inspection);
        return reread(facts, &key, name, &ours, decision(known));
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
    match failure_of(facts, key) {
        Some(failure) if failure.retry_at > facts.now => {
            let rest = age(Some(facts.now), failure.retry_at);
            Decision {
                look_again: Some(rest),
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

/// How the last attempt on this source and spec failed, if it did.
fn failure_of<'a>(facts: &'a Facts, key: &str) -> Option<&'a Failure> {
    let failure = facts.inspect_failure.as_ref();
    failure.filter(|of| of.source == key && of.generation == facts.identity.generation)
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
    let image = of_images(&facts.object.spec);
    let hangs = pod.engine.running && age(pod.engine.running_since, facts.now) >= READING_PATIENCE;
    let lost = pod.source_dropped && image;
    if answer.is_none() && !pod.finished() && !hangs && !lost {
        let (model, look_again) = match (waits(facts, pod), failure_of(facts, key)) {
            // While it is tried again the condition keeps what went wrong.
            ((Model::Inspecting(_), look_again), Some(failure)) => {
                (Model::Failed(failure.clone()), look_again)
            }
            (waits, _) => waits,
        };
        return Decision {
            look_again,
            ..decision(model)
        };
    }
    let done = |model| {
        let mut done = decision(model);
        done.discard.push(pod.name.clone());
        done
    };
    let problem = match answer.map(read_answer) {
        // What it read was an empty folder.
        _ if lost => dropped_volume(),
        Some(Ok(model)) => {
            let on_node = on_nodes(&facts.object.spec);
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
            let text = match hangs {
                true => format!(
                    "pod {} has read the source for {} s without an answer",
                    pod.name,
                    READING_PATIENCE.as_secs()
                ),
                false => text,
            };
            Problem {
                reason: Reason::InspectFailed,
                message: text,
            }
        }
    };
    if let Some(known) = &facts.inspect_failure
        && known.pod_uid == pod.uid
    {
        return done(Model::Failed(known.clone()));
    }
    let failure = Failure::after(
        facts.inspect_failure.as_ref(),
        (key, facts.identity.generation, &pod.uid),
        (problem.reason, problem.message),
        facts.now,
    );
    let rest = age(Some(facts.now), failure.retry_at);
    Decision {
        look_again: Some(rest),
        ..done(Model::Failed(failure))
    }
}

struct Problem {
    reason: Reason,
    message: String,
}

/// The API server kept the pod and dropped what it does not offer.
fn dropped_volume() -> Problem {
    Problem {
        reason: Reason::SourceUnavailable,
        message: "spec.model.source.image or spec.adapters[].source.image: the API server dropped an \
                  image volume of the inspect pod, as Kubernetes 1.33 and 1.34 do by default; turn the feature gate ImageVolume \
                  on in the API server and the kubelets (1.35 has it on), or put what the \
                  image has into a claim and name that as the source's persistentVolumeClaim"
            .to_owned(),
    }
}

/// The termination message as facts, or what is wrong.
fn read_answer(ended: &Ended) -> Result<Box<ModelFacts>, Problem> {
    let failed = |message| Problem {
        reason: Reason::InspectFailed,
        message,
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
                .filter(|reason| {
                    ConditionType::ModelResolved.allows(ConditionStatus::False, *reason)
                })
                .unwrap_or(Reason::ModelInvalid),
            message: error.message,
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

#[cfg(test)]
mod adapter_tests;
#[cfg(test)]
mod held_tests;
#[cfg(test)]
mod tests;
