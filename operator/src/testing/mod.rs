//! What tests start from: a resource as a user writes it, and a model that was inspected.

pub(crate) mod account;
pub(crate) mod cluster;
mod requests;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::model::PullPolicy;
use plimsoll_crds::v1alpha1::report::MemoryReport;
use plimsoll_crds::v1alpha1::status::Inspection;
use plimsoll_crds::v1alpha1::{InferenceDeployment, ModelFacts};
use serde_json::{Value, json};

use crate::build::PodSettings;
use crate::facts::{Facts, ReplicaSetFacts, ReportFacts};
use crate::gather::identity;
use crate::plan::{Accepted, Asked, Rejected};
use crate::pods::PodFacts;
use crate::turns::Turn;

pub(crate) const SMOLLM2: &str = include_str!("../../../examples/smollm2.yaml");
pub(crate) const BESIDE: &str = include_str!("../../../examples/beside-a-container.yaml");
pub(crate) const TRAINER: &str = include_str!("../../../examples/trainer.yaml");
pub(crate) const CLAIM: &str = include_str!("../../../examples/persistent-volume-claim.yaml");
pub(crate) const HOST_PATH: &str = include_str!("../../../examples/host-path.yaml");
pub(crate) const ONE_RANK: &str = include_str!("../../../examples/one-rank.yaml");
pub(crate) const REFUSED: &str = include_str!("../../../examples/refused.yaml");

/// The resource that the API server would make of YAML.
pub(crate) fn object(yaml: &str) -> InferenceDeployment {
    let mut object: InferenceDeployment = serde_saphyr::from_str(yaml).unwrap();
    object.metadata.namespace = Some("team".to_owned());
    object.metadata.uid = Some("uid-1".to_owned());
    object.metadata.generation = Some(3);
    object
}

/// [`SMOLLM2`] with adapters: one in an image, one on a claim.
pub(crate) fn with_adapters() -> String {
    let adapters = "  adapters:\n  \
                    - {name: sql, source: {image: {reference: 'localhost/sql:1'}, path: lora/}}\n  \
                    - {name: polite, source: {persistentVolumeClaim: {claimName: tunings}}}\n";
    SMOLLM2.replacen("spec:\n", &format!("spec:\n{adapters}"), 1)
}

/// SmolLM2-135M-Instruct, as `inspect` reads it.
pub(crate) fn smollm2() -> ModelFacts {
    serde_json::from_value(json!({
        "architecture": "Llama", "format": "GGUF", "layers": 30, "hiddenSize": 576,
        "queryHeads": 9, "kvHeads": 3, "headDim": 64, "intermediateSize": 1536,
        "vocabularySize": 49152, "tied": true, "qkvBias": false, "outputBias": false,
        "mlpBias": false, "qkNorm": false, "contextLength": 8192, "fileDtype": "Q4_1",
        "defaultDtype": "BFloat16", "quantization": "GGUF Q4_1", "weightFileBytes": 97_000_000,
        "parameters": 134_515_008, "digest": "sha256:abc",
    }))
    .unwrap()
}

/// A plan of a spec whose engines do not run yet.
pub(crate) fn free_plan(
    object: &InferenceDeployment,
    model: &ModelFacts,
) -> Result<Accepted, Rejected> {
    Asked::new(object, model)?.plan()
}

pub(crate) fn settings() -> PodSettings {
    PodSettings {
        sidecar_image: "localhost/plimsoll-sidecar:dev".to_owned(),
        pull_policy: PullPolicy::Never,
        resize: true,
    }
}

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

/// Facts of a resource that was just written, in a cluster that has nothing of it.
pub(crate) fn facts(yaml: &str) -> Facts {
    let object = object(yaml);
    Facts {
        identity: identity(&object.metadata).unwrap(),
        object: Arc::new(object),
        status: Default::default(),
        replica_sets: Vec::new(),
        boots: BTreeMap::new(),
        files: BTreeMap::new(),
        pods: Vec::new(),
        inspect_pods: Vec::new(),
        children: BTreeMap::new(),
        taken: Default::default(),
        reports: BTreeMap::new(),
        awake: BTreeMap::new(),
        tries: BTreeMap::new(),
        limits_tried: BTreeMap::new(),
        inspect_failure: None,
        pull_trouble: None,
        reread: None,
        unreached: None,
        room: None,
        turn: Turn::Yours,
        working_since: at(0),
        now: at(10),
    }
}

/// The same, with the model inspected before.
pub(crate) fn inspected(yaml: &str) -> Facts {
    let mut facts = facts(yaml);
    let source = crate::inspect::source_key(&facts.object.spec);
    facts.status.model = Some(smollm2());
    facts.status.inspection = Some(Inspection { source, node: None });
    facts
}

/// An engine pod of `revision` whose status is as given.
pub(crate) fn engine(name: &str, revision: &str, status: Value) -> PodFacts {
    pod(
        name,
        json!({names::LABEL_REVISION: revision}),
        status,
        names::CONTAINER_ENGINE,
    )
}

