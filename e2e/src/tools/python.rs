//! Python packages of pinned versions, in environments of their own in the cache.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::paths;
use crate::process;
use crate::progress::Progress;

/// The official client that the demo and the tests speak with.
const OPENAI: &str = "openai==3.51.0";

/// The interpreter of an environment that has the official `openai` package.
pub(crate) fn openai(progress: &Progress) -> Result<PathBuf> {
    environment(progress, "openai", &[OPENAI])
}

/// The interpreter of a cached environment holding exactly `packages`; made when absent.
fn environment(progress: &Progress, name: &str, packages: &[&str]) -> Result<PathBuf> {
    let label = packages.join("+").replace("==", "-");
    let folder = paths::cache()?.join("python").join(label);
    let interpreter = folder.join("bin/python");
    let complete = folder.join("complete");
    if complete.is_file() {
        return Ok(interpreter);
    }
    progress.step(
        &format!(
            "make the Python environment {name} ({})",
            packages.join(" ")
        ),
        || {
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(folder.parent().context("the cache has no parent")?)?;
            let mut make = process::command("python3", ["-m", "venv"]);
            process::stdout_of(make.arg(&folder))?;
            let mut install = process::command(&interpreter, ["-m", "pip", "install", "--quiet"]);
            process::stdout_of(install.args(packages))?;
            fs::write(&complete, "")?;
            Ok(())
        },
    )?;
    Ok(interpreter)
}
