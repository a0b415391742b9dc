//! Python packages of pinned versions, in environments of their own in the cache.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::paths;
use crate::process;
use crate::progress::Progress;

/// The official client that the demo and the tests speak with.
const OPENAI: &str = "openai==3.51.0";

/// The interpreter of an environment that has the official `openai` package; made when absent.
pub(crate) fn openai(progress: &Progress) -> Result<PathBuf> {
    let folder = folder(OPENAI)?;
    let complete = folder.join("complete");
    if !complete.is_file() {
        progress.step(&format!("make a Python environment with {OPENAI}"), || {
            create(&folder, &["install", "--quiet", OPENAI])?;
            fs::write(&complete, "").map_err(Into::into)
        })?;
    }
    Ok(folder.join("bin/python"))
}

/// The interpreter of an environment with tools that build something; made when absent.
pub(crate) fn environment(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let folder = folder(name)?;
    let complete = folder.join("complete");
    if !complete.is_file() {
        create(&folder, &[&["install", "--quiet"], packages].concat())?;
        fs::write(&complete, "")?;
    }
    Ok(folder.join("bin/python"))
}

/// Unpacks one package, without what it depends on, into a folder that the caller removes.
pub(crate) fn download(package: &str) -> Result<PathBuf> {
    let folder = folder(package)?;
    create(&folder, &["install", "--quiet", "--no-deps", package])?;
    Ok(folder)
}

fn create(folder: &Path, pip: &[&str]) -> Result<()> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder.parent().context("the cache has no parent")?)?;
    process::stdout_of(process::command("python3", ["-m", "venv"]).arg(folder))?;
    let mut install = process::command(folder.join("bin/python"), ["-m", "pip"]);
    process::stdout_of(install.args(pip)).map(drop)
}

fn folder(package: &str) -> Result<PathBuf> {
    Ok(paths::cache()?
        .join("python")
        .join(package.replace("==", "-")))
}
