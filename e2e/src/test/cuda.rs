//! The kernels for cards, where no card is: compiled for every target within their budgets, executed
//! by the emulator against their CPU definitions, and embedded in a program that starts without
//! libcuda.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::build::{self, cargo};
use crate::process;
use crate::test::unit::run_tests;
use crate::test::world::World;
use crate::test::{Group, Passed, expect, test};
use crate::tools::nvcc;

pub(super) const GROUP: Group = Group {
    name: "cuda",
    about: "the CUDA kernels: compiled for every card, executed by the emulator",
    tests: &[
        test("clippy has nothing to say of the card's side", linted),
        test(
            "every kernel is compiled for every target within its budget",
            compiled,
        ),
        test("the emulator agrees with the CPU in three schedules", plain),
        test(
            "and as they are cut for a card of 132 multiprocessors",
            wide,
        ),
        test("no race, no unwritten read, no wild address", race),
        test("AddressSanitizer and UBSan have nothing to say", asan),
        test("the emulator notices planted bugs", mutants),
        test(
            "the program carries its kernels and starts without libcuda",
            carries,
        ),
    ],
};

/// The trials' own profile: see Cargo.toml.
const PROFILE: [&str; 4] = ["--profile", "trials", "--package", "plimsoll-kernels"];

fn linted(_: &World<'_>) -> Passed {
    for (package, features) in [
        ("plimsoll-kernels", "gpu-tests,driver"),
        ("plimsoll-sidecar", "cuda"),
    ] {
        // The ordinary profile: what the group `unit` looked at is looked at already.
        let mut clippy = cargo(&["clippy", "--quiet", "--locked"]);
        clippy.args([
            "--package",
            package,
            "--features",
            features,
            "--all-targets",
        ]);
        // Looks at Rust alone: the kernels are compiled by the test that follows.
        clippy
            .env("PLIMSOLL_NVCC", "none")
            .args(["--", "-D", "warnings"]);
        process::stdout_of(&mut clippy)?;
    }
    Ok(2)
}

fn compiled(world: &World<'_>) -> Passed {
    let nvcc = nvcc::ensure(world.progress)?;
    let words = [&PROFILE[..], &["--features", "driver", "--test", "fatbins"]].concat();
    run_tests(&words, &[("PLIMSOLL_NVCC", &nvcc.to_string_lossy())])
}

fn plain(_: &World<'_>) -> Passed {
    trials(&["--mode", "plain"])
}

/// An H100's. Launchers cut keys, columns and rows into other parts than for the few of the emulator.
fn wide(_: &World<'_>) -> Passed {
    trials(&[
        "--mode",
        "plain",
        "--seeds",
        "2",
        "--multiprocessors",
        "132",
    ])
}

fn race(_: &World<'_>) -> Passed {
    trials(&["--mode", "race", "--seeds", "2"])
}

fn asan(_: &World<'_>) -> Passed {
    // Two: a missing barrier shows in the second order alone.
    trials(&["--mode", "asan", "--seeds", "2"])
}

fn mutants(_: &World<'_>) -> Passed {
    trials(&["--mutants"])
}

fn trials(options: &[&str]) -> Passed {
    let test = ["--features", "gpu-tests", "--test", "gpu", "--"];
    run_tests(&[&PROFILE[..], &test, options].concat(), &[])
}

fn carries(world: &World<'_>) -> Passed {
    let sidecar = with_kernels(world)?;
    let bytes = fs::metadata(&sidecar)?.len();
    let libraries = process::stdout_of(&mut process::command("ldd", [&sidecar]))?;
    expect(!libraries.contains("libcuda"), || {
        format!("{} needs libcuda to start:\n{libraries}", sidecar.display())
    })?;
    let said = process::stdout_of(&mut process::command(
        &sidecar,
        ["devices", "--output", "json"],
    ))?;
    let devices: Value = serde_json::from_str(&said).context(said.clone())?;
    let kernels = devices["cuda"]["kernels"]
        .as_array()
        .context("no list of kernels")?;
    let sizes: Option<Vec<u64>> = kernels.iter().map(|op| op["bytes"].as_u64()).collect();
    let Some(sizes) = sizes.filter(|sizes| !sizes.is_empty()) else {
        bail!(
            "ops without embedded kernels: {}",
            devices["cuda"]["kernels"]
        );
    };
    let cards = devices["cuda"]["cards"].as_array().map_or(0, Vec::len);
    let reason = devices["cuda"]["reason"].as_str().unwrap_or_default();
    expect(cards > 0 || reason.contains("libcuda"), || {
        format!("neither a card nor the reason why there is none: {reason:?}")
    })?;
    println!(
        "           {:.1} MB, {:.1} MB of them kernels of {} ops; {cards} cards {reason}",
        mega(bytes),
        mega(sizes.iter().sum()),
        sizes.len()
    );
    Ok(3)
}

/// The sidecar as it would be released for cards.
fn with_kernels(world: &World<'_>) -> Result<PathBuf> {
    let nvcc = nvcc::ensure(world.progress)?;
    let mut build = cargo(&["build", "--release", "--quiet", "--locked"]);
    build.args(["--package", "plimsoll-sidecar", "--features", "cuda"]);
    process::shown(build.env("PLIMSOLL_NVCC", &nvcc))?;
    // The next build without the feature puts its own program in that place.
    let kept = build::target().join("plimsoll-sidecar-cuda");
    fs::copy(build::target().join("release/plimsoll-sidecar"), &kept)?;
    Ok(kept)
}

#[expect(clippy::cast_precision_loss, reason = "a size with one decimal")]
fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
