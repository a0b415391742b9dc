//! The library of emulated kernels: which files it is made of, and how each mode compiles them.

use std::fs;
use std::path::{Path, PathBuf};

use plimsoll_kernels::checksum;

use crate::compile::{self, Unit};
use crate::options::Mode;

const FLAGS: [&str; 12] = [
    "-std=c++17",
    "-O2",
    "-g1",
    "-fPIC",
    // The state of a thread is a few hundred bytes, and every `threadIdx` reads it.
    "-ftls-model=initial-exec",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Werror",
    // Pragmas and names that only nvcc uses.
    "-Wno-unknown-pragmas",
    "-Wno-unused-parameter",
    "-Wno-unused-variable",
];

/// The crate's folder.
pub(crate) fn crate_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Where objects and libraries are kept.
pub(crate) fn cache() -> Result<PathBuf, String> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("emulated");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

/// What a kernel is compiled with in a mode.
pub(crate) fn kernel_flags(mode: Mode) -> Vec<&'static str> {
    let own: &[&str] = match mode {
        Mode::Plain => &[],
        // The compiler's race instrumentation, answered by emulator/race.
        Mode::Race => &[
            "-fsanitize=thread",
            "--param",
            "tsan-instrument-func-entry-exit=0",
            // Keeps loads of 16 bytes whole, so that their alignment is seen.
            "-fno-tree-sra",
        ],
        Mode::Asan => &SANITIZERS,
    };
    [&FLAGS, own].concat()
}

const SANITIZERS: [&str; 2] = [
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
];

/// What the emulator itself is compiled, and the library linked, with.
pub(crate) fn emulator_flags(mode: Mode) -> Vec<&'static str> {
    match mode {
        Mode::Plain | Mode::Race => FLAGS.to_vec(),
        Mode::Asan => [&FLAGS[..], &SANITIZERS].concat(),
    }
}

/// The libraries that must be there before any other under AddressSanitizer.
pub(crate) fn sanitizers() -> Result<String, String> {
    let (address, undefined) = (
        compile::own_library("libasan.so")?,
        compile::own_library("libubsan.so")?,
    );
    Ok(format!("{}:{}", address.display(), undefined.display()))
}

/// Compiles what changed and links it; the library's path.
pub(crate) fn build(mode: Mode) -> Result<PathBuf, String> {
    let (folder, cache) = (crate_folder(), cache()?);
    let headers = headers(&folder)?;
    let mut units = emulator(mode, headers)?;
    for source in [
        files(&folder.join("src"), "cu")?,
        files(&folder.join("tests"), "cu")?,
    ]
    .concat()
    {
        units.push(Unit {
            source,
            flags: kernel_flags(mode),
            headers,
        });
    }
    let objects: Vec<PathBuf> = compile::objects(&units, &cache)
        .into_iter()
        .collect::<Result<_, _>>()?;
    compile::link(
        &format!("kernels-{}", mode.name()),
        &objects,
        &emulator_flags(mode),
        &cache,
    )
}

/// The emulator's own objects.
pub(crate) fn emulator(mode: Mode, headers: u64) -> Result<Vec<Unit>, String> {
    let sources = files(&crate_folder().join("emulator"), "cpp")?;
    let is_race = |source: &Path| source.parent().is_some_and(|p| p.ends_with("race"));
    Ok(sources
        .into_iter()
        .filter(|source| mode == Mode::Race || !is_race(source))
        .map(|source| Unit {
            source,
            flags: emulator_flags(mode),
            headers,
        })
        .collect())
}

/// The hash of what a unit below `folder` may include.
pub(crate) fn headers(folder: &Path) -> Result<u64, String> {
    let mut all = Vec::new();
    for path in [
        files(&folder.join("src"), "cuh")?,
        files(&folder.join("emulator"), "h")?,
    ]
    .concat()
    {
        all.extend(compile::read(&path)?);
        all.push(0);
    }
    Ok(checksum::run(&all))
}

/// Files below `folder` whose names end in `extension`, sorted.
pub(crate) fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, String> {
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
