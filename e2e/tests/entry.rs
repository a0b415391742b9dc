//! `e2e/run` and the program behind it, as a user starts them: what they say when they cannot go on.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder with a `cargo` that only says that it was called, and a `rustc` of some version.
fn toolchain(version: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("rust-{version}"));
    let said = format!("echo 'rustc {version} (0123456 2026-01-01)'");
    fs::create_dir_all(&folder).expect("a folder for the toolchain");
    for (name, script) in [
        ("rustc", said.as_str()),
        ("cargo", "echo called >&2; exit 9"),
    ] {
        let file = folder.join(name);
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("a script");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("it may be run");
    }
    folder
}

/// `bash e2e/run test list` with that toolchain in front.
fn run_with(version: &str) -> Output {
    let path = std::env::var("PATH").expect("a search path");
    Command::new("bash")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/run"))
        .args(["test", "list"])
        .env("PATH", format!("{}:{path}", toolchain(version).display()))
        .output()
        .expect("bash runs")
}

fn program(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll-e2e"));
    command.args(words).output().expect("the program runs")
}

#[test]
fn an_old_rust_is_named_with_both_versions_before_cargo_is_asked() {
    for version in ["1.63.0", "1.94.1", "1.9.0", "1.94.0-nightly"] {
        let ended = run_with(version);
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{version}: {said}");
        assert!(!said.contains("called"), "{version}: {said}");
        for part in [version, env!("CARGO_PKG_RUST_VERSION"), "rustup"] {
            assert!(said.contains(part), "{version}: no {part} in {said}");
        }
    }
}

#[test]
fn a_rust_that_will_do_goes_on_to_cargo() {
    let oldest = env!("CARGO_PKG_RUST_VERSION");
    for version in [oldest, &format!("{oldest}.0"), "1.1000.2", "2.0.0-beta.1"] {
        let ended = run_with(version);
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(said.contains("called"), "{version}: {said}");
        assert_eq!(
            ended.status.code(),
            Some(9),
            "cargo's own failure is the run's: {said}"
        );
    }
}

#[test]
fn an_unknown_group_is_an_error_and_runs_nothing() {
    let ended = program(&["test", "unit", "no-such-group"]);
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(!ended.status.success(), "{said}");
    assert!(
        said.contains("no-such-group") && said.contains("test list"),
        "{said}"
    );
    assert!(
        !said.contains("passed"),
        "the known group ran first: {said}"
    );
}

#[test]
fn every_group_is_listed_with_its_tests() {
    let ended = program(&["test", "list"]);
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{said}");
    for group in ["unit", "cluster", "serve", "reconcile", "faults", "rest"] {
        let mut lines = said.lines().skip_while(|line| !line.starts_with(group));
        assert!(lines.next().is_some(), "no group {group}: {said}");
        let first = lines.next().unwrap_or_default();
        assert!(first.starts_with("      "), "{group} has no test: {said}");
    }
}
