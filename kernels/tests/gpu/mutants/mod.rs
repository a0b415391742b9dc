//! The trials can fail: kernels broken in one line each (a table per op), which trials in stated
//! modes must notice. Each runs in a process of its own. The whole kernel, run the same way, must
//! pass: otherwise everything would count as noticed.

mod attention;
mod embedding;
mod judge;
mod linear;
mod linear_codes;
mod rms_norm;
mod rope_kv;
mod sampling;
mod small;
mod tree;

use std::path::PathBuf;
use std::time::Instant;

use crate::compile::{self, Unit, in_parallel};
use crate::library;
use crate::options::{Mode, Options};
use judge::Verdict;

/// One line of one kernel, broken.
#[derive(Clone, Debug)]
pub(crate) struct Mutant {
    /// The op's folder, of which all `.cu` files are linked.
    op: &'static str,
    /// What is broken.
    name: &'static str,
    /// Below `src`. A header counts for every `.cu` file of the op that includes it.
    file: &'static str,
    /// Stands in the file exactly once.
    old: &'static str,
    new: &'static str,
    /// The trials that run: those whose `op: name` contains it.
    filter: &'static str,
    /// The modes in which they must fail.
    caught_by: &'static [Mode],
}

/// Every op's mutants.
fn all() -> Vec<Mutant> {
    [
        rms_norm::MUTANTS,
        attention::MUTANTS,
        linear::MUTANTS,
        linear_codes::MUTANTS,
        embedding::MUTANTS,
        rope_kv::MUTANTS,
        sampling::MUTANTS,
        small::MUTANTS,
    ]
    .concat()
}

/// A mutant, or the whole kernel it was made of, in one mode.
struct Case {
    mutant: Mutant,
    mode: Mode,
    is_whole: bool,
}

impl Case {
    fn title(&self) -> String {
        match self.is_whole {
            true => format!(
                "{}: nothing is broken ({})",
                self.mutant.op, self.mutant.filter
            ),
            false => format!("{}: {}", self.mutant.op, self.mutant.name),
        }
    }
}

/// Whether every mutant was noticed, and every whole kernel passed.
pub(crate) fn run(options: &Options) -> Result<bool, String> {
    let began = Instant::now();
    let mutants: Vec<Mutant> = all()
        .into_iter()
        .filter(|mutant| options.wants(&format!("{}: {}", mutant.op, mutant.name)))
        .collect();
    if options.list {
        mutants
            .iter()
            .for_each(|mutant| println!("{}: {}", mutant.op, mutant.name));
        return Ok(true);
    }
    if mutants.is_empty() {
        return Err(format!("no mutant's name contains {:?}", options.filters));
    }
    let cases = cases(&mutants);
    let libraries = libraries(&cases)?;
    println!(
        "{} mutants, {} runs, compiled after {:.1} s",
        mutants.len(),
        cases.len(),
        began.elapsed().as_secs_f64()
    );
    let verdicts = in_parallel(cases.len(), |at| {
        let (case, library, began) = (&cases[at], &libraries[at], Instant::now());
        let verdict = judge::run(library, case.mode, options.seeds, case.mutant.filter);
        (verdict, began.elapsed().as_secs_f64())
    });
    let mut wrong = 0;
    for (case, (verdict, seconds)) in cases.iter().zip(&verdicts) {
        let is_right = matches!(
            (case.is_whole, verdict),
            (true, Verdict::Passed) | (false, Verdict::Caught(_))
        );
        wrong += usize::from(!is_right);
        println!(
            "{:7} {:5}  {} ({seconds:.1} s)\n               {verdict}",
            if is_right { "ok" } else { "WRONG" },
            case.mode.name(),
            case.title(),
        );
    }
    println!("{:.1} s", began.elapsed().as_secs_f64());
    println!(
        "test result: {}. {} passed; {wrong} failed",
        if wrong == 0 { "ok" } else { "FAILED" },
        cases.len() - wrong,
    );
    Ok(wrong == 0)
}

/// Every mutant in its modes, and once for each of these the kernel that is whole.
fn cases(mutants: &[Mutant]) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for mutant in mutants {
        for mode in mutant.caught_by {
            let is_known = cases.iter().any(|case| {
                let (a, b) = (&case.mutant, mutant);
                case.is_whole && case.mode == *mode && a.op == b.op && a.filter == b.filter
            });
            for is_whole in [true, false] {
                if !(is_whole && is_known) {
                    cases.push(Case {
                        mutant: mutant.clone(),
                        mode: *mode,
                        is_whole,
                    });
                }
            }
        }
    }
    cases
}

/// The emulator and the op of every case, compiled and linked.
fn libraries(cases: &[Case]) -> Result<Vec<PathBuf>, String> {
    let cache = library::cache()?;
    let mut units: Vec<Unit> = Vec::new();
    let mut parts = Vec::new();
    for case in cases {
        let first = units.len();
        units.extend(tree::units(&case.mutant, case.mode, case.is_whole, &cache)?);
        parts.push(first..units.len());
    }
    let objects: Vec<PathBuf> = compile::objects(&units, &cache)
        .into_iter()
        .collect::<Result<_, _>>()?;
    in_parallel(cases.len(), |at| {
        compile::link(
            &format!("mutant-{}", cases[at].mode.name()),
            &objects[parts[at].clone()],
            &library::emulator_flags(cases[at].mode),
            &cache,
        )
    })
    .into_iter()
    .collect()
}
