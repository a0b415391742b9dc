//! Adapters from the resource: each has a volume, engines and inspections find them in one place, and
//! a change of them is another revision.

use k8s_openapi::api::core::v1::{Container, PodSpec};
use plimsoll_crds::v1alpha1::adapters::{AdapterMode, AdapterScale, AdapterValidationMode};

use super::tests::{documents_of, inspection, made, pod_spec};
use super::*;
use crate::testing::*;

/// Volume, mount path and whether it is read-only, of what is not the config.
fn mounts(pod: &PodSpec, container: &Container) -> Vec<(String, String, bool)> {
    let mounts = container.volume_mounts.iter().flatten();
    let mounts = mounts.filter(|mount| mount.name != CONFIG_VOLUME);
    let one = |mount: &k8s_openapi::api::core::v1::VolumeMount| {
        let volumes = pod.volumes.as_ref().unwrap();
        let volume = volumes
            .iter()
            .find(|volume| volume.name == mount.name)
            .unwrap();
        let source = match (&volume.image, &volume.persistent_volume_claim) {
            (Some(image), None) => image.reference.clone().unwrap(),
            (None, Some(claim)) => claim.claim_name.clone(),
            other => panic!("{other:?}"),
        };
        (
            source,
            mount.mount_path.clone(),
            mount.read_only == Some(true),
        )
    };
    mounts.map(one).collect()
}

#[test]
fn engines_and_inspections_mount_every_adapter_and_are_told_where() {
    let yaml = with_adapters();
    let engine = made(&object(&yaml));
    let pod = pod_spec(&engine);
    let inspected = inspection(&yaml).spec.unwrap();
    let expected = [
        ("localhost/sql:1", "/adapters/sql", true),
        ("tunings", "/adapters/polite", true),
    ];
    for pod in [&pod, &inspected] {
        let mounts = mounts(pod, &pod.containers[0]);
        let of_adapters: Vec<(&str, &str, bool)> = mounts[1..]
            .iter()
            .map(|(source, path, read_only)| (source.as_str(), path.as_str(), *read_only))
            .collect();
        assert_eq!(of_adapters, expected);
        assert_eq!(mounts[0].1, "/models");
    }
    let boot = documents_of(&engine).0;
    let told = boot
        .adapters
        .iter()
        .map(|of| (of.name.as_str(), of.path.as_str()));
    let told: Vec<_> = told.collect();
    assert_eq!(
        told,
        [
            ("sql", "/adapters/sql/lora"),
            ("polite", "/adapters/polite")
        ]
    );
    let args = inspected.containers[0].args.as_ref().unwrap().join(" ");
    assert!(
        args.contains(
            "--adapter sql=/adapters/sql/lora:merge --adapter polite=/adapters/polite:merge"
        ),
        "{args}"
    );
}

#[test]
fn adapters_and_their_order_make_the_revision_and_none_leave_it_as_it_was() {
    let name = |object: &InferenceDeployment| made(object).name;
    let plain = object(SMOLLM2);
    assert!(documents_of(&made(&plain)).0.adapters.is_empty());
    let boot = made(&plain).config_map.object["data"]["boot.json"].to_string();
    assert!(
        !boot.contains("adapters"),
        "an engine of before would refuse it: {boot}"
    );
    let both = object(&with_adapters());
    let mut turned = both.clone();
    turned.spec.adapters.reverse();
    let mut renamed = both.clone();
    renamed.spec.adapters[0].name = "other".to_owned();
    let mut reported = both.clone();
    reported.spec.adapter_validation.mode = AdapterValidationMode::Report;
    let mut scaled = both.clone();
    scaled.spec.adapters[1].scale = AdapterScale(0.5);
    let yaml = with_adapters().replacen("tunings}}", "tunings}}, scale: 0.5", 1);
    let inspected = inspection(&yaml).spec.unwrap();
    let args = inspected.containers[0].args.as_ref().unwrap().join(" ");
    let says = "--adapter polite=/adapters/polite:merge,scale=0.5";
    assert!(args.contains(says), "{args}");
    let all = [&plain, &both, &turned, &renamed, &reported, &scaled];
    let different: std::collections::BTreeSet<String> = all.into_iter().map(name).collect();
    assert_eq!(different.len(), all.len(), "{different:?}");
    // It is of nothing where there are none.
    let mut without = reported;
    without.spec.adapters.clear();
    assert_eq!(name(&without), name(&plain));
}

