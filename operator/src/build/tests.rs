//! From a resource as a user writes it to the objects that are made for it.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Secret};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use plimsoll_crds::v1alpha1::{Boot, Target, convert};
use plimsoll_planner::Bytes;

use super::*;
use crate::gather::identity;
use crate::testing::*;

pub(super) fn made(object: &InferenceDeployment) -> Revision {
    let accepted = free_plan(object, &smollm2()).unwrap();
    let identity = identity(&object.metadata).unwrap();
    revision(
        object,
        &identity,
        &settings(),
        accepted.documents,
        accepted.container.limit,
    )
    .unwrap()
}

pub(super) fn documents_of(revision: &Revision) -> (Boot, Target) {
    let data = &revision.config_map.object["data"];
    let text = |key: &str| data[key].as_str().unwrap();
    (
        serde_json::from_str(text("boot.json")).unwrap(),
        serde_json::from_str(text("target.json")).unwrap(),
    )
}

pub(super) fn pod_spec(revision: &Revision) -> PodSpec {
    let set: ReplicaSet = serde_json::from_value(revision.replica_set.object.clone()).unwrap();
    set.spec.unwrap().template.unwrap().spec.unwrap()
}

pub(super) fn inspection(yaml: &str) -> Pod {
    let object = object(yaml);
    let identity = identity(&object.metadata).unwrap();
    let made = inspect_pod(&object, &identity, &settings(), "chat-inspect-1".to_owned());
    serde_json::from_value(made.object).unwrap()
}

/// Pod Security `restricted`, version 1.36, for a container of ours.
fn assert_restricted(pod: &PodSpec, container: &Container) {
    let pod_context = pod.security_context.as_ref().unwrap();
    assert_eq!(pod_context.run_as_non_root, Some(true));
    assert_eq!(
        pod_context.seccomp_profile.as_ref().unwrap().type_,
        "RuntimeDefault"
    );
    let context = container.security_context.as_ref().unwrap();
    assert_eq!(context.run_as_non_root, Some(true));
    assert_eq!(context.run_as_user, Some(65532));
    assert_eq!(context.allow_privilege_escalation, Some(false));
    assert_eq!(context.read_only_root_filesystem, Some(true));
    let capabilities = context.capabilities.as_ref().unwrap();
    assert_eq!(capabilities.drop.as_deref(), Some(&["ALL".to_owned()][..]));
    assert!(capabilities.add.is_none());
    assert!(!pod.host_network.unwrap_or(false) && !pod.host_pid.unwrap_or(false));
    assert!(
        container
            .ports
            .iter()
            .flatten()
            .all(|port| port.host_port.is_none())
    );
}

#[test]
fn the_engine_is_the_only_container_and_passes_restricted() {
    let revision = made(&object(SMOLLM2));
    let pod = pod_spec(&revision);
    assert_eq!(pod.containers.len(), 1);
    assert!(pod.init_containers.is_none());
    assert_restricted(&pod, &pod.containers[0]);
    assert_eq!(pod.automount_service_account_token, Some(false));
    assert_eq!(pod.enable_service_links, Some(false));
    let args = pod.containers[0].args.as_ref().unwrap().join(" ");
    assert_eq!(
        args,
        "serve --config /etc/plimsoll --host 0.0.0.0 \
         --admin-token-file /etc/plimsoll/admin/token"
    );
    let probe = |probe: &Option<k8s_openapi::api::core::v1::Probe>| {
        let get = probe.as_ref().unwrap().http_get.as_ref().unwrap();
        // Never the API's port: its clients decide how long that takes.
        let port = IntOrString::String("probes".to_owned());
        assert_eq!(get.port, port);
        get.path.clone().unwrap()
    };
    let engine = &pod.containers[0];
    assert_eq!(probe(&engine.startup_probe), "/health?memory=whole");
    assert_eq!(probe(&engine.readiness_probe), "/readyz");
    assert_eq!(probe(&engine.liveness_probe), "/livez");
    // A start may take as long as a change may; a new patience is for pods to come.
    let allowed = |seconds| {
        let mut object = object(SMOLLM2);
        object.spec.progress_deadline_seconds = seconds;
        let probe = pod_spec(&made(&object)).containers[0].startup_probe.clone();
        probe.unwrap().failure_threshold.unwrap()
    };
    assert_eq!([600, 7200, 5].map(allowed), [600, 7200, 60]);
    // Traffic stops before the engine does.
    let goodbye = engine
        .lifecycle
        .as_ref()
        .unwrap()
        .pre_stop
        .as_ref()
        .unwrap();
    assert!(goodbye.sleep.as_ref().unwrap().seconds > 0);
    assert!(!serde_json::to_string(&pod).unwrap().contains("nvidia.com"));
}

