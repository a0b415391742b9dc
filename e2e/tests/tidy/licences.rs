//! Licences of all dependencies against the list in `deny.toml`.

use std::collections::BTreeSet;

use crate::tree::{list, metadata, read, root, text};

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
