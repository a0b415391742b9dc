//! What goes wrong around kernels must be said plainly: no compiler, no library, launches that no
//! kernel takes.

use std::path::Path;
use std::process::Command;

use plimsoll_kernels::gpu::emulator::Emulator;
use plimsoll_kernels::gpu::{Arguments, Launch};

use crate::compile;
use crate::options::MULTIPROCESSORS;

#[derive(Debug)]
pub(crate) struct Fault {
    name: &'static str,
    check: fn(&Path) -> Result<(), String>,
}

pub(crate) const FAULTS: &[Fault] = &[
    Fault {
        name: "no host compiler",
        check: |_| {
            ends_with(
                &["rms_norm"],
                "/nonexistent/c++",
                "cannot run the host compiler /nonexistent/c++: No such file or directory \
                 (os error 2); apt-get install g++, or set CXX",
            )
        },
    },
    Fault {
        name: "a host compiler that fails",
        check: |_| ends_with(&["rms_norm"], "false", "does not compile"),
    },
    Fault {
        name: "a library that is none",
        check: |_| ends_with(&["--library", "Cargo.toml"], "g++", "Cargo.toml: "),
    },
    Fault {
        name: "a library of something else",
        check: |_| {
            let other = compile::own_library("libm.so.6")?;
            let arguments = ["--library", &other.to_string_lossy()];
            ends_with(&arguments, "g++", "has no emu_launch")
        },
    },
    Fault {
        name: "a filter that fits nothing",
        check: |_| ends_with(&["xyzzy"], "g++", "no trial's name contains [\"xyzzy\"]"),
    },
    Fault {
        name: "an option that does not exist",
        check: |_| ends_with(&["--fast"], "g++", "--fast is not an option"),
    },
    Fault {
        name: "a mode that does not exist",
        check: |_| {
            ends_with(
                &["--mode", "fast"],
                "g++",
                "--mode fast: plain, race or asan",
            )
        },
    },
    Fault {
        name: "a kernel that does not exist",
        check: |library| {
            refused(library, "no kernel has this name", |launch| {
                launch.kernel = "rms_norm_f64_1";
            })
        },
    },
    Fault {
        name: "arguments of other kinds",
        check: |library| {
            let said = "takes arguments pppuf, was given pppff (p: pointer";
            refused(library, said, |launch| {
                launch.arguments = nulls(3).f32(8.0).f32(1e-5);
            })
        },
    },
    Fault {
        name: "too few arguments",
        check: |library| {
            let said = "takes arguments pppuf, was given pppu (p: pointer";
            refused(library, said, |launch| {
                launch.arguments = nulls(3).u32(8);
            })
        },
    },
    Fault {
        name: "too many threads",
        check: |library| {
            let said = "a grid of (1,1,1) blocks of (1056,1,1) threads";
            refused(library, said, |launch| launch.threads = 1056)
        },
    },
    Fault {
        name: "too much shared memory",
        check: |library| {
            let said = "300000 bytes of shared memory, 232448 at most";
            refused(library, said, |launch| launch.shared_bytes = 300_000)
        },
    },
];

impl Fault {
    pub(crate) fn title(&self) -> String {
        format!("fault: {}", self.name)
    }

    pub(crate) fn prove(&self, library: &Path) -> Result<(), String> {
        (self.check)(library)
    }
}

/// This program, with another compiler, must end with code 2 and say why.
fn ends_with(arguments: &[&str], compiler: &str, said: &str) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(program)
        .args(arguments)
        .env("CXX", compiler)
        .output()
        .map_err(|error| format!("cannot start again: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match output.status.code() == Some(2) && text.contains(said) {
        true => Ok(()),
        false => Err(format!(
            "should end with code 2 and say {said:?}; {}:\n{text}",
            output.status
        )),
    }
}

/// Pointers that nobody follows.
fn nulls(count: usize) -> Arguments {
    (0..count).fold(Arguments::new(), |arguments, _| arguments.null())
}

/// A launch of rms_norm, once `spoiled`, must be refused with these words.
fn refused(library: &Path, said: &str, spoil: impl Fn(&mut Launch<'_>)) -> Result<(), String> {
    let emulator = Emulator::load(library, MULTIPROCESSORS).map_err(|error| error.to_string())?;
    let mut launch = Launch {
        op: "rms_norm",
        kernel: "rms_norm_f32_1",
        grid: [1, 1, 1],
        threads: 256,
        shared_bytes: 0,
        arguments: nulls(3).u32(8).f32(1e-5),
    };
    spoil(&mut launch);
    match emulator.gpu().launch(&launch) {
        Ok(()) => Err("was launched".to_owned()),
        Err(error) if error.to_string().contains(said) => Ok(()),
        Err(error) => Err(format!("should say {said:?}, says: {error}")),
    }
}