/// The resource with adapters that requests choose, as YAML rows of the list.
fn with_dynamic(rows: &[&str]) -> InferenceDeployment {
    let list: String = rows
        .iter()
        .map(|row| format!("    - {{mode: Dynamic, {row}}}\n"))
        .collect();
    object(&SMOLLM2.replacen("spec:\n", &format!("spec:\n  adapters:\n{list}"), 1))
}

const CLAIM: &str = "source: {persistentVolumeClaim: {claimName: tunings}";
const IMAGE: &str = "source: {image: {reference: \"localhost/sql:1\"}";

/// Another adapter in a claim that is mounted changes no pod: engines that run are told of it.
#[test]
fn adapters_that_requests_choose_have_one_volume_of_each_source_and_are_in_the_target_alone() {
    let one = with_dynamic(&[&format!("name: sql, {CLAIM}, path: sql}}")]);
    let two = with_dynamic(&[
        &format!("name: sql, {CLAIM}, path: sql}}, scale: 0.5"),
        &format!("name: polite, {CLAIM}, path: /polite/}}"),
    ]);
    let other = with_dynamic(&[&format!("name: sql, {IMAGE}}}")]);
    let [first, second, third] = [&one, &two, &other].map(made);
    assert_eq!(first.name, second.name, "no other revision");
    assert_ne!(first.name, third.name, "another volume");
    let pod = pod_spec(&second);
    let mounted = mounts(&pod, &pod.containers[0]);
    let [(_, model, _), (claim, at, true)] = mounted.as_slice() else {
        panic!("{mounted:?}")
    };
    assert_eq!((model.as_str(), claim.as_str()), ("/models", "tunings"));
    assert!(at.starts_with("/dynamic-adapters/"), "{at}");
    let (boot, target) = documents_of(&second);
    assert!(boot.adapters.is_empty());
    assert_eq!(
        boot.adapter_slots.map(|room| (room.slots, room.rank)),
        Some((4, 16))
    );
    let told: Vec<_> = target
        .adapters
        .iter()
        .map(|of| (of.name.as_str(), of.path.clone(), of.scale.0))
        .collect();
    assert_eq!(
        told,
        [
            ("sql", format!("{at}/sql"), 0.5),
            ("polite", format!("{at}/polite"), 1.0)
        ]
    );
}

#[test]
fn an_adapter_beside_the_model_needs_no_volume_and_no_adapter_is_inspected_that_is_not_merged() {
    let plain = object(SMOLLM2);
    let mut beside = plain.clone();
    let source = ModelSource {
        path: Some("tunings/sql".to_owned()),
        ..plain.spec.model.source.clone()
    };
    beside.spec.adapters = vec![AdapterSpec {
        name: "sql".to_owned(),
        mode: AdapterMode::Dynamic,
        source,
        ..AdapterSpec::default()
    }];
    let made_of = made(&beside);
    let pod = pod_spec(&made_of);
    assert_eq!(mounts(&pod, &pod.containers[0]).len(), 1);
    let target = documents_of(&made_of).1;
    assert_eq!(target.adapters[0].path, "/models/tunings/sql");
    let key = crate::inspect::source_key;
    assert_eq!(key(&beside.spec), key(&plain.spec));
    // Room that is written makes engines that need no restart for the first.
    let mut roomy = plain.clone();
    roomy.spec.limits.max_adapters = Some(4);
    assert_eq!(made(&roomy).name, made_of.name);
    assert_ne!(made(&plain).name, made_of.name);
}
