//! The rules of the repository that a machine can check: who imports whom, what a file may hold,
//! under which licences the dependencies come. Needs no cluster.

#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/licences.rs"]
mod licences;
#[path = "tidy/tree.rs"]
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use tree::{list, members, metadata, read, root, rust_files, text, text_files};

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

/// Where types may be written as JSON: the API, the sidecar's answers, the benchmarks' lines.
const JSON_WRITERS: [&str; 3] = ["crds/", "sidecar/src/http/types", "e2e/src/bench/mod.rs"];
/// Files that read JSON which others define.
const JSON_READERS: [&str; 6] = [
    // config.json and its neighbours in a model folder
    "sidecar/src/model/folder.rs",
    // adapter_config.json
    "sidecar/src/adapters/config.rs",
    // model.safetensors.index.json
    "sidecar/src/weights/folder.rs",
    // the header of a safetensors file
    "sidecar/src/weights/header.rs",
    // what the two sides of a benchmark print
    "e2e/src/bench/ours.rs",
    "e2e/src/bench/peer.rs",
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

/// Files and folders that the repository begins with, but for those with a dot, which tools make. A new one is
/// a decision, not an accident.
const TOP_LEVEL: [&str; 17] = [
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "charts",
    "clippy.toml",
    "crds",
    "deny.toml",
    "e2e",
    "examples",
    "kernels",
    "operator",
    "planner",
    "rustfmt.toml",
    "sidecar",
];

#[test]
fn nothing_lies_at_the_top_by_accident() {
    let files = text_files();
    let firsts = files.iter().map(|(path, _)| {
        let first = path.split('/').next();
        first.unwrap_or_default().to_owned()
    });
    let found: BTreeSet<String> = firsts.filter(|name| !name.starts_with('.')).collect();
    let known: BTreeSet<String> = TOP_LEVEL.map(str::to_owned).into_iter().collect();
    let wrong: Vec<&String> = found.difference(&known).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(found.contains("README.md"), "{found:?}");
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