#[test]
fn the_memory_limit_is_the_budgets_and_the_host_reserve() {
    let object = object(SMOLLM2);
    let accepted = free_plan(&object, &smollm2()).unwrap();
    let budgets: u64 = accepted
        .plan
        .ranks
        .iter()
        .map(|rank| rank.budget_bytes)
        .sum();
    let request = convert::request(&object.spec, &smollm2()).unwrap();
    let reserve = plimsoll_planner::host_reserve(&request, Bytes::measured(budgets));
    let reserve = reserve.total().get();
    let pod = pod_spec(&made(&object));
    let resources = pod.containers[0].resources.as_ref().unwrap();
    let limit = resources.limits.as_ref().unwrap()["memory"].0.clone();
    assert_eq!(limit, (budgets + reserve).to_string());
    assert_eq!(resources.requests.as_ref().unwrap()["memory"].0, limit);
    let one_rank = pod_spec(&made(&crate::testing::object(ONE_RANK)));
    let written = one_rank.containers[0]
        .resources
        .as_ref()
        .unwrap()
        .limits
        .as_ref()
        .unwrap();
    assert_eq!(written["memory"].0, "1536Mi");
}

#[test]
fn user_containers_make_the_engine_a_native_sidecar() {
    let revision = made(&object(BESIDE));
    let pod = pod_spec(&revision);
    let engines = pod.init_containers.as_ref().unwrap();
    assert_eq!(engines.len(), 1);
    assert_eq!(engines[0].name, "engine");
    assert_eq!(engines[0].restart_policy.as_deref(), Some("Always"));
    assert_restricted(&pod, &engines[0]);
    assert_eq!(
        pod.containers
            .iter()
            .map(|c| c.name.as_str())
            .collect::<Vec<_>>(),
        ["app"]
    );
    let labels = &revision.replica_set.object["spec"]["template"]["metadata"]["labels"];
    assert_eq!(labels["team"], "search");
    assert_eq!(labels["plimsoll.dev/role"], "engine");
}

#[test]
fn each_source_is_mounted_read_only_at_models() {
    for (yaml, field, path) in [
        (SMOLLM2, "image", None),
        (
            CLAIM,
            "persistentVolumeClaim",
            Some("/models/qwen2.5-0.5b-instruct"),
        ),
        (
            HOST_PATH,
            "hostPath",
            Some("/models/SmolLM2-135M-Instruct.Q4_1.gguf"),
        ),
    ] {
        let inspect = inspection(yaml).spec.unwrap();
        let engine = pod_spec(&made(&object(yaml)));
        for pod in [&inspect, &engine] {
            let volume = serde_json::to_value(&pod.volumes.as_ref().unwrap()[0]).unwrap();
            assert!(volume.get(field).is_some(), "{volume}");
            let mounts = pod.containers[0].volume_mounts.as_ref().unwrap();
            assert_eq!(mounts[0].mount_path, "/models");
            assert_eq!(mounts[0].read_only, Some(true));
        }
        if let Some(path) = path {
            assert_eq!(
                inspect.containers[0].args.as_ref().unwrap().last().unwrap(),
                path
            );
        }
    }
}

