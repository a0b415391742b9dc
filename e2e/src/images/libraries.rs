//! What a dynamically linked program needs beside itself: its loader and its libraries.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::images::oci::Entry;
use crate::process;

/// The loader and the libraries of a program, at the paths where the loader looks for them.
pub(crate) fn of(program: &Path) -> Result<Vec<Entry>> {
    let listed = process::stdout_of(process::command("ldd", ["--"]).arg(program))?;
    let mut entries = Vec::new();
    for line in listed.lines().map(str::trim) {
        if line.contains("not found") {
            bail!("{}: {line}", program.display());
        }
        if let Some(path) = path_of(line) {
            // The link's own name counts inside the image, its target's bytes are what it holds.
            let name = path.to_string_lossy().trim_start_matches('/').to_owned();
            entries.push(Entry::program(&name, path));
        }
    }
    if entries.is_empty() {
        bail!(
            "ldd finds no libraries of {}: is it a program for this machine?",
            program.display()
        );
    }
    Ok(entries)
}

/// `libc.so.6 => /lib/…/libc.so.6 (0x…)` or `/lib64/ld-linux-x86-64.so.2 (0x…)`; the kernel's own
/// `linux-vdso.so.1 (0x…)` has no path.
fn path_of(line: &str) -> Option<PathBuf> {
    let right = line.split_once("=>").map_or(line, |(_, right)| right);
    let path = right.split_whitespace().next()?;
    path.starts_with('/').then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_each_kind_of_line() {
        let cases = [
            ("linux-vdso.so.1 (0x00007ffd)", None),
            (
                "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)",
                Some("/lib/x86_64-linux-gnu/libc.so.6"),
            ),
            (
                "/lib64/ld-linux-x86-64.so.2 (0x00007f)",
                Some("/lib64/ld-linux-x86-64.so.2"),
            ),
            ("", None),
        ];
        for (line, path) in cases {
            assert_eq!(path_of(line), path.map(PathBuf::from), "{line}");
        }
    }
}
