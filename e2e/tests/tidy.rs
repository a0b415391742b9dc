//! The rules of the repository that a machine can check: who imports whom, what a file may hold,
//! under which licences the dependencies come. Needs no cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Workspace crates that each crate may depend on.
const IMPORTS: [(&str, &[&str]); 6] = [
    ("plimsoll-planner", &[]),
    ("plimsoll-crds", &["plimsoll-planner"]),
    ("plimsoll-kernels", &["plimsoll-planner"]),
    ("plimsoll-operator", &["plimsoll-crds", "plimsoll-planner"]),
    (
        "plimsoll-sidecar",
        &["plimsoll-crds", "plimsoll-planner", "plimsoll-kernels"],
    ),
    ("plimsoll-e2e", &["plimsoll-crds"]),
];

const MOST_LINES: usize = 400;

/// Names that say nothing about what a file owns.
const EMPTY_NAMES: [&str; 4] = ["utils", "common", "helpers", "manager"];

/// Where types may be written as JSON: the API, and the sidecar's answers.
const JSON_WRITERS: [&str; 2] = ["crds/", "sidecar/src/http/types"];
/// Files that read JSON which others define.
const JSON_READERS: [&str; 2] = [
    // config.json, generation_config.json, model.safetensors.index.json
    "sidecar/src/weights/folder.rs",
    // the header of a safetensors file
    "sidecar/src/weights/safetensors.rs",
];

#[test]
fn crates_import_only_what_they_may() {
    let metadata = metadata();
    let mut seen = BTreeSet::new();
    for package in members(&metadata) {
        let name = text(package, "name");
        let Some((_, allowed)) = IMPORTS.iter().find(|(member, _)| *member == name) else {
            panic!("{name} is a new crate: say in IMPORTS what it may depend on");
        };
        seen.insert(name.to_owned());
        for dependency in list(package, "dependencies") {
            let on = text(dependency, "name");
            let ours = on.starts_with("plimsoll-");
            assert!(
                !ours || allowed.contains(&on),
                "{name} may not depend on {on}"
            );
            let shipped = dependency["kind"].is_null();
            assert!(
                name != "plimsoll-planner" || !shipped,
                "the planner depends on std alone, not on {on}"
            );
        }
    }
    assert_eq!(
        seen.len(),
        IMPORTS.len(),
        "a crate of IMPORTS is gone: {seen:?}"
    );
}

#[test]
fn the_operator_never_sees_a_device() {
    let metadata = metadata();
    let names: BTreeMap<&str, &str> = list(&metadata, "packages")
        .map(|p| (text(p, "id"), text(p, "name")))
        .collect();
    let nodes: BTreeMap<&str, &Value> = list(&metadata["resolve"], "nodes")
        .map(|node| (text(node, "id"), node))
        .collect();
    let operator = names.iter().find(|(_, name)| **name == "plimsoll-operator");
    let mut open = vec![*operator.expect("the operator").0];
    let mut tree = BTreeSet::new();
    while let Some(id) = open.pop() {
        if tree.insert(id) {
            open.extend(list(nodes[id], "dependencies").filter_map(Value::as_str));
        }
    }
    assert!(
        tree.len() > 50,
        "a tree of {} crates is not the operator's",
        tree.len()
    );
    for id in tree {
        let name = names[id];
        let device = ["cudarc", "plimsoll-kernels", "plimsoll-sidecar"].contains(&name);
        assert!(!device, "{name} is in the operator's tree");
    }
}

#[test]
fn every_licence_is_allowed() {
    let allowed = allowed_licences();
    assert!(
        allowed.contains("Apache-2.0"),
        "deny.toml: no list of licences in {allowed:?}"
    );
    let metadata = metadata();
    for package in list(&metadata, "packages") {
        let name = text(package, "name");
        let licence = package["license"].as_str().unwrap_or("none");
        assert!(
            permits(licence, &allowed),
            "{name}: {licence} is not in deny.toml"
        );
    }
    assert!(read(&root().join("LICENSE")).contains("Apache License"));
}