#[test]
fn the_inspection_takes_no_gpu_and_little_memory() {
    let pod = inspection(SMOLLM2);
    assert_eq!(
        pod.metadata.labels.as_ref().unwrap()["plimsoll.dev/role"],
        "inspect"
    );
    let spec = pod.spec.unwrap();
    assert_restricted(&spec, &spec.containers[0]);
    assert_eq!(spec.restart_policy.as_deref(), Some("Never"));
    let limits = spec.containers[0]
        .resources
        .as_ref()
        .unwrap()
        .limits
        .as_ref()
        .unwrap();
    assert_eq!(limits.keys().collect::<Vec<_>>(), ["memory"]);
    let args = spec.containers[0].args.as_ref().unwrap();
    assert_eq!(
        &args[..3],
        ["inspect", "--termination-message", "/dev/termination-log"]
    );
    // It goes where the engines go.
    let host = inspection(HOST_PATH).spec.unwrap();
    assert_eq!(host.node_selector.unwrap()["kubernetes.io/hostname"], "n1");
}

#[test]
fn the_engine_is_told_what_was_planned() {
    let object = object(SMOLLM2);
    let revision = made(&object);
    assert!(revision.config_map.object.get("immutable").is_none());
    let (boot, target) = documents_of(&revision);
    assert_eq!(boot.revision, revision.name);
    assert_eq!(boot.digest, "sha256:abc");
    assert_eq!(target, revision.target);
    assert_eq!(target.generation, 3);
    // What the engine does with them: the split of a free plan, and the rest of one that stands.
    let shape = || convert::model_shape(&smollm2()).unwrap();
    let split = convert::split_request(&boot, shape());
    let free = plimsoll_planner::plan(&split).unwrap();
    assert_eq!(convert::boot_split(&split, &free), boot.split);
    let request = convert::target_request(&boot, &target, shape()).unwrap();
    let shards = convert::shards(&boot.split).unwrap();
    let plan = plimsoll_planner::refit(&request, &shards, boot.split.max_model_len).unwrap();
    assert_eq!(plan, free);
    assert_eq!(convert::target(&request, &plan, (3, 0.9)), target);
    let volumes = pod_spec(&revision).volumes.unwrap();
    let sources = volumes[1]
        .projected
        .as_ref()
        .unwrap()
        .sources
        .as_ref()
        .unwrap();
    let mounted = sources[0].config_map.as_ref().unwrap();
    assert_eq!(mounted.name, revision.config_map.name);
    let keys = mounted.items.iter().flatten().map(|item| item.key.as_str());
    assert_eq!(keys.collect::<Vec<_>>(), ["boot.json", "target.json"]);
    assert_eq!(
        sources[1].secret.as_ref().unwrap().name,
        "smollm2-plimsoll-admin"
    );
}

#[test]
fn a_revision_changes_with_the_plan_and_the_template_and_with_nothing_else() {
    let name = |change: &dyn Fn(&mut InferenceDeployment)| {
        let mut object = object(SMOLLM2);
        change(&mut object);
        made(&object).name
    };
    let same = name(&|_| {});
    assert_eq!(same.len(), 10);
    assert_eq!(same, name(&|object| object.spec.replicas = Some(7)));
    assert_eq!(same, name(&|object| object.metadata.generation = Some(9)));
    assert_eq!(
        same,
        name(&|object| object.spec.progress_deadline_seconds = 5)
    );
    assert_ne!(same, name(&|object| object.spec.limits.max_num_seqs = 8));
    assert_ne!(
        same,
        name(&|object| object.spec.model.served_names = vec!["other".to_owned()])
    );
    assert_ne!(
        same,
        name(&|object| object.spec.memory.gpu_quotas[0].limit.0 = "600Mi".to_owned())
    );
}

