//! Builds the project's own programs.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::paths;
use crate::process;
use crate::progress::Progress;

/// The two programs that go into images.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) operator: PathBuf,
    pub(crate) sidecar: PathBuf,
}

/// Builds operator and sidecar as they are released.
pub(crate) fn programs(progress: &Progress) -> Result<Programs> {
    let packages = ["plimsoll-operator", "plimsoll-sidecar"];
    progress.step("build the operator and the sidecar (release)", || {
        let mut build = cargo(&["build", "--release", "--quiet"]);
        process::shown(build.args(packages.iter().flat_map(|name| ["--package", name])))
    })?;
    let folder = target().join("release");
    let [operator, sidecar] = packages.map(|name| folder.join(name));
    Ok(Programs { operator, sidecar })
}

/// Cargo in this repository, with the target folder of this run.
pub(crate) fn cargo(words: &[&str]) -> Command {
    let mut command = process::command(std::env::var_os("CARGO").unwrap_or("cargo".into()), words);
    command
        .current_dir(paths::repository())
        .env("CARGO_TARGET_DIR", target());
    command
}

/// Where cargo builds: what the environment says, or the repository's own folder.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR").filter(|value| !value.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => paths::repository().join("target"),
    }
}

/// The program that writes the generated files, as the tests of the workspace build it too.
pub(crate) fn crdgen() -> Result<Command> {
    const PROGRAM: &str = "crdgen";
    let mut build = cargo(&["build", "--quiet", "--workspace", "--bin", PROGRAM]);
    process::shown(&mut build)?;
    Ok(Command::new(target().join("debug").join(PROGRAM)))
}
