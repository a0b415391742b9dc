//! The Go compiler: which of the installed ones is used, and what to do when none is new enough.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::process;

/// From this one on, Go fetches by itself the version that a module asks for.
const OLDEST: Version = Version(1, 21);
/// Where Go lies when it is not on the search path.
const KNOWN: [&str; 2] = ["/usr/local/go/bin/go", "/usr/lib/go/bin/go"];

/// A Go release: `go1.26.8` is (1, 26).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.0, self.1)
    }
}

/// The Go command, new enough to read our modules.
pub(crate) fn go() -> Result<Command> {
    let mut installed = Vec::new();
    for program in process::all("go").into_iter().chain(KNOWN.map(Into::into)) {
        if program.is_file() && !installed.iter().any(|(known, _)| *known == program) {
            let version = version_of(&program);
            installed.push((program, version));
        }
    }
    choose(&installed).map(Command::new)
}

/// Whether Debian's own package is new enough, by what apt knows of it.
pub(crate) fn debian_is_new_enough() -> bool {
    let policy =
        process::stdout_of(&mut process::command("apt-cache", ["policy", "golang-go"])).ok();
    policy
        .as_deref()
        .and_then(candidate)
        .is_some_and(|version| version >= OLDEST)
}

/// The first that will do; else what was found, what is needed, and the way out.
fn choose(installed: &[(PathBuf, Option<Version>)]) -> Result<&Path> {
    let will_do = installed
        .iter()
        .find(|(_, version)| version.is_some_and(|version| version >= OLDEST));
    if let Some((program, _)) = will_do {
        return Ok(program);
    }
    let found: Vec<String> = installed
        .iter()
        .map(|(program, version)| match version {
            Some(version) => format!("{} is {version}", program.display()),
            None => format!("{} does not say its version", program.display()),
        })
        .collect();
    let found = if found.is_empty() {
        "none is installed".to_owned()
    } else {
        found.join(", ")
    };
    bail!(
        "Go {OLDEST} or newer is needed: it builds the test cluster's programs, and fetches by \
         itself the version that their modules ask for. Found: {found}. Debian 12's golang-go is \
         1.19: unpack one of https://go.dev/dl into /usr/local/go, where it is looked for too, \
         then run this again"
    )
}

/// What the program says from outside any module: inside one it may speak of a fetched version.
fn version_of(program: &Path) -> Option<Version> {
    let mut ask = process::command(program, ["version"]);
    let said = process::stdout_of(ask.current_dir("/").env("GOTOOLCHAIN", "local")).ok()?;
    read(&said)
}

/// `go version go1.26.8 linux/amd64`
fn read(said: &str) -> Option<Version> {
    let numbers = said
        .split_whitespace()
        .find_map(|word| word.strip_prefix("go1."))?;
    let minor: String = numbers.chars().take_while(char::is_ascii_digit).collect();
    Some(Version(1, minor.parse().ok()?))
}

/// The version in `  Candidate: 2:1.19~1` of `apt-cache policy`.
fn candidate(policy: &str) -> Option<Version> {
    let line = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    let upstream = line.split_once(':').map_or(line, |(_, version)| version);
    let (major, rest) = upstream.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some(Version(major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_go_and_apt_say() {
        assert_eq!(
            read("go version go1.26.8 linux/amd64"),
            Some(Version(1, 26))
        );
        assert_eq!(
            read("go version go1.21rc2 linux/arm64"),
            Some(Version(1, 21))
        );
        assert_eq!(
            read("go version devel go1.24-5c0d a b"),
            Some(Version(1, 24))
        );
        assert_eq!(read("no go here"), None);
        let policy = "golang-go:\n  Installed: (none)\n  Candidate: 2:1.19~1\n  Version table:\n";
        assert_eq!(candidate(policy), Some(Version(1, 19)));
        assert_eq!(candidate("  Candidate: (none)"), None);
        assert_eq!(candidate(""), None);
    }

    #[test]
    fn an_old_compiler_is_named_with_both_versions_and_a_newer_one_behind_it_is_used() {
        let old = (PathBuf::from("/usr/bin/go"), Some(Version(1, 19)));
        let mute = (PathBuf::from("/opt/go"), None);
        let refused = choose(&[old.clone(), mute.clone()])
            .unwrap_err()
            .to_string();
        for part in [
            "Go 1.21",
            "/usr/bin/go is 1.19",
            "/opt/go does not say",
            "go.dev/dl",
        ] {
            assert!(refused.contains(part), "{part}: {refused}");
        }
        let new = (PathBuf::from("/usr/local/go/bin/go"), Some(Version(1, 21)));
        let installed = [old, mute, new];
        assert_eq!(
            choose(&installed).unwrap(),
            Path::new("/usr/local/go/bin/go")
        );
        let none = choose(&[]).unwrap_err().to_string();
        assert!(none.contains("none is installed"), "{none}");
    }
}
