//! A revision: one ReplicaSet, and the ConfigMap that its pods mount.

use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::{Boot, InferenceDeployment, Target};
use serde::Serialize;
use serde_json::{Value, json};

use super::pod::engine_template;
use super::{Documents, PodSettings, Prepared, SPEC_ANNOTATION, merged, short_hash, spec_hash};
use crate::children::ChildKind;
use crate::error::Error;
use crate::facts::Identity;

/// A revision and its objects.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Revision {
    pub(crate) name: String,
    /// `boot.json` stays as it is; `target.json` follows the resource, for pods that start again.
    pub(crate) config_map: Prepared,
    /// Made with no replicas: rolling decides how many it has.
    pub(crate) replica_set: Prepared,
    /// What its engines are told.
    pub(crate) target: Target,
    /// The memory limit that the containers of pods that run are to have, where the operator sets it.
    pub(crate) limit: Option<u64>,
}

/// The name of the revision that documents and a template make: a hash of the template and of what
/// an engine is started with, so that it changes when pods have to. With a `target`, also of what that
/// asks for.
///
/// # Errors
/// A document cannot be encoded: a mistake of ours.
pub(crate) fn name_of(
    object: &InferenceDeployment,
    identity: &Identity,
    settings: &PodSettings,
    (boot, target): (&Boot, Option<&Target>),
    memory_limit: u64,
) -> Result<String, Error> {
    // A limit that the operator sets follows the target; pods that run are resized to it.
    let limit = match settings.resize {
        true => 0,
        false => memory_limit,
    };
    let mut template = engine_template(object, identity, settings, limit, "");
    // How long a start may take says nothing of what runs: pods that run are not replaced for it.
    for list in ["containers", "initContainers"] {
        for container in template["spec"][list].as_array_mut().into_iter().flatten() {
            if container["name"] == names::CONTAINER_ENGINE {
                container["startupProbe"]["failureThreshold"] = json!(3600);
            }
        }
    }
    let rolls = rolls(boot, target)?;
    Ok(short_hash(&json!({"rolls": rolls, "template": template})))
}

/// The revision that documents and a template make.
///
/// # Errors
/// A document cannot be encoded: a mistake of ours.
pub(crate) fn revision(
    object: &InferenceDeployment,
    identity: &Identity,
    settings: &PodSettings,
    Documents { boot, target }: Documents,
    memory_limit: u64,
) -> Result<Revision, Error> {
    // Where the cluster cannot resize pods, new ones follow the target.
    let told = (&boot, (!settings.resize).then_some(&target));
    let name = name_of(object, identity, settings, told, memory_limit)?;
    let object_name = format!("{}-{name}", identity.name);

    let boot = Boot {
        revision: name.clone(),
        ..boot
    };
    let written = encode(names::BOOT_KEY, &boot)?.to_string();
    let config_map = config_map(object, identity, &name, (&written, &target))?;
    let labels = json!({"labels": {names::LABEL_REVISION: name}});
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
        target,
        limit: None,
    })
}

/// The ConfigMap of the revision `name`: `boot.json` as it is written, and a target.
///
/// # Errors
/// The target cannot be encoded: a mistake of ours.
pub(crate) fn config_map(
    object: &InferenceDeployment,
    identity: &Identity,
    name: &str,
    (boot, target): (&str, &Target),
) -> Result<Prepared, Error> {
    let data = json!({
        names::BOOT_KEY: boot,
        names::TARGET_KEY: encode(names::TARGET_KEY, target)?.to_string(),
    });
    Ok(Prepared::new(
        ChildKind::ConfigMap,
        "v1",
        format!("{}-{name}", identity.name),
        object,
        identity,
        json!({
            "metadata": {"labels": {names::LABEL_REVISION: name}},
            "data": data,
        }),
    ))
}

/// What of the documents makes a new revision, and so new pods: what an engine is started with, but
/// for the budgets that its split was made for. Those in force are the target's, and running engines
/// follow it; where the cluster cannot resize pods, new ones do.
fn rolls(boot: &Boot, target: Option<&Target>) -> Result<Value, Error> {
    let unnamed = Boot {
        revision: String::new(),
        ..boot.clone()
    };
    let mut rolls = json!({"boot": encode(names::BOOT_KEY, &unnamed)?});
    rolls["boot"]["split"]["madeFor"] = Value::Null;
    if let Some(target) = target {
        let ageless = Target {
            generation: 0,
            sleep: None,
            idle: None,
            wake_on_request: false,
            ..target.clone()
        };
        rolls["target"] = encode(names::TARGET_KEY, &ageless)?;
    }
    Ok(rolls)
}

fn encode(what: &'static str, document: &impl Serialize) -> Result<Value, Error> {
    serde_json::to_value(document).map_err(|source| Error::Encode { what, source })
}
