//! Resources around the tiny fixture models: small enough for many pods on a small machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use plimsoll_crds::names;
use serde_json::{Value, json};

use crate::images;
use crate::kube::Kubernetes;
use crate::paths;
use crate::test::world::World;

/// All fixture models in one image, a folder each.
pub(super) const IMAGE: &str = "localhost/fixtures:models";
/// Llama with 9 query and 3 KV heads: splits unevenly, as the demo's model does.
pub(super) const MODEL: &str = "tiny-llama-9-3";

/// Where the fixture models lie in the repository.
pub(super) fn fixtures() -> PathBuf {
    paths::repository().join("sidecar/tests/fixtures/models")
}

/// The image of all fixture models.
pub(super) fn archive() -> Result<PathBuf> {
    images::files(IMAGE, &files_below(&fixtures())?)
}

/// Every file below a folder with its path inside it, sorted.
pub(super) fn files_below(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)
            .with_context(|| folder.display().to_string())?
            .flatten()
        {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(inside) = path.strip_prefix(root) {
                found.push((inside.to_string_lossy().into_owned(), path));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A cluster with the chart and the fixture models.
pub(super) fn installed(world: &World<'_>) -> Result<Kubernetes> {
    let kubernetes = world.installed()?;
    world.import_once(&archive()?)?;
    Ok(kubernetes)
}

/// One resource with a tiny model on one rank; change what a test is about.
pub(super) fn resource(name: &str) -> Value {
    json!({
        "apiVersion": format!("{}/{}", names::GROUP, names::VERSION),
        "kind": names::KIND,
        "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "model": {
                "source": {"image": {"reference": IMAGE, "pullPolicy": "Never"}, "path": MODEL},
                "servedNames": ["tiny"],
            },
            "parallelism": {"tensorParallelSize": 1},
            "memory": {"gpuQuotas": [{"rank": 0, "limit": "32Mi"}]},
            "limits": {"maxNumSeqs": 4, "maxNumBatchedTokens": 64},
        },
    })
}

/// Applies an object in a namespace.
pub(super) fn apply(kubernetes: &Kubernetes, namespace: &str, object: &Value) -> Result<()> {
    let mut object = object.clone();
    object["metadata"]["namespace"] = json!(namespace);
    kubernetes.kubectl.apply(&object.to_string()).map(drop)
}
