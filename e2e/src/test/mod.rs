//! Every test of the project, by group. A group that cannot run has failed; nothing is skipped.

mod adapters;
mod admin;
mod api;
mod bad_models;
mod chart;
mod clients;
mod cpus;
mod cuda;
mod definition;
mod drift;
mod engine;
mod faults;
mod figures;
mod foreign;
mod hostile;
mod idle;
mod lifecycle;
mod observe;
mod offload;
mod reconcile;
mod refusal;
mod resize;
mod resize_faults;
mod rest;
mod rights;
mod rollouts;
mod serve;
mod sleep;
mod sleep_asked;
mod smollm2;
mod sources;
mod tiny;
mod trainer;
mod unit;
mod unreached;
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

const GROUPS: &[&Group] = &[
    &unit::GROUP,
    &engine::GROUP,
    &cuda::GROUP,
    &lifecycle::GROUP,
    &api::GROUP,
    &serve::GROUP,
    &reconcile::GROUP,
    &rollouts::GROUP,
    &bad_models::GROUP,
    &foreign::GROUP,
    &faults::GROUP,
    &hostile::GROUP,
    &rights::GROUP,
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
    let chosen = |group: &&&Group| names.is_empty() || names.iter().any(|name| name == group.name);
    let chosen: Vec<&Group> = GROUPS.iter().filter(chosen).copied().collect();
    let world = World::new(progress);
    let mut tally = Tally::default();
    run_groups(&world, &chosen, &mut tally)?;
    if let Err(error) = world.end() {
        println!("FAILED  the cluster goes down without a trace: {error:#}");
        tally.fail("the cluster goes down without a trace".to_owned());
    }
    progress.table();
    for name in &tally.failed {
        println!("failed: {name}");
    }
    println!("\n{}", tally.last_line());
    Ok(tally.failed.is_empty())
}

/// What has passed and failed so far.
#[derive(Debug, Default)]
struct Tally {
    passed: u32,
    failed: Vec<String>,
}

impl Tally {
    fn fail(&mut self, name: String) {
        self.failed.push(name);
    }

    /// The run's last line, alone on it: what scripts read.
    fn last_line(&self) -> String {
        format!("{} passed, {} failed", self.passed, self.failed.len())
    }
}

/// Every test of these groups; only an interruption ends them early.
fn run_groups(world: &World<'_>, groups: &[&Group], tally: &mut Tally) -> Result<()> {
    for group in groups {
        let label = format!("group {}: {}", group.name, group.about);
        world.progress.step(&label, || {
            for test in group.tests {
                match run_one(world, group, test) {
                    Ok(count) => tally.passed += count,
                    Err(_) => tally.fail(format!("{}: {}", group.name, test.name)),
                }
                interrupt::check()?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn run_one(world: &World<'_>, group: &Group, test: &Test) -> Passed {
    let began = Instant::now();
    let result = world
        .progress
        .step(test.name, || match (test.prove)(world)? {
            0 => bail!("it checked nothing"),
            count => Ok(count),
        });
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

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: Group = Group {
        name: "mixed",
        about: "one test passes, one cannot run, one checks nothing",
        tests: &[
            test("passes", |_| Ok(3)),
            test("cannot run", |_| bail!("needs root")),
            test("checks nothing", |_| Ok(0)),
        ],
    };

    #[test]
    fn what_cannot_run_or_checks_nothing_has_failed_and_the_last_line_counts_it() {
        let progress = Progress::new();
        let (world, mut tally) = (World::new(&progress), Tally::default());
        run_groups(&world, &[&GROUP, &GROUP], &mut tally).unwrap();
        assert_eq!(tally.last_line(), "6 passed, 4 failed");
        assert_eq!(
            tally.failed[..2],
            ["mixed: cannot run", "mixed: checks nothing"]
        );
    }
}
