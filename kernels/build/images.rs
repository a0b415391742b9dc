//! The fatbins of a build: one per op, kept by the hash of the sources they were made from.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use sha2::{Digest, Sha256};

use super::nvcc::{Nvcc, NvccError, TARGETS, VIRTUAL_TARGET};

/// One op's kernels in source.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) name: String,
    /// The file that nvcc is given.
    pub(crate) source: PathBuf,
    /// Hash of that file, of every header and of the targets: 16 hexadecimal digits.
    pub(crate) hash: String,
}

/// What a build has for an op.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Image {
    /// The file, and what ptxas said of it.
    Made {
        fatbin: PathBuf,
        ptxas: PathBuf,
    },
    /// Only one that was made from other sources, with this hash.
    Stale(String),
    Absent,
}

/// Every `.cu` file below `sources`, by name.
pub(crate) fn ops(sources: &Path) -> io::Result<Vec<Op>> {
    let mut files = Vec::new();
    let mut open = vec![sources.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    let ends = |path: &Path, end: &str| path.extension().is_some_and(|extension| extension == end);
    let mut common = Sha256::new();
    common.update(TARGETS.join(","));
    common.update(VIRTUAL_TARGET);
    for path in files.iter().filter(|path| ends(path, "cuh")) {
        common.update(fs::read(path)?);
        common.update([0]);
    }
    let mut ops = Vec::new();
    for source in files.into_iter().filter(|path| ends(path, "cu")) {
        let mut hash = common.clone();
        hash.update(fs::read(&source)?);
        let hash = hash.finalize();
        let name = source
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let hash = hash
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        ops.push(Op { name, source, hash });
    }
    Ok(ops)
}

/// What `folder` has for `op`.
pub(crate) fn find(op: &Op, folder: &Path) -> Image {
    let fatbin = folder.join(format!("{}-{}.fatbin", op.name, op.hash));
    let ptxas = fatbin.with_extension("ptxas");
    if fatbin.is_file() && ptxas.is_file() {
        return Image::Made { fatbin, ptxas };
    }
    let Ok(entries) = fs::read_dir(folder) else {
        return Image::Absent;
    };
    let mut others: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| {
            let hash = name
                .strip_prefix(op.name.as_str())?
                .strip_prefix('-')?
                .strip_suffix(".fatbin")?;
            (hash.len() == 16).then(|| hash.to_owned())
        })
        .collect();
    others.sort();
    others.pop().map_or(Image::Absent, Image::Stale)
}

/// The release of the nvcc that made an image: the first line beside it.
pub(crate) fn release(ptxas: &Path) -> Option<(u32, u32)> {
    let said = fs::read_to_string(ptxas).ok()?;
    let (major, minor) = said
        .lines()
        .next()?
        .strip_prefix("nvcc ")?
        .split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Compiles what `folder` lacks, several at once; older fatbins of the same ops are removed.
pub(crate) fn make(ops: &[Op], nvcc: &Nvcc, folder: &Path) -> Result<(), NvccError> {
    let failed = |error: io::Error| NvccError::Failed {
        source: folder.display().to_string(),
        said: error.to_string(),
    };
    fs::create_dir_all(folder).map_err(failed)?;
    let (next, result) = (AtomicUsize::new(0), Mutex::new(Ok(())));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(op) = ops.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = make_one(op, nvcc, folder) {
                        *result.lock().unwrap_or_else(|e| e.into_inner()) = Err(error);
                    }
                }
            });
        }
    });
    result
        .into_inner()
        .unwrap_or_else(|error| error.into_inner())
}

fn make_one(op: &Op, nvcc: &Nvcc, folder: &Path) -> Result<(), NvccError> {
    if matches!(find(op, folder), Image::Made { .. }) {
        return Ok(());
    }
    let failed = |error: io::Error| NvccError::Failed {
        source: op.source.display().to_string(),
        said: error.to_string(),
    };
    // Under another name until it is whole.
    let fatbin = folder.join(format!("{}-{}.fatbin", op.name, op.hash));
    let unfinished = fatbin.with_extension(format!("{}.part", std::process::id()));
    let said = nvcc.compile(&op.source, &unfinished, &[])?;
    let said = format!("nvcc {}\n{said}", nvcc.release);
    while let Image::Stale(hash) = find(op, folder) {
        let old = folder.join(format!("{}-{hash}.fatbin", op.name));
        fs::remove_file(&old).map_err(failed)?;
        let _ = fs::remove_file(old.with_extension("ptxas"));
    }
    fs::write(fatbin.with_extension("ptxas"), said).map_err(failed)?;
    fs::rename(&unfinished, &fatbin).map_err(failed)
}
