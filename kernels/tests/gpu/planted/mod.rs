//! The emulator can fail: kernels with one bug each (planted.cu), and what must be said of them
//! (bugs.rs). Each runs in a process of its own, for some bugs end it. Without its bug the same
//! kernel must pass: a checker that always finds something is as useless as one that never does.

mod bugs;

use std::path::Path;
use std::process::Command;
use std::rc::Rc;

use plimsoll_kernels::gpu::emulator::Emulator;
use plimsoll_kernels::gpu::{Arguments, Kind, Launch};

use crate::options::{Mode, Options};

pub(crate) use bugs::PLANTS;

/// How many numbers `out`, `work` and `in` have room for.
const NUMBERS: usize = 256;

/// One kernel of planted.cu.
#[derive(Debug)]
pub(crate) struct Plant {
    pub(crate) name: &'static str,
    kernel: &'static str,
    blocks: u32,
    threads: u32,
    shared_bytes: u32,
    /// What is said of its bug in plain, race and asan mode; nothing where it is not seen.
    said: [&'static str; 3],
}

impl Plant {
    pub(crate) fn title(&self) -> String {
        format!("planted: {}", self.name)
    }

    fn said_in(&self, mode: Mode) -> &'static str {
        let [plain, race, asan] = self.said;
        match mode {
            Mode::Plain => plain,
            Mode::Race => race,
            Mode::Asan => asan,
        }
    }

    /// Whether anything is promised in this mode.
    pub(crate) fn is_seen_in(&self, mode: Mode) -> bool {
        !self.said_in(mode).is_empty()
    }

    /// Runs it in a process of its own and looks for what should be said.
    pub(crate) fn prove(&self, options: &Options, library: &Path) -> Result<(), String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let output = Command::new(program)
            .args(["--plant", self.kernel, "--mode", options.mode.name()])
            .args(["--seeds", &options.seeds.to_string(), "--library"])
            .arg(library)
            .output()
            .map_err(|error| format!("cannot start again: {error}"))?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let wanted = self.said_in(options.mode);
        let times = text.matches(wanted).count() as u64;
        // Numbers may come out right in a lucky order, and AddressSanitizer ends the process at the
        // first; what the emulator itself finds it finds in every order.
        let is_once_enough = wanted == WRONG || options.mode == Mode::Asan;
        let at_least = if is_once_enough { 1 } else { options.seeds };
        match times >= at_least && text.contains(RIGHT_PASSED) && !output.status.success() {
            true => Ok(()),
            false => Err(format!(
                "should say {wanted:?} {at_least} times; {} and says:\n{text}",
                output.status
            )),
        }
    }
}

const RIGHT_PASSED: &str = "without the bug: passed";
/// What is said when the bug showed in the results alone.
const WRONG: &str = "the numbers are not those of the kernel without the bug";

/// In the process of its own: the right kernel under every seed, then the wrong one; what is said of
/// it, a line for each.
pub(crate) fn run(options: &Options, library: &Path, kernel: &str) -> Result<(), String> {
    let plant = PLANTS
        .iter()
        .find(|plant| plant.kernel == kernel)
        .ok_or(format!("no planted kernel {kernel}"))?;
    let emulator =
        Emulator::load(library, options.multiprocessors).map_err(|error| error.to_string())?;
    let mut right = Vec::new();
    for seed in 0..options.seeds {
        let numbers = launch(&emulator, plant, seed, 0)
            .map_err(|error| format!("without the bug, seed {seed}: {error}"))?;
        if seed == 0 {
            right = numbers;
        } else if numbers != right {
            return Err(format!("without the bug, seed {seed}: other numbers"));
        }
    }
    println!("{RIGHT_PASSED}");
    let mut said = Vec::new();
    for seed in 0..options.seeds {
        match launch(&emulator, plant, seed, 1) {
            Ok(numbers) if numbers == right => (),
            Ok(_) => said.push(format!("seed {seed}: {WRONG}")),
            Err(error) => said.push(format!("seed {seed}: {error}")),
        }
    }
    match said.is_empty() {
        true => Ok(()),
        false => Err(said.join("\n")),
    }
}

/// The bits of `out` and `work` afterwards.
fn launch(emulator: &Rc<Emulator>, plant: &Plant, seed: u64, bug: u32) -> Result<Vec<u32>, String> {
    emulator.set_seed(seed);
    let gpu = emulator.gpu();
    let run = || {
        let numbers: Vec<f32> = (0..NUMBERS).map(|at| 1.0 + at as f32).collect();
        let bytes = size_of_val(&*numbers);
        let (mut out, mut work) = (gpu.allocate(bytes)?, gpu.allocate(bytes)?);
        let mut input = gpu.allocate(bytes)?;
        input.upload(&numbers)?;
        work.upload(&[0f32; NUMBERS])?;
        gpu.launch(&Launch {
            op: "planted",
            kernel: &format!("planted_{}", plant.kernel),
            grid: [plant.blocks, 1, 1],
            threads: plant.threads,
            shared_bytes: plant.shared_bytes,
            arguments: Arguments::new()
                .write(&out.view_mut(Kind::F32))
                .write(&work.view_mut(Kind::F32))
                .read(input.view(Kind::F32))
                .u32(bug),
        })?;
        let mut bits: Vec<u32> = out.download(NUMBERS)?;
        bits.extend(work.download::<u32>(NUMBERS)?);
        Ok(bits)
    };
    let bits = run().map_err(|error: plimsoll_kernels::gpu::GpuError| error.to_string())?;
    match emulator.take_ldmatrix_statistics().conflicts {
        0 => Ok(bits),
        conflicts => Err(format!("{conflicts} bank conflicts of ldmatrix")),
    }
}
