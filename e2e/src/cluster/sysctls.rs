//! A kubelet sets machine-wide kernel settings; they are written down before and put back after.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::paths;

/// What a kubelet writes, under `/proc/sys`.
const WRITTEN: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Writes the present values down, unless a crashed run already did.
pub(crate) fn save() -> Result<()> {
    let file = file();
    if file.exists() {
        return Ok(());
    }
    fs::write(&file, snapshot()).with_context(|| format!("cannot write {}", file.display()))
}

/// Puts the values of `save` back.
pub(crate) fn restore() -> Result<()> {
    let file = file();
    let Ok(saved) = fs::read_to_string(&file) else {
        return Ok(());
    };
    for (name, value) in saved.lines().filter_map(|line| line.split_once('=')) {
        let path = PathBuf::from("/proc/sys").join(name);
        let now = fs::read_to_string(&path).unwrap_or_default();
        if WRITTEN.contains(&name) && now.trim() != value {
            fs::write(&path, value).with_context(|| format!("cannot restore {name} to {value}"))?;
        }
    }
    Ok(())
}

/// The present values, one `name=value` a line.
pub(crate) fn snapshot() -> String {
    let mut text = String::new();
    for name in WRITTEN {
        if let Ok(value) = fs::read_to_string(PathBuf::from("/proc/sys").join(name)) {
            text += &format!("{name}={}\n", value.trim());
        }
    }
    text
}

fn file() -> PathBuf {
    paths::state().join("sysctls")
}