#[test]
fn a_newer_generation_moves_the_target_of_a_revision_and_nothing_else() {
    let mut object = object(SMOLLM2);
    let before = made(&object);
    object.metadata.generation = Some(9);
    object.spec.replicas = Some(3);
    let after = made(&object);
    assert_eq!(before.replica_set, after.replica_set);
    assert_ne!(before.config_map.hash, after.config_map.hash);
    let ((boot, target), (boot_after, target_after)) =
        (documents_of(&before), documents_of(&after));
    assert_eq!(boot, boot_after);
    assert!(target.same_demand(&target_after));
    assert_eq!((target.generation, target_after.generation), (3, 9));
}

#[test]
fn children_have_owner_labels_and_a_hash() {
    let object = object(SMOLLM2);
    let identity = identity(&object.metadata).unwrap();
    let revision = made(&object);
    let all = [
        service_account(&object, &identity),
        secret(&object, &identity, "token"),
        service(&object, &identity),
        disruption_budget(&object, &identity),
        revision.config_map,
        revision.replica_set,
        inspect_pod(&object, &identity, &settings(), "inspect".to_owned()),
    ];
    for child in &all {
        let meta = &child.object["metadata"];
        // The chart's rules lack what a reference that blocks deletion would ask for.
        let owner = &meta["ownerReferences"][0];
        assert!(owner.get("blockOwnerDeletion").is_none(), "{}", child.name);
        assert_eq!(meta["ownerReferences"][0]["uid"], "uid-1", "{}", child.name);
        assert_eq!(meta["ownerReferences"][0]["controller"], true);
        assert_eq!(
            meta["labels"]["plimsoll.dev/inferencedeployment"],
            "smollm2"
        );
        assert_eq!(
            meta["annotations"]["plimsoll.dev/hash"],
            child.hash.as_str()
        );
        assert_eq!(meta["namespace"], "team");
    }
    let token: Secret = serde_json::from_value(all[1].object.clone()).unwrap();
    assert_eq!(token.data.unwrap()["token"].0, b"token");
    assert_eq!(all[0].object["automountServiceAccountToken"], false);
    // The Service finds engines, and never the pod that inspects.
    assert_eq!(
        all[2].object["spec"]["selector"]["plimsoll.dev/role"],
        "engine"
    );
}

#[test]
fn an_inspection_runs_as_the_engines_do_and_for_as_long_as_a_pull_takes() {
    let mut object = object(SMOLLM2);
    let template = object.spec.template.get_or_insert_default();
    let pods = template.spec.get_or_insert_default();
    pods.service_account_name = Some("puller".to_owned());
    let identity = identity(&object.metadata).unwrap();
    let pod = inspect_pod(&object, &identity, &settings(), "i".to_owned()).object;
    assert_eq!(pod["spec"]["serviceAccountName"], "puller");
    assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
    assert_eq!(pod["spec"]["activeDeadlineSeconds"], Value::Null);
    let engine = made(&object).replica_set.object;
    let engine = &engine["spec"]["template"]["spec"];
    assert_eq!(
        engine["serviceAccountName"],
        pod["spec"]["serviceAccountName"]
    );
}

#[test]
fn a_token_of_the_users_account_reaches_the_engine_only_with_their_say() {
    for (account, mounted) in [
        ("{serviceAccountName: app}", false),
        (
            "{serviceAccountName: app, automountServiceAccountToken: false}",
            false,
        ),
        (
            "{serviceAccountName: app, automountServiceAccountToken: true}",
            true,
        ),
    ] {
        let template = format!("spec:\n  template: {{spec: {account}}}\n");
        let pod = pod_spec(&made(&object(&SMOLLM2.replace("spec:\n", &template))));
        assert_eq!(pod.service_account_name.as_deref(), Some("app"));
        assert_eq!(
            pod.automount_service_account_token,
            Some(mounted),
            "{account}"
        );
    }
}
