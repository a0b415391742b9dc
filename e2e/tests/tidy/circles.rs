//! No circles: in every folder of a crate, what its files and folders take from each other points
//! one way. A folder's `mod.rs` is its contract, which its children may name; tests may name all.

use std::collections::{BTreeMap, BTreeSet};

/// Crates whose sources are walked.
const CRATES: [&str; 6] = ["planner", "crds", "kernels", "operator", "sidecar", "e2e"];

type Module = Vec<String>;

/// What stands in one folder and takes from what, with a line that shows each arrow.
type Arrows = BTreeMap<(Module, Module), String>;

#[test]
fn folders_take_from_each_other_one_way() {
    let mut wrong = Vec::new();
    for name in CRATES {
        let prefix = format!("{name}/src/");
        let files: Vec<(String, String)> = super::rust_files()
            .into_iter()
            .filter_map(|(path, text)| Some((path.strip_prefix(&prefix)?.to_owned(), text)))
            .collect();
        assert!(files.len() > 5, "{name} has {} files", files.len());
        wrong.extend(
            circles(&files)
                .into_iter()
                .map(|line| format!("{name}: {line}")),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn module_named(path: &str) -> Module {
    path.split("::").map(str::to_owned).collect()
}

/// Arrows that are part of a circle.
fn circles(files: &[(String, String)]) -> Vec<String> {
    let tests = test_modules(files);
    let mut known: BTreeSet<Module> = BTreeSet::new();
    for (path, _) in files {
        let module = module_of(path);
        known.extend((1..=module.len()).map(|len| module[..len].to_vec()));
    }
    let mut arrows = Arrows::new();
    for (path, text) in files {
        let module = module_of(path);
        if (1..=module.len()).any(|len| tests.contains(&module[..len])) {
            continue;
        }
        for line_path in references(&module, &shipped(text)) {
            let shared = module
                .iter()
                .zip(&line_path)
                .take_while(|(a, b)| a == b)
                .count();
            let (Some(_), Some(_)) = (module.get(shared), line_path.get(shared)) else {
                continue;
            };
            let (from, to) = (module[..=shared].to_vec(), line_path[..=shared].to_vec());
            if known.contains(&to) {
                let shown = format!("{path} names {}", line_path.join("::"));
                arrows.entry((from, to)).or_insert(shown);
            }
        }
    }
    let all: BTreeSet<&(Module, Module)> = arrows.keys().collect();
    all.iter()
        .filter(|(from, to)| reaches(&all, to, from))
        .map(|arrow| {
            let (from, to) = (arrow.0.join("::"), arrow.1.join("::"));
            format!("{from} -> {to} is part of a circle: {}", arrows[*arrow])
        })
        .collect()
}

fn reaches(arrows: &BTreeSet<&(Module, Module)>, from: &Module, to: &Module) -> bool {
    let mut open = vec![from];
    let mut seen = BTreeSet::new();
    while let Some(at) = open.pop() {
        if at == to {
            return true;
        }
        if seen.insert(at) {
            open.extend(
                arrows
                    .iter()
                    .filter(|(start, _)| start == at)
                    .map(|(_, end)| end),
            );
        }
    }
    false
}

/// `a/b.rs` and `a/b/mod.rs` are `a::b`.
fn module_of(path: &str) -> Module {
    let mut module = module_named(&path.trim_end_matches(".rs").replace('/', "::"));
    if ["mod", "lib", "main"].contains(&module[module.len() - 1].as_str()) {
        module.pop();
    }
    module
}

/// Modules that are declared under `#[cfg(test)]`.
fn test_modules(files: &[(String, String)]) -> BTreeSet<Module> {
    let mut tests = BTreeSet::new();
    for (path, text) in files {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for pair in lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]") {
            let name = pair[1]
                .split("mod ")
                .nth(1)
                .and_then(|rest| rest.strip_suffix(';'));
            if let Some(name) = name {
                let mut module = module_of(path);
                module.push(name.to_owned());
                tests.insert(module);
            }
        }
    }
    tests
}

/// Without comments, and without the tests at the file's end.
fn shipped(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let is_tests = |pair: &[&str]| {
        pair[0].starts_with("#[cfg(test)]") && pair[1].starts_with("mod ") && pair[1].ends_with('{')
    };
    let end = lines.windows(2).position(is_tests).unwrap_or(lines.len());
    let code = lines[..end]
        .iter()
        .filter(|line| !line.trim_start().starts_with("//"));
    code.copied().collect::<Vec<_>>().join("\n")
}

/// Every path that starts with `crate::` or `super::`, from the crate's root.
fn references(module: &Module, code: &str) -> Vec<Module> {
    let mut found = Vec::new();
    for (at, _) in code
        .match_indices("crate::")
        .chain(code.match_indices("super::"))
    {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let mut rest = &code[at..];
        let mut base = module.clone();
        while let Some(next) = rest.strip_prefix("super::") {
            base.pop();
            rest = next;
        }
        if let Some(next) = rest.strip_prefix("crate::") {
            base.clear();
            rest = next;
        }
        paths(&base, &mut rest, &mut found);
    }
    found
}

/// Reads `a::b`, `a::{b, c::d}` and the like from the front of `rest`.
fn paths(base: &Module, rest: &mut &str, found: &mut Vec<Module>) {
    let mut path = base.clone();
    loop {
        *rest = rest.trim_start();
        if let Some(inside) = rest.strip_prefix('{') {
            *rest = inside;
            loop {
                paths(&path, rest, found);
                // What follows a name up to the next one: `as x`, commas.
                let Some(end) = rest.find([',', '}']) else {
                    return;
                };
                let closed = rest[end..].starts_with('}');
                *rest = &rest[end + 1..];
                if closed {
                    return;
                }
            }
        }
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        if end == 0 {
            break;
        }
        path.push(rest[..end].to_owned());
        *rest = &rest[end..];
        let Some(next) = rest.strip_prefix("::") else {
            break;
        };
        *rest = next;
    }
    found.push(path);
}

#[test]
fn a_planted_circle_is_found() {
    let tree = |files: &[(&str, &str)]| -> Vec<(String, String)> {
        files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
            .collect()
    };
    let found = |files: &[(&str, &str)]| circles(&tree(files));
    // Two folders, by every way of naming.
    for back in [
        "use crate::a::X;",
        "use crate::{c, a::{X, Y}};",
        "use super::super::a::X;",
    ] {
        let files = [
            ("a/mod.rs", "use crate::b::deep::Y;"),
            ("b/deep.rs", back),
            ("c.rs", ""),
        ];
        assert_eq!(found(&files).len(), 2, "{back}");
    }
    // In an expression, over three, and between files of one folder.
    let files = [
        ("a.rs", "fn f() { crate::b::g() }"),
        ("b.rs", "use crate::c;"),
        ("c.rs", "use super::a;"),
    ];
    assert_eq!(found(&files).len(), 3);
    let files = [
        ("op/mod.rs", "mod cpu; mod job; pub struct Shape;"),
        ("op/cpu.rs", "use super::job::Job;"),
        ("op/job.rs", "use super::{Shape, cpu::STEP};"),
    ];
    assert_eq!(found(&files).len(), 2);
    // Not circles: the contract, tests, comments, names that are no modules.
    let files = [
        ("lib.rs", "mod a;\nmod b;\n#[cfg(test)]\nmod story;"),
        (
            "a.rs",
            "use crate::b;\n// crate::story\n#[cfg(test)]\nmod tests {\n use crate::story;\n}",
        ),
        ("b.rs", "/// crate::a\nuse super::{c, Error};"),
        ("story.rs", "use crate::a; use crate::b;"),
    ];
    assert_eq!(found(&files), [""; 0]);
}
