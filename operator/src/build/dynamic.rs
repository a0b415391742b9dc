//! Adapters that running engines load: where their files are mounted, and what engines are told.
//!
//! A source (but for its path) is one volume, whatever number of adapters lie in it, and none where it is
//! the model's own: so another adapter in it changes no pod.

use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::InferenceDeployment;
use plimsoll_crds::v1alpha1::adapters::AdapterSpec;
use plimsoll_crds::v1alpha1::boot::BootAdapter;
use plimsoll_crds::v1alpha1::model::ModelSource;
use serde_json::{Value, json};

use super::{inside, mount, short_hash, source_volume};

/// The sources that only such adapters have, each once, without a path.
fn sources(object: &InferenceDeployment) -> Vec<ModelSource> {
    let mut sources: Vec<ModelSource> = Vec::new();
    for of in object.spec.dynamic() {
        let source = whole(&of.source);
        if source != whole(&object.spec.model.source) && !sources.contains(&source) {
            sources.push(source);
        }
    }
    sources
}

fn whole(source: &ModelSource) -> ModelSource {
    ModelSource {
        path: None,
        ..source.clone()
    }
}

/// By what it is: its place among others may change.
fn volume(source: &ModelSource) -> String {
    format!("{}{}", names::VOLUME_ADAPTERS, short_hash(&json!(source)))
}

fn folder(source: &ModelSource) -> String {
    format!(
        "{}/{}",
        names::DYNAMIC_ADAPTERS_DIR,
        short_hash(&json!(source))
    )
}

pub(super) fn volumes(object: &InferenceDeployment) -> Vec<Value> {
    let sources = sources(object);
    let volumes = sources.iter();
    volumes
        .map(|source| source_volume(&volume(source), source))
        .collect()
}

pub(super) fn mounts(object: &InferenceDeployment) -> Vec<Value> {
    let sources = sources(object);
    let mounts = sources.iter();
    mounts
        .map(|source| mount(&volume(source), &folder(source)))
        .collect()
}

/// As an engine finds them, in their order.
pub(crate) fn adapters(object: &InferenceDeployment) -> Vec<BootAdapter> {
    let model = whole(&object.spec.model.source);
    let adapter = |of: &AdapterSpec| {
        let source = whole(&of.source);
        let at = match source == model {
            true => names::MODEL_DIR.to_owned(),
            false => folder(&source),
        };
        BootAdapter {
            name: of.name.clone(),
            path: inside(&at, &of.source),
            scale: of.scale,
        }
    };
    object.spec.dynamic().map(adapter).collect()
}
