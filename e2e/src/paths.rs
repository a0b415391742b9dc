//! Where things lie: the repository, the cache of built programs, the state of the running cluster.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Everything that the running cluster owns lies here, so that any later run finds and removes it.
pub(crate) const STATE: &str = "/var/lib/plimsoll-e2e";

/// The repository this program was built from.
pub(crate) fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// `$XDG_CACHE_HOME/plimsoll` or `~/.cache/plimsoll`: built programs, model, Python environment.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    let folder = base.join("plimsoll");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// The state folder of the cluster; it exists only while there is something to clean up.
pub(crate) fn state() -> PathBuf {
    PathBuf::from(STATE)
}
