//! What sleep and wake cost of memory: committing and poisoning it, and giving it back, beside a
//! plain memset of the same bytes.

use std::hint::black_box;
use std::time::Instant;

use plimsoll_kernels::device::{Cpu, Device, PIECE_BYTES, Pages};
use plimsoll_kernels::pool::Pool;
use plimsoll_planner::Bytes;

use crate::Row;

/// The default KV cache of a resource without limits.
const SIZE: usize = 4 << 30;
const RUNS: usize = 3;

pub(crate) fn run(pool: &Pool, report: &mut dyn FnMut(Row)) {
    let total = Cpu.total_memory().expect("the machine's memory");
    if total < Bytes::measured(2 * SIZE as u64) {
        return;
    }
    let bytes = Bytes::measured(SIZE as u64);
    let mut buffer = Cpu.reserve(bytes, Pages::Huge).expect("address space");
    let names = [
        "commit and poison",
        "memset of it, all threads",
        "memset of it, one thread",
        "give back",
        "commit alone, one thread",
        "memset of fresh memory, one thread",
    ];
    let mut best = [f64::MAX; 6];
    for _ in 0..RUNS {
        let mut seconds = [0.0; 6];
        let start = Instant::now();
        buffer.commit_poisoned(pool, 0..SIZE).expect("memory");
        seconds[0] = start.elapsed().as_secs_f64();

        let start = Instant::now();
        let all = buffer.as_mut_slice::<u8>();
        pool.run_rows(all, PIECE_BYTES, 1, |_, piece| piece.fill(0xFF));
        seconds[1] = start.elapsed().as_secs_f64();

        let start = Instant::now();
        buffer.as_mut_slice::<u8>().fill(0xFF);
        seconds[2] = start.elapsed().as_secs_f64();

        let start = Instant::now();
        buffer.discard(pool, 0..SIZE).expect("memory is taken back");
        seconds[3] = start.elapsed().as_secs_f64();

        let start = Instant::now();
        buffer.commit(0..SIZE).expect("memory");
        seconds[4] = start.elapsed().as_secs_f64();
        buffer.discard(pool, 0..SIZE).expect("memory is taken back");

        let start = Instant::now();
        drop(black_box(vec![0xFFu8; SIZE]));
        seconds[5] = start.elapsed().as_secs_f64();
        for (best, seconds) in best.iter_mut().zip(seconds) {
            *best = best.min(seconds);
        }
    }
    for (name, seconds) in names.into_iter().zip(best) {
        report(Row {
            name: format!("memory, {} GiB: {name}", SIZE >> 30),
            seconds,
            bytes: SIZE as f64,
            operations: 0.0,
            is_bf16: false,
        });
    }
}
