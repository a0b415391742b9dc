//! Adapters from the resource: each has a volume, engines and inspections find them in one place, and
//! a change of them is another revision.

use k8s_openapi::api::core::v1::{Container, PodSpec};
use plimsoll_crds::v1alpha1::adapters::{AdapterScale, AdapterValidationMode};

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
