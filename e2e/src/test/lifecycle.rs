//! The cluster itself: up and down, after a crash, after Ctrl-C; the machine is as it was before.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::cluster::{cgroup, cleanup, records, sysctls};
use crate::process;
use crate::session::Session;
use crate::test::world::World;
use crate::test::{Group, Passed, expect, test};
use crate::wait;

pub(super) const GROUP: Group = Group {
    name: "cluster",
    about: "the test cluster comes, works, and goes without a trace",
    tests: &[
        test(
            "a pod runs, and after down the machine is as before",
            no_trace,
        ),
        test("Ctrl-C in the middle of up leaves nothing", interrupted),
        test("a second up cleans up after a crash", after_a_crash),
        test(
            "down after a crash leaves nothing, and may be called again",
            down_after_a_crash,
        ),
    ],
};

/// The machine without a cluster, after everything that a cluster needs was installed and built:
/// what setup brings stays.
fn bare_machine(world: &World<'_>) -> Result<Snapshot> {
    world.end()?;
    world.tools()?;
    Snapshot::take()
}

fn no_trace(world: &World<'_>) -> Passed {
    let before = bare_machine(world)?;
    let session = Session::begin(world.progress, world.tools()?, 2)?;
    run_pods(&session)?;
    session.end()?;
    before.expect_same()?;
    Ok(1)
}

fn interrupted(world: &World<'_>) -> Passed {
    let before = bare_machine(world)?;
    let mut up = start("up")?;
    await_started(&mut up, 3)?;
    kill(&up, Signal::INT)?;
    let status = process::wait(&mut up)?;
    expect(!status.success(), || {
        "an interrupted up says that it succeeded".to_owned()
    })?;
    before.expect_same()?;
    Ok(1)
}

fn after_a_crash(world: &World<'_>) -> Passed {
    let before = bare_machine(world)?;
    crash_half_way()?;
    let session = Session::begin(world.progress, world.tools()?, 1)?;
    run_pods(&session)?;
    session.end()?;
    before.expect_same()?;
    Ok(1)
}

fn down_after_a_crash(world: &World<'_>) -> Passed {
    let before = bare_machine(world)?;
    crash_half_way()?;
    for _ in 0..2 {
        let status = process::wait(&mut start("down")?)?;
        expect(status.success(), || format!("down ended with {status}"))?;
        before.expect_same()?;
    }
    Ok(2)
}

/// Kills an `up` when nodes have namespaces and a containerd, and nothing is ready.
fn crash_half_way() -> Result<()> {
    let mut up = start("up")?;
    await_started(&mut up, 6)?;
    up.kill()?;
    up.wait()?;
    expect(cleanup::is_anything_left(), || {
        "the crash left nothing to clean up".to_owned()
    })
}

/// One pod on every node, told apart by its host name, and one that the default level refuses.
fn run_pods(session: &Session) -> Result<()> {
    let kubernetes = session.cluster().kubernetes();
    for node in session.cluster().nodes() {
        let name = format!("on-{}", node.name());
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {
                "nodeName": node.name(),
                "containers": [{
                    "name": "pause",
                    "image": "localhost/pause:1",
                    "imagePullPolicy": "Never",
                    "resources": {"limits": {"memory": "32Mi"}},
                }],
            },
        });
        kubernetes.kubectl.apply(&pod.to_string())?;
        let pod = format!("pod/{name}");
        kubernetes
            .kubectl
            .run(&["wait", "--for=condition=Ready", "--timeout=60s", &pod])?;
    }
    Ok(())
}

/// Another run of this program: `up` or `down`.
fn start(command: &str) -> Result<Child> {
    // By the name it was called by: a build during this run may have replaced the file, and then
    // the kernel calls the running program's path deleted.
    let program = std::env::args_os().next().context("no program name")?;
    let mut run = process::command(program, [command]);
    // What the environment names is never used: a cluster of the user's must be safe from us.
    run.env("KUBECONFIG", "/nonexistent/kubeconfig");
    let child = run.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    child.with_context(|| format!("cannot start e2e {command}"))
}

/// Waits until a run in the background has started that many processes.
fn await_started(up: &mut Child, count: usize) -> Result<()> {
    let what = format!("up has started {count} processes");
    wait::until(
        &what,
        Duration::from_secs(60),
        Duration::from_millis(2),
        || {
            if let Some(status) = up.try_wait()? {
                bail!("up ended too early: {status}");
            }
            let started = records::processes().len();
            Ok(if started >= count {
                Ok(())
            } else {
                Err(format!("{started} so far"))
            })
        },
    )
}

fn kill(child: &Child, signal: Signal) -> Result<()> {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .context("no process id")?;
    kill_process(pid, signal).context("cannot signal e2e up")
}

/// What of this machine a cluster touches.
#[derive(Debug, PartialEq, Eq)]
struct Snapshot {
    facts: BTreeSet<String>,
}

impl Snapshot {
    fn take() -> Result<Self> {
        let mut facts = BTreeSet::new();
        let mut add = |kind: &str, text: &str| {
            facts.extend(text.lines().map(|line| format!("{kind}: {}", line.trim())));
        };
        for words in [
            &["-o", "link", "show"][..],
            &["-4", "route", "show", "table", "all"],
            &["-o", "addr", "show", "scope", "global"],
            &["netns", "list"],
        ] {
            add(
                "ip",
                &stable(&process::stdout_of(&mut process::command("ip", words))?),
            );
        }
        let rules = process::stdout_of(&mut process::command("iptables-save", [""; 0]))?;
        let rules = rules.lines().filter(|line| line.starts_with('-'));
        add("iptables", &rules.collect::<Vec<_>>().join("\n"));
        add("mount", &fs::read_to_string("/proc/mounts")?);
        add("sysctl", &sysctls::snapshot());
        add(
            "ip_forward",
            &fs::read_to_string("/proc/sys/net/ipv4/ip_forward")?,
        );
        for folder in cgroup::folders()? {
            add("cgroup", &folder.to_string_lossy());
        }
        for process in cleanup::unrecorded() {
            add("process", &process.pid.to_string());
        }
        for folder in ["/var/lib", "/var/log", "/run", "/opt", "/etc", "/dev/shm"] {
            add("folder", &entries(Path::new(folder)));
        }
        Ok(Self { facts })
    }

    /// Fails with what came and what went.
    fn expect_same(&self) -> Result<()> {
        let now = Self::take()?;
        let came: Vec<_> = now.facts.difference(&self.facts).collect();
        let went: Vec<_> = self.facts.difference(&now.facts).collect();
        if !came.is_empty() || !went.is_empty() {
            bail!("the machine is not as before: new {came:#?}, gone {went:#?}");
        }
        Ok(())
    }
}

/// `ip` numbers links; the numbers move, the links must not.
fn stable(text: &str) -> String {
    let lines = text.lines().map(|line| match line.split_once(": ") {
        Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn entries(folder: &Path) -> String {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    names
        .map(|entry| format!("{}\n", entry.path().display()))
        .collect()
}
