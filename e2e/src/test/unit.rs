//! What needs no cluster: format, lints, every crate's own tests, each crate alone, generated files.

use std::fs;

use anyhow::{Result, bail};

use crate::build::{self, cargo};
use crate::process;
use crate::test::world::World;
use crate::test::{Group, Passed, test};

pub(super) const GROUP: Group = Group {
    name: "unit",
    about: "format, lints, the tests of every crate, each crate alone",
    tests: &[
        test("the code is formatted", formatted),
        test("clippy has nothing to say", linted),
        test("every crate builds alone", alone),
        test("the tests of the workspace pass", workspace),
        test(
            "the generated files are what the generator writes",
            generated,
        ),
    ],
};

const CRATES: [&str; 6] = [
    "plimsoll-planner",
    "plimsoll-crds",
    "plimsoll-kernels",
    "plimsoll-operator",
    "plimsoll-sidecar",
    "plimsoll-e2e",
];

fn formatted(_: &World<'_>) -> Passed {
    process::stdout_of(&mut cargo(&["fmt", "--all", "--check"]))?;
    Ok(1)
}

fn linted(_: &World<'_>) -> Passed {
    let words = [
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ];
    process::stdout_of(&mut cargo(&words))?;
    Ok(1)
}

fn alone(_: &World<'_>) -> Passed {
    for name in CRATES {
        process::stdout_of(&mut cargo(&[
            "check",
            "--quiet",
            "--locked",
            "--package",
            name,
        ]))?;
    }
    Ok(u32::try_from(CRATES.len())?)
}

fn workspace(_: &World<'_>) -> Passed {
    run_tests(&["--workspace"], &[])
}

/// Generates into a scratch folder and compares: the committed files are never touched.
fn generated(_: &World<'_>) -> Passed {
    let scratch = build::target().join("generated");
    let repository = crate::paths::repository();
    let _ = fs::remove_dir_all(&scratch);
    for folder in ["charts/plimsoll/templates", "crds"] {
        fs::create_dir_all(scratch.join(folder))?;
    }
    let mut generate = build::crdgen()?;
    generate.arg("write").arg(&scratch);
    let written = process::stdout_of(&mut generate)?;
    let mut count = 0;
    for path in written.lines() {
        let (fresh, committed) = (
            fs::read(scratch.join(path))?,
            fs::read(repository.join(path)).unwrap_or_default(),
        );
        if fresh != committed {
            bail!("{path} is stale: `bash e2e/run generate` writes it");
        }
        count += 1;
    }
    let _ = fs::remove_dir_all(&scratch);
    Ok(count)
}

/// `cargo test` with these words; the tests it ran are counted one by one.
pub(super) fn run_tests(words: &[&str], environment: &[(&str, &str)]) -> Result<u32> {
    let mut command = cargo(&["test", "--no-fail-fast", "--locked"]);
    command.args(words).envs(environment.iter().copied());
    let ended = process::outcome(&mut command, None)?;
    let (passed, failed) = count(&ended.stdout);
    if !ended.status.success() {
        let failures: Vec<&str> = failures(&ended.stdout).collect();
        bail!(
            "{passed} passed, {failed} failed\n{}\n{}",
            failures.join("\n"),
            process::tail(&ended.stderr, 20)
        );
    }
    if passed == 0 {
        bail!("cargo test {} ran no test", words.join(" "));
    }
    Ok(passed)
}

/// Sums `test result: ok. 12 passed; 0 failed; …`.
fn count(output: &str) -> (u32, u32) {
    let number = |line: &str, word: &str| -> u32 {
        let before = line.split(word).next().unwrap_or_default();
        before
            .split_whitespace()
            .last()
            .and_then(|digits| digits.parse().ok())
            .unwrap_or(0)
    };
    output
        .lines()
        .filter(|line| line.starts_with("test result:"))
        .fold((0, 0), |sum, line| {
            (
                sum.0 + number(line, " passed"),
                sum.1 + number(line, " failed"),
            )
        })
}

/// What failing tests printed, bounded.
fn failures(output: &str) -> impl Iterator<Item = &str> {
    const MOST_LINES: usize = 120;
    output
        .lines()
        .skip_while(|line| *line != "failures:")
        .take(MOST_LINES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_binaries_are_summed() {
        let output = "running 3 tests\n\
            test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n\
            test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured\n";
        assert_eq!(count(output), (14, 3));
        assert_eq!(count(""), (0, 0));
    }
}
