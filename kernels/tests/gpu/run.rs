//! Runs trials, on as many threads as there are cores: the emulator's state belongs to a thread.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use plimsoll_kernels::gpu::Gpu;
use plimsoll_kernels::gpu::emulator::Emulator;
use plimsoll_kernels::gpu::trial::{self, Trial};
use plimsoll_kernels::trials;

use crate::faults::{self, Fault};
use crate::options::{Device, Mode, Options, Task};
use crate::planted::{self, Plant};
use crate::{compile, library, mutants};

/// Whether all passed.
pub(crate) fn run(options: &Options) -> Result<bool, String> {
    if options.task == Task::Mutants {
        return mutants::run(options);
    }
    let trials = trials::all();
    let mut claims: Vec<Claim> = (0..trials.len())
        .map(|at| Claim::new(format!("{:?}", trials[at]), Kind::Trial(at)))
        .collect();
    if options.device == Device::Emulator {
        claims.extend(of_the_emulator(options.mode));
    }
    claims.retain(|claim| options.wants(&claim.title));
    if options.list {
        claims.iter().for_each(|claim| println!("{}", claim.title));
        return Ok(true);
    }
    if claims.is_empty() {
        return Err(format!("no trial's name contains {:?}", options.filters));
    }
    let began = Instant::now();
    let (failures, left) = match options.device {
        Device::Cuda => {
            let gpu = trial::card().map_err(|error| error.to_string())?;
            let (name, count) = (&gpu.card().name, claims.len());
            println!("{name}, {count} trials");
            on_card(options, &gpu, &trials, &claims)
        }
        Device::Emulator => {
            let library = emulated(options)?;
            if let Task::Plant(kernel) = &options.task {
                planted::run(options, &library, kernel)?;
                return Ok(true);
            }
            println!(
                "emulator of {} multiprocessors, {}, {} schedules, {} trials, compiled after {:.1} s",
                options.multiprocessors,
                options.mode.name(),
                options.seeds,
                claims.len(),
                began.elapsed().as_secs_f64()
            );
            (on_emulator(options, &library, &claims)?, 0)
        }
    };
    for (title, failure) in &failures {
        println!("FAILED  {title}\n        {failure}");
    }
    if left > 0 {
        println!("{left} trials were not run after that");
    }
    println!("{:.1} s", began.elapsed().as_secs_f64());
    println!(
        "test result: {}. {} passed; {} failed",
        if failures.is_empty() { "ok" } else { "FAILED" },
        claims.len() - failures.len() - left,
        failures.len()
    );
    Ok(failures.is_empty())
}

/// Something that must hold.
struct Claim {
    title: String,
    kind: Kind,
}

enum Kind {
    /// The number of a trial.
    Trial(usize),
    Plant(&'static Plant),
    Fault(&'static Fault),
}

impl Claim {
    const fn new(title: String, kind: Kind) -> Claim {
        Claim { title, kind }
    }
}

/// What is claimed of the emulator, not of an op.
fn of_the_emulator(mode: Mode) -> Vec<Claim> {
    let plants = planted::PLANTS
        .iter()
        .filter(|plant| plant.is_seen_in(mode))
        .map(|plant| Claim::new(plant.title(), Kind::Plant(plant)));
    let faults = faults::FAULTS
        .iter()
        .filter(|_| mode == Mode::Plain)
        .map(|fault| Claim::new(fault.title(), Kind::Fault(fault)));
    plants.chain(faults).collect()
}

/// The library of emulated kernels; under AddressSanitizer this process starts again with it.
fn emulated(options: &Options) -> Result<PathBuf, String> {
    let library = match &options.library {
        Some(path) => path.clone(),
        None => library::build(options.mode)?,
    };
    if options.mode == Mode::Asan && std::env::var_os("LD_PRELOAD").is_none() {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let error = Command::new(program)
            .args(std::env::args_os().skip(1))
            .env("LD_PRELOAD", library::sanitizers()?)
            .env(
                "ASAN_OPTIONS",
                "detect_leaks=0:detect_stack_use_after_return=0",
            )
            .env("UBSAN_OPTIONS", "print_stacktrace=1")
            .exec();
        return Err(format!(
            "cannot start again under AddressSanitizer: {error}"
        ));
    }
    Ok(library)
}

/// As [`on_emulator`], one trial at a time, each named before it runs: a kernel may hang. A card that
/// failed a launch fails all that follows in this process, so the first such failure is the last.
/// Also: how many were not run.
fn on_card(
    options: &Options,
    gpu: &Gpu,
    trials: &[Trial],
    claims: &[Claim],
) -> (Vec<(String, String)>, usize) {
    let mut failures = Vec::new();
    for (done, claim) in claims.iter().enumerate() {
        // Claims of the emulator are not made here.
        let Kind::Trial(at) = claim.kind else {
            continue;
        };
        println!("{}", claim.title);
        if let Err(failure) = trials[at].prove(gpu) {
            failures.push((claim.title.clone(), failure.to_string()));
            if failure.loses_card() || options.first {
                return (failures, claims.len() - done - 1);
            }
        }
    }
    (failures, 0)
}

/// Every claim; the failed ones by title, with what they said.
fn on_emulator(
    options: &Options,
    library: &Path,
    claims: &[Claim],
) -> Result<Vec<(String, String)>, String> {
    Emulator::load(library, options.multiprocessors).map_err(|error| error.to_string())?;
    let over = AtomicBool::new(false);
    let outcomes = compile::in_parallel(claims.len(), |at| {
        if options.first && over.load(Ordering::Relaxed) {
            return None;
        }
        let claim = &claims[at];
        let failure = prove(options, library, &claim.kind).err()?;
        over.store(true, Ordering::Relaxed);
        Some((claim.title.clone(), failure))
    });
    Ok(outcomes.into_iter().flatten().collect())
}

fn prove(options: &Options, library: &Path, kind: &Kind) -> Result<(), String> {
    match kind {
        Kind::Trial(at) => {
            let emulator = Emulator::load(library, options.multiprocessors)
                .map_err(|error| error.to_string())?;
            prove_trial(options, &emulator, &trials::all()[*at])
        }
        Kind::Plant(plant) => plant.prove(options, library),
        Kind::Fault(fault) => fault.prove(library),
    }
}

fn prove_trial(options: &Options, emulator: &Rc<Emulator>, trial: &Trial) -> Result<(), String> {
    for seed in 0..options.seeds {
        emulator.set_seed(seed);
        let _ = emulator.take_ldmatrix_statistics();
        trial
            .prove(&emulator.gpu())
            .map_err(|failure| format!("seed {seed}: {failure}"))?;
        let read = emulator.take_ldmatrix_statistics();
        if read.conflicts > 0 {
            return Err(format!(
                "seed {seed}: {} bank conflicts in {} phases of ldmatrix",
                read.conflicts, read.phases
            ));
        }
    }
    Ok(())
}
