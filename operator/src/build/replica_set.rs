//! A revision: one ReplicaSet, and the immutable ConfigMap that its pods mount.

use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::InferenceDeployment;
use plimsoll_crds::v1alpha1::engine::EngineConfig;
use serde_json::{Value, json};

use super::pod::engine_template;
use super::{PodSettings, Prepared, SPEC_ANNOTATION, merged, short_hash, spec_hash};
use crate::children::ChildKind;
use crate::error::Error;
use crate::facts::Identity;

/// A revision and its objects.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Revision {
    pub(crate) name: String,
    pub(crate) config_map: Prepared,
    /// Made with no replicas: rolling decides how many it has.
    pub(crate) replica_set: Prepared,
}

/// The revision that a configuration and a template make. Its name is a hash of both, so an
/// unchanged plan is an unchanged revision, whatever else changed in the spec.
///
/// # Errors
/// The configuration cannot be encoded: a mistake of ours.
pub(crate) fn revision(
    object: &InferenceDeployment,
    identity: &Identity,
    settings: &PodSettings,
    config: EngineConfig,
    memory_limit: u64,
) -> Result<Revision, Error> {
    let encode = |config: &EngineConfig| {
        serde_json::to_value(config).map_err(|source| Error::Encode {
            what: "engine.json",
            source,
        })
    };
    let unnamed = encode(&EngineConfig {
        revision: String::new(),
        ..config.clone()
    })?;
    let mut template = engine_template(object, identity, settings, memory_limit, "");
    // How long a start may take says nothing of what runs: pods that run are not replaced for it.
    for list in ["containers", "initContainers"] {
        for container in template["spec"][list].as_array_mut().into_iter().flatten() {
            if container["name"] == names::CONTAINER_ENGINE {
                container["startupProbe"]["failureThreshold"] = json!(3600);
            }
        }
    }
    let name = short_hash(&json!({"config": unnamed, "template": template}));
    let object_name = format!("{}-{name}", identity.name);

    let config = encode(&EngineConfig {
        revision: name.clone(),
        ..config
    })?;
    let labels = json!({"labels": {names::LABEL_REVISION: name}});
    let config_map = Prepared::new(
        ChildKind::ConfigMap,
        "v1",
        object_name.clone(),
        object,
        identity,
        json!({
            "metadata": labels.clone(),
            "immutable": true,
            "data": {names::CONFIG_KEY: config.to_string()},
        }),
    );
    let mut template: Value =
        engine_template(object, identity, settings, memory_limit, &object_name);
    template["metadata"]["labels"][names::LABEL_REVISION] = json!(name);
    let replica_set = Prepared::new(
        ChildKind::ReplicaSet,
        "apps/v1",
        object_name,
        object,
        identity,
        json!({
            "metadata": merged(
                labels,
                json!({"annotations": {SPEC_ANNOTATION: spec_hash(object)}}),
            ),
            "spec": {
                "selector": {"matchLabels": {
                    names::LABEL_DEPLOYMENT: identity.name,
                    names::LABEL_REVISION: name,
                }},
                "template": template,
            },
        }),
    );
    Ok(Revision {
        name,
        config_map,
        replica_set,
    })
}
