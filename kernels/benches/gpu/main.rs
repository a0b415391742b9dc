//! The kernels on a card: correctness first, then time against what the same card reaches.
//!
//! `cargo bench -p plimsoll-kernels --features gpu-tests,driver --bench gpu -- [OPTIONS] [FILTER...]`
#![expect(clippy::print_stdout, reason = "a table is what it makes")]

mod attention;
mod ceilings;
mod linear;
mod measure;
mod peers;
mod small;
mod table;
mod values;

use std::process::ExitCode;
use std::rc::Rc;

use plimsoll_kernels::gpu::driver::{self, Cuda};
use plimsoll_kernels::trials;

use measure::Case;

const HELP: &str = "\
Checks every kernel on card 0 against its CPU definition, then times them on the shapes of an 8B
model, beside the card's own ceilings and the peers that python3 finds (kernels/BENCHMARKS.md).

  --no-peers   do not ask python3 (or PLIMSOLL_PYTHON) for PyTorch and FlashInfer
  --no-trials  times alone; the table says that nothing was checked
  --lines      also one line per case for scripts: `case NAME SECONDS SHARE PEER PEER-SECONDS`
  FILTER       only cases whose name contains one of these texts";

struct Options {
    peers: bool,
    trials: bool,
    lines: bool,
    filters: Vec<String>,
}

fn main() -> ExitCode {
    let mut options = Options {
        peers: true,
        trials: true,
        lines: false,
        filters: Vec::new(),
    };
    for word in std::env::args().skip(1).filter(|word| word != "--bench") {
        match word.as_str() {
            "--help" | "-h" => {
                println!("{HELP}");
                return ExitCode::SUCCESS;
            }
            "--no-peers" => options.peers = false,
            "--no-trials" => options.trials = false,
            "--lines" => options.lines = true,
            other if other.starts_with('-') => {
                println!("{other} is not an option\n{HELP}");
                return ExitCode::from(2);
            }
            _ => options.filters.push(word),
        }
    }
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("{error}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<bool, String> {
    let version = driver::version().map_err(|error| error.to_string())?;
    let cuda = Cuda::open(0).map_err(|error| error.to_string())?;
    let card = plimsoll_kernels::gpu::Gpu::card(&cuda.gpu()).clone();
    println!(
        "{}, compute capability {}.{}, {} multiprocessors; driver for CUDA {}.{}; {}",
        card.name,
        card.capability / 10,
        card.capability % 10,
        card.multiprocessors,
        version / 1000,
        version % 1000 / 10,
        table::today()
    );
    if options.trials && !agree(&cuda) {
        return Ok(false);
    }
    let peers = match options.peers {
        true => peers::ask(),
        false => peers::Peers::default(),
    };
    let ceilings = ceilings::measure(&cuda, &peers).map_err(|error| error.to_string())?;
    table::head(&ceilings, options.trials);
    let wanted = |name: &str| {
        options.filters.is_empty()
            || options
                .filters
                .iter()
                .any(|text| name.contains(text.as_str()))
    };
    let mut show = |case: &Case<'_>| {
        if !wanted(&case.name) {
            return Ok(());
        }
        let seconds = measure::seconds(&cuda, case)?;
        table::row(case, seconds, &ceilings, &peers, options.lines);
        Ok(())
    };
    attention::run(&cuda, &mut show)
        .and_then(|()| linear::run(&cuda, &mut show))
        .and_then(|()| small::run(&cuda, &mut show))
        .map_err(|error| error.to_string())?;
    Ok(true)
}

/// Whether every kernel agrees with its CPU definition on this card. After a failed launch a card
/// fails everything, so that failure is the last.
fn agree(cuda: &Rc<Cuda>) -> bool {
    let trials = trials::all();
    let (mut passed, mut failed) = (0, 0);
    for trial in &trials {
        match trial.prove(&cuda.gpu()) {
            Ok(()) => passed += 1,
            Err(failure) => {
                println!("FAILED  {trial:?}\n        {failure}");
                failed += 1;
                if failure.loses_card() {
                    break;
                }
            }
        }
    }
    let left = trials.len() - passed - failed;
    println!("{passed} trials agree with the CPU, {failed} do not, {left} were not run");
    failed == 0
}
