//! Compiles the `.cu` files as C++ against the emulator: an object per file, kept by the hash of all
//! that went into it, linked to one shared library.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use plimsoll_kernels::checksum;

use crate::options::Mode;

const FLAGS: [&str; 8] = [
    "-std=c++17",
    "-O2",
    "-g1",
    "-fPIC",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Werror",
];
/// Pragmas and names that only nvcc uses.
const QUIET: [&str; 3] = [
    "-Wno-unknown-pragmas",
    "-Wno-unused-parameter",
    "-Wno-unused-variable",
];

/// The crate's folder.
pub(crate) fn sources() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Where objects and libraries are kept.
pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("emulated")
}

fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "g++".to_owned())
}

/// What a kernel is compiled with in a mode.
fn kernel_flags(mode: Mode) -> &'static [&'static str] {
    match mode {
        Mode::Plain => &[],
        // The compiler's race instrumentation, answered by race.cpp.
        Mode::Race => &[
            "-fsanitize=thread",
            "--param",
            "tsan-instrument-func-entry-exit=0",
        ],
        Mode::Asan => &[
            "-fsanitize=address,undefined",
            "-fno-sanitize-recover=undefined",
        ],
    }
}

/// What the emulator itself is compiled with.
fn emulator_flags(mode: Mode) -> &'static [&'static str] {
    match mode {
        Mode::Plain | Mode::Race => &[],
        Mode::Asan => kernel_flags(Mode::Asan),
    }
}

/// The libraries that must be there before any other under AddressSanitizer.
pub(crate) fn sanitizers() -> Result<String, String> {
    let mut paths = Vec::new();
    for name in ["libasan.so", "libubsan.so"] {
        let output = Command::new(compiler())
            .arg(format!("-print-file-name={name}"))
            .output()
            .map_err(|error| missing(&error))?;
        let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        // A loader cannot preload the script that some distributions put there.
        let path = fs::canonicalize(&path).map_err(|error| format!("{name}: {error}"))?;
        paths.push(path.display().to_string());
    }
    Ok(paths.join(":"))
}

fn missing(error: &std::io::Error) -> String {
    let compiler = compiler();
    format!("cannot run the host compiler {compiler}: {error}; apt-get install g++, or set CXX")
}

/// One object to be made.
struct Unit {
    source: PathBuf,
    flags: &'static [&'static str],
}

/// Compiles what changed below `sources` and links it; the library's path.
pub(crate) fn build(mode: Mode, sources: &Path, folder: &Path) -> Result<PathBuf, String> {
    let mut units = Vec::new();
    for path in files(&sources.join("src"), "cu")? {
        units.push(Unit {
            source: path,
            flags: kernel_flags(mode),
        });
    }
    for path in files(&sources.join("emulator"), "cpp")? {
        let is_race = path.ends_with("race.cpp");
        if !is_race || mode == Mode::Race {
            units.push(Unit {
                source: path,
                flags: emulator_flags(mode),
            });
        }
    }
    let headers = [
        files(&sources.join("src"), "cuh")?,
        files(&sources.join("emulator"), "h")?,
    ]
    .concat();
    let headers = hash_of(&headers)?;
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let objects = compile_all(&units, headers, folder)?;
    link(mode, &objects, folder)
}

fn compile_all(units: &[Unit], headers: u64, folder: &Path) -> Result<Vec<PathBuf>, String> {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(unit) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let object = compile(unit, headers, folder);
                    results
                        .lock()
                        .unwrap_or_else(|e| e.into_inner())
                        .push(object);
                }
            });
        }
    });
    let mut objects: Vec<PathBuf> = results
        .into_inner()
        .unwrap_or_else(|error| error.into_inner())
        .into_iter()
        .collect::<Result<_, _>>()?;
    objects.sort();
    Ok(objects)
}

fn compile(unit: &Unit, headers: u64, folder: &Path) -> Result<PathBuf, String> {
    let source =
        fs::read(&unit.source).map_err(|error| format!("{}: {error}", unit.source.display()))?;
    let flags = [&FLAGS[..], &QUIET[..], unit.flags].concat().join(" ");
    let all = [
        &source[..],
        flags.as_bytes(),
        &headers.to_le_bytes(),
        compiler().as_bytes(),
    ]
    .concat();
    let name = unit
        .source
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy();
    let object = folder.join(format!("{name}-{:016x}.o", checksum::run(&all)));
    if object.is_file() {
        return Ok(object);
    }
    // Made under another name, so that an interrupted compiler leaves nothing that looks whole.
    let unfinished = object.with_extension(format!("{}.part", std::process::id()));
    let output = Command::new(compiler())
        .args(FLAGS)
        .args(QUIET)
        .args(unit.flags)
        .args(["-x", "c++", "-c"])
        .arg(&unit.source)
        .arg("-o")
        .arg(&unfinished)
        .output()
        .map_err(|error| missing(&error))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "{} does not compile:\n{errors}",
            unit.source.display()
        ));
    }
    fs::rename(&unfinished, &object).map_err(|error| format!("{}: {error}", object.display()))?;
    Ok(object)
}

fn link(mode: Mode, objects: &[PathBuf], folder: &Path) -> Result<PathBuf, String> {
    let names: Vec<String> = objects
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let hash = checksum::run(names.join(" ").as_bytes());
    let library = folder.join(format!("kernels-{}-{hash:016x}.so", mode.name()));
    if library.is_file() {
        return Ok(library);
    }
    let unfinished = library.with_extension(format!("{}.part", std::process::id()));
    let output = Command::new(compiler())
        .arg("-shared")
        .args(emulator_flags(mode))
        .args(objects)
        .arg("-ldl")
        .arg("-o")
        .arg(&unfinished)
        .output()
        .map_err(|error| missing(&error))?;
    if !output.status.success() {
        return Err(format!(
            "cannot link:\n{}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    fs::rename(&unfinished, &library).map_err(|error| format!("{}: {error}", library.display()))?;
    Ok(library)
}

/// Files below `folder` whose names end in `extension`, sorted.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        let entries =
            fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for entry in entries {
            let path = entry.map_err(|error| error.to_string())?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|end| end == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn hash_of(paths: &[PathBuf]) -> Result<u64, String> {
    let mut all = Vec::new();
    for path in paths {
        all.extend(fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?);
        all.push(0);
    }
    Ok(checksum::run(&all))
}
