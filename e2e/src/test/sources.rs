//! Models from a claim and from a folder of the node.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use crate::paths;
use crate::test::observe::{PATIENCE, asked};
use crate::test::world::World;
use crate::test::{Passed, expect_eq, tiny};

pub(super) fn claim(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("claim", "restricted")?;
    let folder = readable_models()?;
    let volume = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "models"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": "",
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": space.name, "name": "models"},
            "hostPath": {"path": folder, "type": "Directory"},
        },
    });
    kubernetes.kubectl.apply(&volume.to_string())?;
    let claim = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "models"},
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": "",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    });
    tiny::apply(&kubernetes, &space.name, &claim)?;
    let mut object = tiny::resource("from-claim");
    object["spec"]["model"]["source"] = json!({
        "persistentVolumeClaim": {"claimName": "models", "readOnly": true},
        "path": "tiny-qwen2",
    });
    tiny::apply(&kubernetes, &space.name, &object)?;
    let resource = kubernetes.resource(&space.name, "from-claim");
    let result = resource.await_ready(PATIENCE);
    let answer = result.and_then(|_| asked(&kubernetes, resource, "tiny"));
    kubernetes.api.delete("/api/v1/persistentvolumes/models")?;
    expect_eq("answer", &answer?.status, &200)?;
    Ok(1)
}

pub(super) fn host_path(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("host-path", "privileged")?;
    let mut object = tiny::resource("from-host");
    object["spec"]["model"]["source"] = json!({
        "hostPath": {"path": readable_models()?},
        "path": "tiny-mistral",
    });
    object["spec"]["template"] =
        json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "node-1"}}});
    tiny::apply(&kubernetes, &space.name, &object)?;
    let resource = kubernetes.resource(&space.name, "from-host");
    resource.await_ready(PATIENCE)?;
    let answer = asked(&kubernetes, resource, "tiny")?;
    expect_eq("answer", &answer.status, &200)?;
    Ok(1)
}

/// A copy of the fixture models that any user may read, in the cluster's state folder.
fn readable_models() -> Result<PathBuf> {
    let target = paths::state().join("models");
    for (inside, source) in tiny::files_below(&tiny::fixtures())? {
        let file = target.join(inside);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(&source, &file)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    }
    Ok(target)
}
