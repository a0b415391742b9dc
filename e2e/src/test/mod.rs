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

use std::thread::{self, ScopedJoinHandle};
use std::time::Instant;

use anyhow::{Result, bail};

use crate::diagnose;
use crate::interrupt;
use crate::progress::Progress;
use crate::test::world::{Ground, World};

/// What a test answers: how many checks passed, one unless it ran many.
type Passed = Result<u32>;

/// What else may run while a test does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Company {
    /// Those in the background that began before it.
    Some,
    /// It is in the background itself: the tests after it do not wait for it.
    Others,
    /// Nothing.
    Nobody,
}

/// One test: the claim it proves, and the proof.
struct Test {
    name: &'static str,
    prove: fn(&World<'_>) -> Passed,
    company: Company,
}

impl Test {
    /// Of a test that waits for most of its time, has its own namespace, and counts nothing of the whole
    /// cluster's.
    const fn in_background(self) -> Test {
        Test {
            company: Company::Others,
            ..self
        }
    }

    /// Of a test in a group with such, which looks at what others could change.
    const fn alone(self) -> Test {
        Test {
            company: Company::Nobody,
            ..self
        }
    }
}

/// The claim, and the function that proves it.
const fn test(name: &'static str, prove: fn(&World<'_>) -> Passed) -> Test {
    Test {
        name,
        prove,
        company: Company::Some,
    }
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
    let ground = Ground::default();
    let mut tally = Tally::default();
    run_groups(progress, &ground, &chosen, &mut tally)?;
    if let Err(error) = World::new(progress, &ground).end() {
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
    fn add(&mut self, group: &Group, test: &Test, result: Passed) {
        match result {
            Ok(count) => self.passed += count,
            Err(_) => self.fail(format!("{}: {}", group.name, test.name)),
        }
    }

    fn fail(&mut self, name: String) {
        self.failed.push(name);
    }

    /// The run's last line, alone on it: what scripts read.
    fn last_line(&self) -> String {
        format!("{} passed, {} failed", self.passed, self.failed.len())
    }
}

/// Every test of these groups; only an interruption ends them early.
fn run_groups(
    progress: &Progress,
    ground: &Ground,
    groups: &[&Group],
    tally: &mut Tally,
) -> Result<()> {
    for group in groups {
        let label = format!("group {}: {}", group.name, group.about);
        progress.step(&label, || {
            thread::scope(|scope| {
                let mut behind: Vec<Behind<'_>> = Vec::new();
                for test in group.tests {
                    if test.company == Company::Nobody {
                        await_all(&mut behind, group, tally);
                    }
                    if test.company == Company::Others {
                        let own = progress.beside();
                        let run = move || run_one(&World::new(&own, ground), group, test);
                        behind.push((test, scope.spawn(run)));
                    } else {
                        let world = World::new(progress, ground);
                        tally.add(group, test, run_one(&world, group, test));
                    }
                    interrupt::check()?;
                }
                await_all(&mut behind, group, tally);
                Ok(())
            })
        })?;
    }
    Ok(())
}

/// Until no test of the group is in the background.
fn await_all(behind: &mut Vec<Behind<'_>>, group: &Group, tally: &mut Tally) {
    for (test, thread) in behind.drain(..) {
        let result = thread.join().unwrap_or_else(|_| bail!("it panicked"));
        tally.add(group, test, result);
    }
}

/// A test in the background.
type Behind<'a> = (&'static Test, ScopedJoinHandle<'a, Passed>);

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
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, Ordering};

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
        let (progress, ground) = (Progress::new(), Ground::default());
        let mut tally = Tally::default();
        run_groups(&progress, &ground, &[&GROUP, &GROUP], &mut tally).unwrap();
        assert_eq!(tally.last_line(), "6 passed, 4 failed");
        assert_eq!(
            tally.failed[..2],
            ["mixed: cannot run", "mixed: checks nothing"]
        );
    }

    /// Each waits for the other.
    static MEETING: Barrier = Barrier::new(2);
    static BEHIND_IS_THROUGH: AtomicBool = AtomicBool::new(false);
    const COMPANY: Group = Group {
        name: "company",
        about: "one in the background meets the next, a panic is a failure, and then one is alone",
        tests: &[
            test("behind", |_| {
                MEETING.wait();
                BEHIND_IS_THROUGH.store(true, Ordering::SeqCst);
                Ok(1)
            })
            .in_background(),
            test("panics", |_| panic!("a fault of the test's own")).in_background(),
            test("meets it", |_| {
                MEETING.wait();
                Ok(1)
            }),
            test("alone", |_| {
                expect(BEHIND_IS_THROUGH.load(Ordering::SeqCst), || {
                    "one still runs".to_owned()
                })?;
                Ok(1)
            })
            .alone(),
        ],
    };

    #[test]
    fn tests_in_the_background_run_beside_others_until_one_wants_to_be_alone() {
        let (progress, ground) = (Progress::new(), Ground::default());
        let mut tally = Tally::default();
        run_groups(&progress, &ground, &[&COMPANY], &mut tally).unwrap();
        assert_eq!(tally.last_line(), "3 passed, 1 failed");
        assert_eq!(tally.failed, ["company: panics"]);
    }
}