#[test]
fn licence_expressions_are_read_as_written() {
    let allowed = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]
        .map(str::to_owned)
        .into();
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT OR GPL-3.0", true),
        ("GPL-3.0/MIT", true),
        ("MIT AND GPL-3.0", false),
        ("MIT AND ISC", true),
        ("(GPL-3.0 OR MIT) AND ISC", true),
        ("GPL-3.0 OR MIT AND BSL-1.0", false),
        ("Apache-2.0", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("none", false),
        ("", false),
    ] {
        assert_eq!(permits(expression, &allowed), expected, "{expression:?}");
    }
}

#[test]
fn dependencies_come_from_one_registry() {
    let lock = read(&root().join("Cargo.lock"));
    let sources: BTreeSet<&str> = lock
        .lines()
        .filter_map(|line| line.strip_prefix("source = "))
        .collect();
    let index = "\"registry+https://github.com/rust-lang/crates.io-index\"";
    assert_eq!(sources.into_iter().collect::<Vec<_>>(), [index]);
}

#[test]
fn every_file_says_what_it_owns_and_ends_in_time() {
    let mut wrong = Vec::new();
    for (path, text) in rust_files() {
        let first = text
            .lines()
            .find(|line| !line.trim().is_empty())
            .unwrap_or_default();
        if !first.starts_with("//!") {
            wrong.push(format!("{path}: opens with {first:?}, not with //!"));
        }
        let lines = text.lines().count();
        if lines > MOST_LINES {
            wrong.push(format!("{path}: {lines} lines, {MOST_LINES} at most"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_in_the_kernels_alone() {
    let marks = ["{", "fn", "impl", "extern", "trait"].map(|next| format!("unsafe {next}"));
    let outside = |path: &str| !path.starts_with("kernels/") && path != "e2e/tests/tidy.rs";
    for (path, text) in rust_files().into_iter().filter(|(path, _)| outside(path)) {
        for line in text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
        {
            let found = marks.iter().any(|mark| line.contains(mark.as_str()));
            assert!(!found, "{path}: unsafe code outside kernels: {line}");
            let opened = line.contains("allow(unsafe_code") || line.contains("expect(unsafe_code");
            assert!(!opened, "{path}: {line}");
        }
    }
}

#[test]
fn names_say_what_a_file_owns() {
    for (path, _) in rust_files() {
        let parts = Path::new(&path).with_extension("");
        for part in parts.iter().filter_map(|part| part.to_str()) {
            assert!(!EMPTY_NAMES.contains(&part), "{path}: {part} says nothing");
        }
    }
}

#[test]
fn json_types_are_derived_where_the_api_is() {
    let mut wrong = Vec::new();
    for (path, text) in rust_files() {
        let writer = JSON_WRITERS.iter().any(|prefix| path.starts_with(prefix));
        let test = path.contains("/tests/") || path.ends_with("/tests.rs");
        if writer || test {
            continue;
        }
        let derived: Vec<&str> = text
            .split("derive(")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
            .flat_map(|names| names.split(','))
            .map(|name| name.trim().rsplit(':').next().unwrap_or_default())
            .filter(|name| ["Serialize", "Deserialize", "JsonSchema"].contains(name))
            .collect();
        let reader = JSON_READERS.contains(&path.as_str());
        if derived.iter().any(|name| !reader || *name != "Deserialize") {
            wrong.push(format!("{path}: derives {derived:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Hosts that packages come from are a machine's setting, and so are its folders.
#[test]
fn no_file_names_a_registry_or_a_machine() {
    let hosts = [
        "crates.io",
        "pypi.org",
        "pythonhosted.org",
        "proxy.golang.org",
        "npmjs.org",
    ];
    let images = [
        "docker.io",
        "quay.io",
        "ghcr.io",
        "gcr.io",
        "registry.k8s.io",
    ];
    let folders = ["work", "root", "tmp/w"].map(|folder| format!("/{folder}/"));
    let mut wrong = Vec::new();
    for (path, text) in text_files() {
        // The lock files name where a package came from; this one names what is looked for.
        if path.ends_with(".lock") || path.ends_with("go.sum") || path == "e2e/tests/tidy.rs" {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let host = hosts
                .iter()
                .chain(&images)
                .find(|host| line.contains(**host));
            let folder = folders.iter().find(|folder| starts_a_path(line, folder));
            if host.is_some() || folder.is_some() {
                wrong.push(format!("{path}:{}: {line}", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Does `folder` stand in `line` as the start of a path?
fn starts_a_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && !"._-}*)".contains(c))
    })
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("e2e lies in the root")
        .to_path_buf()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What cargo knows of the workspace and its dependencies on this platform.
fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
            &target,
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata: {errors}");
    serde_json::from_slice(&output.stdout).expect("cargo metadata answers in JSON")
}

fn members(metadata: &Value) -> impl Iterator<Item = &Value> {
    let members: BTreeSet<&str> = list(metadata, "workspace_members")
        .filter_map(Value::as_str)
        .collect();
    list(metadata, "packages").filter(move |package| members.contains(text(package, "id")))
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    let entries = value[key].as_array();
    entries
        .unwrap_or_else(|| panic!("cargo metadata has no list {key}"))
        .iter()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("cargo metadata has no text {key}"))
}

/// The licences of `deny.toml`: the lines of its one list named `allow`.
fn allowed_licences() -> BTreeSet<String> {
    let deny = read(&root().join("deny.toml"));
    let (_, list) = deny
        .split_once("allow = [")
        .expect("deny.toml: a list named allow");
    let (list, _) = list.split_once(']').expect("deny.toml: the list's end");
    list.lines()
        .map(|line| line.trim().trim_matches([',', '"']))
        .filter(|l| !l.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Does an SPDX expression allow what `allowed` lists? `AND` binds tighter than `OR`; the old `/`
/// means `OR`.
fn permits(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let permitted = any_of(&mut rest, allowed);
    permitted && rest.is_empty()
}

fn any_of(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut permitted = all_of(words, allowed);
    while let ["OR", rest @ ..] = *words {
        *words = rest;
        permitted |= all_of(words, allowed);
    }
    permitted
}

fn all_of(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut permitted = licence(words, allowed);
    while let ["AND", rest @ ..] = *words {
        *words = rest;
        permitted &= licence(words, allowed);
    }
    permitted
}

fn licence(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    match *words {
        ["(", rest @ ..] => {
            *words = rest;
            let permitted = any_of(words, allowed);
            let closed = matches!(*words, [")", ..]);
            *words = words.get(1..).unwrap_or_default();
            permitted && closed
        }
        [name, "WITH", exception, rest @ ..] => {
            *words = rest;
            allowed.contains(&format!("{name} WITH {exception}"))
        }
        [name, rest @ ..] => {
            *words = rest;
            allowed.contains(*name)
        }
        [] => false,
    }
}

/// Path from the root, and text, of every Rust file.
fn rust_files() -> Vec<(String, String)> {
    let files: Vec<_> = text_files()
        .into_iter()
        .filter(|(path, _)| path.ends_with(".rs"))
        .collect();
    assert!(
        files.len() > 50,
        "{} Rust files are not this repository",
        files.len()
    );
    files
}

/// Path from the root, and text, of every file that is text; what git ignores is left out.
fn text_files() -> Vec<(String, String)> {
    const IGNORED: [&str; 4] = ["target", ".git", ".cache", "__pycache__"];
    let root = root();
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the repository") {
            let path = entry.expect("an entry of a folder").path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if IGNORED.contains(&name) || name.ends_with(".log") || path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let path = path.strip_prefix(&root).expect("below the root");
                files.push((path.to_string_lossy().into_owned(), text));
            }
        }
    }
    files.sort();
    files
}
