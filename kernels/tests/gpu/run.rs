//! Runs trials, on as many threads as there are cores: the emulator's state belongs to a thread.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use plimsoll_kernels::gpu::emulator::Emulator;
use plimsoll_kernels::gpu::trial::{self, Trial};

use crate::library;
use crate::options::{Device, Mode, Options};

/// Whether all passed.
pub(crate) fn run(options: &Options) -> Result<bool, String> {
    let titles: Vec<String> = trial::all()
        .iter()
        .map(|trial| format!("{trial:?}"))
        .collect();
    let wanted: Vec<usize> = (0..titles.len())
        .filter(|at| options.wants(&titles[*at]))
        .collect();
    if options.list {
        wanted.iter().for_each(|at| println!("{}", titles[*at]));
        return Ok(true);
    }
    if wanted.is_empty() {
        return Err(format!("no trial's name contains {:?}", options.filters));
    }
    let began = Instant::now();
    let failures = match options.device {
        Device::Cuda => return Err("no CUDA device: not built yet".to_owned()),
        Device::Emulator => {
            let library = emulated(options)?;
            println!(
                "emulator, {}, {} schedules, {} trials, compiled after {:.1} s",
                options.mode.name(),
                options.seeds,
                wanted.len(),
                began.elapsed().as_secs_f64()
            );
            on_emulator(options, &library, &wanted)
        }
    };
    for (at, failure) in &failures {
        println!("FAILED  {}\n        {failure}", titles[*at]);
    }
    println!("{:.1} s", began.elapsed().as_secs_f64());
    println!(
        "test result: {}. {} passed; {} failed",
        if failures.is_empty() { "ok" } else { "FAILED" },
        wanted.len() - failures.len(),
        failures.len()
    );
    Ok(failures.is_empty())
}

/// The library of emulated kernels; under AddressSanitizer this process starts again with it.
fn emulated(options: &Options) -> Result<PathBuf, String> {
    let library = match &options.library {
        Some(path) => path.clone(),
        None => library::build(options.mode, &library::sources(), &library::folder())?,
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

/// Every trial under every seed; the failed ones, with what they said.
fn on_emulator(options: &Options, library: &Path, wanted: &[usize]) -> BTreeMap<usize, String> {
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let trials = trial::all();
                let emulator = Emulator::load(library);
                while let Some(at) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = match &emulator {
                        Ok(emulator) => prove(options, emulator, &trials[*at]),
                        Err(error) => Err(error.to_string()),
                    };
                    if let Err(failure) = outcome {
                        let mut failures = failures.lock().unwrap_or_else(|e| e.into_inner());
                        failures.insert(*at, failure);
                    }
                }
            });
        }
    });
    failures
        .into_inner()
        .unwrap_or_else(|error| error.into_inner())
}

fn prove(options: &Options, emulator: &std::rc::Rc<Emulator>, trial: &Trial) -> Result<(), String> {
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
