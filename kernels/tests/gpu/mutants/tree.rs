//! A copy of an op's sources with one line broken, and what of it must be compiled.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use plimsoll_kernels::checksum;

use super::Mutant;
use crate::compile::{self, Unit};
use crate::library;
use crate::options::Mode;

/// The emulator and the op's `.cu` files; what is not broken is compiled from where it stands.
pub(super) fn units(
    mutant: &Mutant,
    mode: Mode,
    is_whole: bool,
    cache: &Path,
) -> Result<Vec<Unit>, String> {
    let folder = library::crate_folder();
    let headers = library::headers(&folder)?;
    let mut units = library::emulator(mode, headers)?;
    let sources = library::files(&folder.join("src").join(mutant.op), "cu")?;
    if sources.is_empty() {
        return Err(format!("{}: the op has no .cu file", title(mutant)));
    }
    let tree = match is_whole {
        true => folder.clone(),
        false => broken(mutant, &folder, cache)?,
    };
    // Optimising would take longer than the one short run. What is broken may leave a name unused. The
    // whole kernel is compiled alike, so that the line is all they differ in.
    let flags = [library::kernel_flags(mode), vec!["-O0", "-w"]].concat();
    for source in sources {
        let below = source.strip_prefix(&folder).unwrap_or(&source);
        let is_broken = !is_whole && needs(&source, mutant.file)?;
        let (source, headers) = match is_broken {
            false => (source.clone(), headers),
            true => (tree.join(below), library::headers(&tree)?),
        };
        units.push(Unit {
            source,
            flags: flags.clone(),
            headers,
        });
    }
    Ok(units)
}

/// Whether `source` is the file, or includes it through any number of headers.
fn needs(source: &Path, file: &str) -> Result<bool, String> {
    if source.ends_with(file) {
        return Ok(true);
    }
    let text = String::from_utf8_lossy(&compile::read(source)?).into_owned();
    let folder = source.parent().unwrap_or(source);
    let includes = text.lines().filter_map(|line| {
        let name = line.strip_prefix("#include \"")?.strip_suffix('"')?;
        name.ends_with(".cuh").then(|| folder.join(name))
    });
    for header in includes {
        // Without the `..` of an include, to be compared with.
        let header = fs::canonicalize(&header).map_err(|e| format!("{}: {e}", header.display()))?;
        if needs(&header, file)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn title(mutant: &Mutant) -> String {
    format!("{}: {}", mutant.op, mutant.name)
}

/// The sources with the line broken; includes find what they find in the crate.
fn broken(mutant: &Mutant, folder: &Path, cache: &Path) -> Result<PathBuf, String> {
    let title = title(mutant);
    let tree = cache
        .join("mutants")
        .join(format!("{:016x}", checksum::run(title.as_bytes())));
    let failed = |error: std::io::Error| format!("{title}: {}: {error}", tree.display());
    if tree.exists() {
        fs::remove_dir_all(&tree).map_err(failed)?;
    }
    for part in ["gpu", mutant.op] {
        let to = tree.join("src").join(part);
        fs::create_dir_all(&to).map_err(failed)?;
        for from in [
            library::files(&folder.join("src").join(part), "cu")?,
            library::files(&folder.join("src").join(part), "cuh")?,
        ]
        .concat()
        {
            let below = from.strip_prefix(folder.join("src").join(part));
            let to = to.join(below.unwrap_or(&from));
            fs::create_dir_all(to.parent().unwrap_or(&tree)).map_err(failed)?;
            fs::copy(&from, to).map_err(failed)?;
        }
    }
    symlink(folder.join("emulator"), tree.join("emulator")).map_err(failed)?;

    let path = tree.join("src").join(mutant.file);
    let text = String::from_utf8_lossy(&compile::read(&path)?).into_owned();
    match text.matches(mutant.old).count() {
        1 => fs::write(&path, text.replacen(mutant.old, mutant.new, 1)).map_err(failed)?,
        count => {
            let (file, old) = (mutant.file, mutant.old);
            return Err(format!(
                "{title}: {file} has {count} times, not once:\n{old}"
            ));
        }
    }
    Ok(tree)
}
