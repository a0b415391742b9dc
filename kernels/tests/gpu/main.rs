//! The kernel test program: every trial of every op on the emulator, or on a card.
//!
//! `cargo test -p plimsoll-kernels --features gpu-tests --test gpu -- [OPTIONS] [FILTER...]`
#![expect(clippy::print_stdout, reason = "a test program prints its results")]

mod compile;
mod faults;
mod library;
mod mutants;
mod options;
mod planted;
mod run;

use std::process::ExitCode;

use options::Options;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{}", options::HELP);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            println!("{error}\n{}", options::HELP);
            return ExitCode::from(2);
        }
    };
    match run::run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("{error}");
            ExitCode::from(2)
        }
    }
}
