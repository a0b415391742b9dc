//! Container images without a registry and without a builder: OCI archives written file by file.

mod libraries;
pub(crate) mod oci;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::build::Programs;
use crate::images::oci::{Entry, Image};
use crate::paths;
use crate::tools::Tools;

/// The user of every image of ours.
const NONROOT: &str = "65532:65532";
const PASSWD: &str = "root:x:0:0::/:\nnonroot:x:65532:65532::/:\n";
const GROUP: &str = "root:x:0:\nnonroot:x:65532:\n";

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

/// The images of the operator and of the sidecar.
pub(crate) fn programs(programs: &Programs) -> Result<Vec<PathBuf>> {
    Ok(vec![
        program("localhost/plimsoll-operator:dev", &programs.operator)?,
        sidecar("localhost/plimsoll-sidecar:dev", programs)?,
    ])
}

/// The sidecar's image under a name.
pub(crate) fn sidecar(name: &str, programs: &Programs) -> Result<PathBuf> {
    program(name, &programs.sidecar)
}

/// A program with the libraries that it needs, under a name.
pub(crate) fn program(name: &str, program: &Path) -> Result<PathBuf> {
    let file = program
        .file_name()
        .context("a program has a name")?
        .to_string_lossy();
    let mut entries = vec![
        Entry::folder("etc", 0o755),
        Entry::text("etc/passwd", PASSWD),
        Entry::text("etc/group", GROUP),
        Entry::folder("tmp", 0o1777),
        Entry::program(&file, program.to_path_buf()),
    ];
    entries.extend(libraries::of(program)?);
    let image = Image {
        name: name.to_owned(),
        entrypoint: vec![format!("/{file}")],
        user: NONROOT.to_owned(),
        entries,
    };
    image.write(&folder()?)
}

/// Files alone, for an image volume.
pub(crate) fn files(name: &str, files: &[(String, PathBuf)]) -> Result<PathBuf> {
    let image = Image {
        name: name.to_owned(),
        entrypoint: Vec::new(),
        user: NONROOT.to_owned(),
        entries: files
            .iter()
            .map(|(path, file)| Entry::data(path, file.clone()))
            .collect(),
    };
    image.write(&folder()?)
}

/// `name  size` of every archive, for people.
pub(crate) fn print_sizes(archives: &[PathBuf]) -> Result<()> {
    for archive in archives {
        let name = archive.file_stem().unwrap_or_default().to_string_lossy();
        let bytes = fs::metadata(archive)?.len();
        println!(
            "           {name:<36} {:>6}.{} MB",
            bytes / 1_000_000,
            bytes / 100_000 % 10
        );
    }
    Ok(())
}

fn folder() -> Result<PathBuf> {
    let folder = paths::cache()?.join("images");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}
