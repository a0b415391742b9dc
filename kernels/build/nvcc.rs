//! Finds nvcc, holds it to a version, and compiles one op's `.cu` files to one fatbin.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Real architectures that get code of their own, and the virtual one that newer cards compile.
pub(crate) const TARGETS: [&str; 5] = ["80", "86", "89", "90a", "100"];
pub(crate) const VIRTUAL_TARGET: &str = "80";
/// The first release that knows every target.
const OLDEST: (u32, u32) = (12, 8);

/// Why there are no kernels.
#[derive(Debug)]
pub(crate) enum NvccError {
    /// No nvcc on this machine, or it was told away.
    Absent,
    /// It does not run at all.
    DoesNotRun { path: PathBuf, reason: String },
    /// It does not know all targets.
    TooOld { path: PathBuf, release: String },
    /// It found no compiler for its own preprocessing.
    NoHostCompiler { said: String },
    /// A kernel does not compile.
    Failed { source: String, said: String },
}

impl fmt::Display for NvccError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = OLDEST;
        match self {
            NvccError::Absent => write!(f, "nvcc was not found; kernels/setup-nvcc installs it"),
            NvccError::DoesNotRun { path, reason } => {
                write!(f, "{} does not run: {reason}", path.display())
            }
            NvccError::TooOld { path, release } => write!(
                f,
                "{} is release {release}, the targets need {major}.{minor} or newer; \
                 kernels/setup-nvcc installs one, PLIMSOLL_NVCC names another",
                path.display()
            ),
            NvccError::NoHostCompiler { said } => {
                write!(
                    f,
                    "nvcc finds no host compiler (apt-get install g++): {said}"
                )
            }
            NvccError::Failed { source, said } => write!(f, "{source} does not compile:\n{said}"),
        }
    }
}

/// An nvcc that is new enough.
#[derive(Clone, Debug)]
pub(crate) struct Nvcc {
    path: PathBuf,
    /// As it calls itself, e.g. `13.0`.
    pub(crate) release: String,
}

impl Nvcc {
    /// `PLIMSOLL_NVCC` (a path, or `none`), else what setup-nvcc installed, else the PATH's.
    pub(crate) fn find() -> Result<Nvcc, NvccError> {
        match env::var("PLIMSOLL_NVCC") {
            Ok(path) if path == "none" || path.is_empty() => Err(NvccError::Absent),
            Ok(path) => Nvcc::at(Path::new(&path)),
            Err(_) => match installed().or_else(on_path) {
                Some(path) => Nvcc::at(&path),
                None => Err(NvccError::Absent),
            },
        }
    }

    /// The nvcc at `path`, held to its version.
    pub(crate) fn at(path: &Path) -> Result<Nvcc, NvccError> {
        let does_not_run = |reason: String| NvccError::DoesNotRun {
            path: path.to_path_buf(),
            reason,
        };
        let output = Command::new(path)
            .arg("--version")
            .output()
            .map_err(|error| does_not_run(error.to_string()))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let Some((release, version)) = release(&said) else {
            return Err(does_not_run(format!(
                "it says {:?} of its version",
                said.trim()
            )));
        };
        if version < OLDEST {
            return Err(NvccError::TooOld {
                path: path.to_path_buf(),
                release,
            });
        }
        Ok(Nvcc {
            path: path.to_path_buf(),
            release,
        })
    }

    /// Compiles `source` for every target into `fatbin`; what ptxas says of each kernel.
    pub(crate) fn compile(
        &self,
        source: &Path,
        fatbin: &Path,
        more: &[&str],
    ) -> Result<String, NvccError> {
        let mut command = Command::new(&self.path);
        command.args([
            "-std=c++17",
            "-O3",
            "--fatbin",
            "--compress-mode=size",
            "-Xptxas",
            "-v",
        ]);
        for target in TARGETS {
            command.arg(format!("-gencode=arch=compute_{target},code=sm_{target}"));
        }
        let ptx = VIRTUAL_TARGET;
        command.arg(format!("-gencode=arch=compute_{ptx},code=compute_{ptx}"));
        command.args(more).arg("-o").arg(fatbin).arg(source);
        let output = command.output().map_err(|error| NvccError::DoesNotRun {
            path: self.path.clone(),
            reason: error.to_string(),
        })?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        if output.status.success() {
            return Ok(said);
        }
        let about_host = [
            "host compiler",
            "cc1plus",
            "gcc: ",
            "g++: ",
            "No such file or directory",
        ];
        if about_host.iter().any(|text| said.contains(text)) && !said.contains(".cu(") {
            let said = said.trim().to_owned();
            return Err(NvccError::NoHostCompiler { said });
        }
        Err(NvccError::Failed {
            source: source.display().to_string(),
            said,
        })
    }
}

/// `… release 13.0, V13.0.88 …`
fn release(said: &str) -> Option<(String, (u32, u32))> {
    let text = said.split("release ").nth(1)?.split(',').next()?.trim();
    let (major, minor) = text.split_once('.')?;
    Some((text.to_owned(), (major.parse().ok()?, minor.parse().ok()?)))
}

/// Where setup-nvcc puts it.
fn installed() -> Option<PathBuf> {
    let cache = match env::var_os("XDG_CACHE_HOME") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env::var_os("HOME")?).join(".cache"),
    };
    let folder = fs::read_dir(cache.join("plimsoll")).ok()?;
    let mut found: Vec<PathBuf> = folder
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("nvcc-"))
        })
        .filter(|path| path.join("complete").is_file())
        .filter_map(|path| {
            let python = fs::read_dir(path.join("lib")).ok()?.next()?.ok()?.path();
            Some(python.join("site-packages/nvidia/cu13/bin/nvcc"))
        })
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found.pop()
}

fn on_path() -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join("nvcc"))
        .find(|path| path.is_file())
}
