//! Times every op on the shapes of a small and a larger model, next to what the machine can give.
//!
//! `cargo bench -p plimsoll-kernels --bench ops -- [--isa NAME] [--threads N] [FILTER]`
//! prints one table: time of the best run, bytes and operations per second, and the part of the
//! ceiling (read bandwidth or register-only arithmetic of the same threads, whichever is closer).
#![expect(clippy::print_stdout, reason = "a table is what it makes")]

mod blocks;
mod cases;
#[expect(unsafe_code, reason = "register-only loops in intrinsics and assembly")]
mod ceiling;
mod comm;
mod memory;
mod sampling;

use std::env;
use std::time::Instant;

use plimsoll_kernels::isa::{self, Isa};
use plimsoll_kernels::pool::{self, Pool};
use plimsoll_planner::Dtype;

/// What one call of an op moves and computes, and how long its best run took.
struct Row {
    name: String,
    seconds: f64,
    bytes: f64,
    operations: f64,
    peak: Peak,
}

/// The ceiling that operations count against.
#[derive(Clone, Copy)]
enum Peak {
    F32,
    Bf16,
    Int8,
}

impl Peak {
    fn of(dtype: Dtype) -> Peak {
        match dtype {
            Dtype::BFloat16 => Peak::Bf16,
            Dtype::Float32 | Dtype::Float16 => Peak::F32,
        }
    }
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|a| a != "--bench").collect();
    let value = |name: &str| {
        arguments
            .iter()
            .position(|a| a == name)
            .and_then(|at| arguments.get(at + 1))
            .cloned()
    };
    let isa = value("--isa").map_or(Isa::detect(), |name| {
        isa::parse(&name).unwrap_or_else(|error| exit(&error.to_string()))
    });
    let threads = value("--threads").map_or(pool::available_cpus(), |text| {
        text.parse()
            .unwrap_or_else(|_| exit("--threads takes a number"))
    });
    let options = [value("--isa"), value("--threads")];
    let filter = arguments
        .iter()
        .find(|a| !a.starts_with("--") && !options.iter().flatten().any(|o| o == *a))
        .cloned()
        .unwrap_or_default();
    let pool = Pool::new(threads, isa).unwrap_or_else(|error| exit(&error.to_string()));

    let ceilings = ceiling::measure(&pool);
    println!(
        "{isa}, {threads} threads; ceilings: {:.1} GB/s read, {:.0} GFLOP/s f32, {:.0} GFLOP/s bf16, \
         {:.0} GOP/s int8",
        ceilings.read / 1e9,
        ceilings.f32 / 1e9,
        ceilings.bf16 / 1e9,
        ceilings.int8 / 1e9
    );
    println!(
        "{:46} {:>11} {:>8} {:>9} {:>8}",
        "op", "time", "GB/s", "GFLOP/s", "ceiling"
    );
    cases::run(&pool, &filter, &mut |row: Row| {
        let (bytes, operations) = (row.bytes / row.seconds, row.operations / row.seconds);
        let peak = match row.peak {
            Peak::F32 => ceilings.f32,
            Peak::Bf16 => ceilings.bf16,
            Peak::Int8 => ceilings.int8,
        };
        let part = (bytes / ceilings.read).max(operations / peak) * 100.0;
        println!(
            "{:46} {:>8.1} us {:>8.2} {:>9.1} {:>6.0} %",
            row.name,
            row.seconds * 1e6,
            bytes / 1e9,
            operations / 1e9,
            part
        );
    });
}

fn exit(message: &str) -> ! {
    println!("{message}");
    std::process::exit(2)
}

/// Seconds of the best of many runs: at least 5, for about a fifth of a second.
fn best(mut run: impl FnMut()) -> f64 {
    const SECONDS: f64 = 0.2;
    run();
    let (start, mut best, mut runs) = (Instant::now(), f64::MAX, 0);
    while runs < 5 || start.elapsed().as_secs_f64() < SECONDS {
        let begin = Instant::now();
        run();
        best = best.min(begin.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}
