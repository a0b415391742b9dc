//! The parts that come from the distribution: what is missing, why it is needed, installing it.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::process;
use crate::progress::Progress;
use crate::tools::compiler;

struct Need {
    /// A program's name, or a file's full path.
    proof: &'static str,
    package: &'static str,
    why: &'static str,
}

const NEEDS: [Need; 13] = [
    Need {
        proof: "runc",
        package: "runc",
        why: "starts containers",
    },
    Need {
        proof: "/usr/lib/cni/bridge",
        package: "containernetworking-plugins",
        why: "gives pods their network",
    },
    Need {
        proof: "iptables",
        package: "iptables",
        why: "kube-proxy writes service rules with it",
    },
    Need {
        proof: "conntrack",
        package: "conntrack",
        why: "kube-proxy clears old flows with it",
    },
    Need {
        proof: "ip",
        package: "iproute2",
        why: "makes the test bridge and the nodes' links",
    },
    Need {
        proof: "openssl",
        package: "openssl",
        why: "makes the cluster's certificates",
    },
    Need {
        proof: "nsenter",
        package: "util-linux",
        why: "enters a node's namespaces",
    },
    Need {
        proof: "mount",
        package: "mount",
        why: "gives a node its own folders",
    },
    Need {
        proof: "cc",
        package: "gcc",
        why: "links the Rust programs",
    },
    Need {
        proof: "g++",
        package: "g++",
        why: "compiles the CUDA kernels for the emulator, and preprocesses them for nvcc",
    },
    Need {
        proof: "python3",
        package: "python3",
        why: "runs the official OpenAI client",
    },
    Need {
        proof: "curl",
        package: "curl",
        why: "asks what `demo --keep` leaves up",
    },
    Need {
        proof: "/etc/ssl/certs/ca-certificates.crt",
        package: "ca-certificates",
        why: "lets pip and go download",
    },
];

/// Installs what is missing; without root or apt it prints the exact list and stops.
pub(crate) fn ensure(progress: &Progress) -> Result<()> {
    let mut missing: Vec<(&str, &str)> = NEEDS
        .iter()
        .filter(|need| !is_there(need.proof))
        .map(|need| (need.package, need.why))
        .collect();
    if is_there("python3") && !python_makes_environments() {
        missing.push((
            "python3-venv",
            "keeps the Python packages of the demo apart",
        ));
    }
    if let Err(none) = compiler::go() {
        if !offers_go(progress)? {
            // Said before anything is installed: only the user can do this part.
            return Err(none);
        }
        missing.push(("golang-go", "builds Kubernetes and containerd"));
    }
    if missing.is_empty() {
        return Ok(());
    }
    progress.say("setup: missing from this machine");
    for (package, why) in &missing {
        println!("             {package:<28} {why}");
    }
    let packages: Vec<&str> = missing.iter().map(|(package, _)| *package).collect();
    if !is_root() || !is_there("apt-get") {
        bail!(
            "install these first (on Debian 12: apt-get install --yes {}), then run setup again",
            packages.join(" ")
        );
    }
    progress.step(
        &format!("setup: apt-get install {}", packages.join(" ")),
        || {
            refresh();
            let mut install = vec!["install", "--yes", "--no-install-recommends"];
            install.extend(&packages);
            process::stdout_of(&mut apt(&install)).map(drop)
        },
    )
}

/// Whether the distribution has a Go that will do; a fresh machine's index is fetched first.
fn offers_go(progress: &Progress) -> Result<bool> {
    if is_root() && is_there("apt-get") {
        progress.step("setup: apt-get update, to see which Go there is", || {
            refresh();
            Ok(())
        })?;
    }
    Ok(compiler::debian_is_new_enough())
}

/// An index that cannot be refreshed may still serve what is asked for.
fn refresh() {
    let _ = process::stdout_of(&mut apt(&["update"]));
}

/// The packages the cluster needs beyond a plain Debian, for messages.
pub(crate) fn missing() -> Vec<&'static str> {
    NEEDS
        .iter()
        .filter(|need| !is_there(need.proof))
        .map(|need| need.package)
        .collect()
}

/// Whether this process may do what a cluster needs.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn is_there(proof: &str) -> bool {
    if proof.starts_with('/') {
        Path::new(proof).exists()
    } else {
        process::find(proof).is_some()
    }
}

fn python_makes_environments() -> bool {
    process::stdout_of(&mut process::command(
        "python3",
        ["-c", "import venv, ensurepip"],
    ))
    .is_ok()
}

fn apt(arguments: &[&str]) -> Command {
    let mut command = process::command("apt-get", arguments);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}
