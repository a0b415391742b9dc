//! Container images without a registry and without a builder: OCI archives written file by file.

pub(crate) mod oci;

use std::path::PathBuf;

use anyhow::Result;

use crate::images::oci::{Entry, Image};
use crate::paths;
use crate::tools::Tools;

/// The image that holds a pod's namespaces.
pub(crate) fn pause(tools: &Tools) -> Result<PathBuf> {
    let image = Image {
        name: "localhost/pause:1".to_owned(),
        entrypoint: vec!["/pause".to_owned()],
        user: "65535:65535".to_owned(),
        entries: vec![Entry::program("pause", tools.pause())],
    };
    image.write(&folder()?)
}

fn folder() -> Result<PathBuf> {
    let folder = paths::cache()?.join("images");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