/// An engine pod with a spec and a status.
pub(crate) fn engine_asking(name: &str, mut spec: Value, status: Value) -> PodFacts {
    spec["nodeName"] = json!("n1");
    let pod = json!({
        "metadata": {"name": name, "uid": format!("uid-{name}")},
        "spec": spec,
        "status": status,
    });
    PodFacts::read(
        &serde_json::from_value(pod).unwrap(),
        names::CONTAINER_ENGINE,
    )
}

/// A pod whose inspection is as given.
pub(crate) fn inspection(name: &str, status: Value) -> PodFacts {
    pod(name, json!({}), status, names::CONTAINER_INSPECT)
}

fn pod(name: &str, labels: Value, status: Value, container: &str) -> PodFacts {
    let pod = json!({
        "metadata": {
            "name": name, "uid": format!("uid-{name}"), "labels": labels,
            "creationTimestamp": at(0).to_string(),
        },
        "spec": {"nodeName": "n1", "containers": [{
            "name": container, "resources": {"requests": {"memory": "400Mi"}},
        }]},
        "status": status,
    });
    PodFacts::read(&serde_json::from_value(pod).unwrap(), container)
}

/// Status of a pod whose engine answers.
pub(crate) fn ready() -> Value {
    running(true)
}

/// Status of a pod whose engine runs since 2 s, and answers since 4 s or does not yet.
pub(crate) fn running(ready: bool) -> Value {
    let (status, since) = if ready { ("True", 4) } else { ("False", 1) };
    let state = json!({"running": {"startedAt": at(2).to_string()}});
    json!({
        "phase": "Running", "podIP": "10.0.0.7",
        "conditions": [{
            "type": "Ready", "status": status, "lastTransitionTime": at(since).to_string(),
        }],
        "containerStatuses": [container(names::CONTAINER_ENGINE, state, ready)],
    })
}

/// Status of a pod whose engine answered, runs, and does not answer since 6 s.
pub(crate) fn hung() -> Value {
    let mut status = ready();
    status["conditions"][0]["status"] = json!("False");
    status["conditions"][0]["lastTransitionTime"] = json!(at(6).to_string());
    status["containerStatuses"][0]["ready"] = json!(false);
    status
}

/// Status of a pod whose engine ended and waits to be started again.
pub(crate) fn crashed(exit_code: i32, message: &str) -> Value {
    let mut status = container(
        names::CONTAINER_ENGINE,
        json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}),
        false,
    );
    status["restartCount"] = json!(2);
    status["lastState"] =
        json!({"terminated": {"exitCode": exit_code, "reason": "Error", "message": message}});
    json!({"phase": "Running", "containerStatuses": [status]})
}

/// Status of a pod that finds no node.
pub(crate) fn unschedulable(since: i64) -> Value {
    json!({"phase": "Pending", "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/2 nodes are available: 2 Insufficient memory.",
        "lastTransitionTime": at(since).to_string(),
    }]})
}

/// Status of a container.
pub(crate) fn container(name: &str, state: Value, started: bool) -> Value {
    json!({
        "name": name, "image": "i", "imageID": "", "ready": started, "started": started,
        "restartCount": 0, "state": state,
    })
}

pub(crate) fn replica_set(name: &str, revision: &str, replicas: u32) -> ReplicaSetFacts {
    ReplicaSetFacts {
        name: name.to_owned(),
        revision: revision.to_owned(),
        replicas,
        created: Some(at(0)),
        hash: String::new(),
        failure: None,
        failing_since: None,
        spec: String::new(),
        answered: false,
    }
}

/// A report of one rank that holds `driver` of 1,000 bytes.
pub(crate) fn report(driver: u64) -> MemoryReport {
    serde_json::from_value(json!({
        "time": at(5).to_string(), "state": "Serving", "backend": "CPU", "revision": "r",
        "kvUsedPercent": 7,
        "target": {"generation": 3, "outcome": "Applied", "overageBytes": 0},
        "effective": {
            "maxModelLen": 8192, "maxNumSeqs": 64, "maxNumBatchedTokens": 2048,
            "dtype": "BFloat16", "kvDtype": "BFloat16", "kvCacheTokens": 9000, "isa": "Avx2",
        },
        "ranks": [{
            "rank": 0, "device": "cpu-0", "quotaBytes": 1000, "budgetBytes": 1000,
            "driverBytes": driver, "otherBytes": 0, "kvWastedBytes": 0,
            "accounts": [{
                "name": "Weights", "plannedBytes": 900, "reservedBytes": 900, "usedBytes": driver,
                "highWaterBytes": driver,
            }],
        }],
        "host": {"limitBytes": 2000, "cgroupBytes": 1500, "otherBytes": 0, "accounts": []},
    }))
    .unwrap()
}

pub(crate) fn heard(report: MemoryReport) -> ReportFacts {
    ReportFacts {
        report: Some(Arc::new(report)),
        stale: false,
        refused: false,
    }
}
