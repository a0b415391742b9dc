//! The host compiler: objects, kept by the hash of all that went into them, and shared libraries of
//! them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use plimsoll_kernels::checksum;

/// One object to be made.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub(crate) source: PathBuf,
    pub(crate) flags: Vec<&'static str>,
    /// The hash of all that it may include.
    pub(crate) headers: u64,
}

/// The compiler's name.
fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "g++".to_owned())
}

fn run(command: &mut Command) -> Result<Output, String> {
    command.output().map_err(|error| {
        let compiler = compiler();
        format!("cannot run the host compiler {compiler}: {error}; apt-get install g++, or set CXX")
    })
}

/// Where the compiler keeps one of its libraries.
pub(crate) fn own_library(name: &str) -> Result<PathBuf, String> {
    let output = run(Command::new(compiler()).arg(format!("-print-file-name={name}")))?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    // A loader cannot preload the script that some distributions put there.
    fs::canonicalize(&path).map_err(|error| format!("{}'s {name}: {error}", compiler()))
}

/// Makes the objects that are not there yet, on all cores; each one's path, or what the compiler
/// said.
pub(crate) fn objects(units: &[Unit], folder: &Path) -> Vec<Result<PathBuf, String>> {
    in_parallel(units.len(), |at| object(&units[at], folder))
}

/// `work` for every number below `count`, on all cores.
pub(crate) fn in_parallel<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        break;
                    }
                    let result = work(at);
                    done.lock()
                        .unwrap_or_else(|error| error.into_inner())
                        .push((at, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|error| error.into_inner());
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

fn object(unit: &Unit, folder: &Path) -> Result<PathBuf, String> {
    let source = read(&unit.source)?;
    let all = [
        &source[..],
        unit.flags.join(" ").as_bytes(),
        &unit.headers.to_le_bytes(),
        compiler().as_bytes(),
    ]
    .concat();
    let stem = unit.source.file_stem().unwrap_or_default();
    let name = stem.to_string_lossy();
    let object = folder.join(format!("{name}-{:016x}.o", checksum::run(&all)));
    if object.is_file() {
        return Ok(object);
    }
    let unfinished = unfinished(&object);
    let output = run(Command::new(compiler())
        .args(&unit.flags)
        .args(["-x", "c++", "-c"])
        .arg(&unit.source)
        .arg("-o")
        .arg(&unfinished))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let source = unit.source.display();
        return Err(format!("{source} does not compile:\n{errors}"));
    }
    finish(&unfinished, object)
}

/// A shared library of objects, the path of which names them.
pub(crate) fn link(
    name: &str,
    objects: &[PathBuf],
    flags: &[&str],
    folder: &Path,
) -> Result<PathBuf, String> {
    let names: Vec<String> = objects
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let hash = checksum::run(names.join(" ").as_bytes());
    let library = folder.join(format!("{name}-{hash:016x}.so"));
    if library.is_file() {
        return Ok(library);
    }
    let unfinished = unfinished(&library);
    let output = run(Command::new(compiler())
        .arg("-shared")
        .args(flags)
        .args(objects)
        .arg("-ldl")
        .arg("-o")
        .arg(&unfinished))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cannot link {name}:\n{errors}"));
    }
    finish(&unfinished, library)
}

/// Files are made under another name, so that an interrupted compiler leaves nothing that looks
/// whole.
fn unfinished(path: &Path) -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let (process, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    path.with_extension(format!("{process}-{number}.part"))
}

fn finish(unfinished: &Path, path: PathBuf) -> Result<PathBuf, String> {
    fs::rename(unfinished, &path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}
