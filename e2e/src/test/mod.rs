//! Every test of the project, by group. A group that cannot run has failed; nothing is skipped.

mod api;
mod bad_models;
mod chart;
mod cuda;
mod engine;
mod faults;
mod figures;
mod lifecycle;
mod observe;
mod reconcile;
mod refusal;
mod rest;
mod serve;
mod sources;
mod tiny;
mod unit;
mod world;

use std::time::Instant;

use anyhow::{Result, bail};

use crate::diagnose;
use crate::interrupt;
use crate::progress::Progress;
use crate::test::world::World;

/// What a test answers: how many checks passed, one unless it ran many.
type Passed = Result<u32>;

/// One test: the claim it proves, and the proof.
struct Test {
    name: &'static str,
    prove: fn(&World<'_>) -> Passed,
}

/// The claim, and the function that proves it.
const fn test(name: &'static str, prove: fn(&World<'_>) -> Passed) -> Test {
    Test { name, prove }
}

/// Tests that share what they need.
struct Group {
    name: &'static str,
    about: &'static str,
    tests: &'static [Test],
}

const GROUPS: [&Group; 10] = [
    &unit::GROUP,
    &engine::GROUP,
    &cuda::GROUP,
    &lifecycle::GROUP,
    &api::GROUP,
    &serve::GROUP,
    &reconcile::GROUP,
    &bad_models::GROUP,
    &faults::GROUP,
    &rest::GROUP,
];

/// Runs the named groups, or all; the last line says how many tests passed and failed.
pub(crate) fn run(progress: &Progress, names: &[String]) -> Result<bool> {
    if names.iter().any(|name| name == "list") {
        list();
        return Ok(true);
    }
    for name in names {
        if !GROUPS.iter().any(|group| group.name == name) {
            bail!("no test group is called {name:?}; `e2e/run test list` names them");
        }
    }
    let world = World::new(progress);
    let (mut passed, mut failed) = (0, Vec::new());
    for group in GROUPS {
        if !names.is_empty() && !names.iter().any(|name| name == group.name) {
            continue;
        }
        let label = format!("group {}: {}", group.name, group.about);
        progress.step(&label, || {
            for test in group.tests {
                match run_one(&world, group, test) {
                    Ok(count) => passed += count,
                    Err(_) => failed.push(format!("{}: {}", group.name, test.name)),
                }
                interrupt::check()?;
            }
            Ok(())
        })?;
    }
    if let Err(error) = world.end() {
        println!("FAILED  the cluster goes down without a trace: {error:#}");
        failed.push("the cluster goes down without a trace".to_owned());
    }
    progress.table();
    for name in &failed {
        println!("failed: {name}");
    }
    println!("\n{passed} passed, {} failed", failed.len());
    Ok(failed.is_empty())
}

fn run_one(world: &World<'_>, group: &Group, test: &Test) -> Passed {
    let began = Instant::now();
    let result = world.progress.step(test.name, || (test.prove)(world));
    let took = began.elapsed().as_secs_f64();
    match &result {
        Ok(1) => println!("ok      {}: {} ({took:.1} s)", group.name, test.name),
        Ok(count) => println!(
            "ok      {}: {} ({count} checks, {took:.1} s)",
            group.name, test.name
        ),
        Err(error) => {
            println!(
                "FAILED  {}: {} ({took:.1} s)\n{error:#}",
                group.name, test.name
            );
            if interrupt::check().is_ok()
                && let Some((kubernetes, namespaces)) = world.to_diagnose()
            {
                let namespaces: Vec<&str> = namespaces.iter().map(String::as_str).collect();
                diagnose::print(&kubernetes, &namespaces);
            }
        }
    }
    world.forget_namespaces();
    result
}

fn list() {
    for group in GROUPS {
        println!("{:<12} {}", group.name, group.about);
        for test in group.tests {
            println!("{:<12}   {}", "", test.name);
        }
    }
}

/// Fails with both sides when they differ.
fn expect_eq<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, wanted: &T) -> Result<()> {
    if found != wanted {
        bail!("{what}: found {found:?}, wanted {wanted:?}");
    }
    Ok(())
}

/// Fails with `what` when a claim does not hold.
fn expect(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if !holds {
        bail!("{}", what());
    }
    Ok(())
}
