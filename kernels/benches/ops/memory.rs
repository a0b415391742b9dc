//! What sleep and wake cost of memory: committing and poisoning it, and giving it back, beside a
//! plain memset of the same bytes.

use std::time::Instant;

use plimsoll_kernels::device::{Cpu, Device, PIECE_BYTES, Pages};
use plimsoll_kernels::pool::Pool;
use plimsoll_planner::Bytes;

use crate::{Peak, Row};

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
    ];
    let mut best = [f64::MAX; 5];
    let mut keep = |at: usize, start: Instant| {
        best[at] = best[at].min(start.elapsed().as_secs_f64());
    };
    for _ in 0..RUNS {
        // Committed and given back before each: a virtual machine may have to get fresh pages
        // from its host first, which is no part of either.
        let start = Instant::now();
        buffer.commit(0..SIZE).expect("memory");
        keep(4, start);
        buffer.discard(pool, 0..SIZE).expect("memory is taken back");

        let start = Instant::now();
        buffer.commit_poisoned(pool, 0..SIZE).expect("memory");
        keep(0, start);

        let start = Instant::now();
        let all = buffer.as_mut_slice::<u8>();
        pool.run_rows(all, PIECE_BYTES, 1, |_, piece| piece.fill(0xFF));
        keep(1, start);

        let start = Instant::now();
        buffer.as_mut_slice::<u8>().fill(0xFF);
        keep(2, start);

        let start = Instant::now();
        buffer.discard(pool, 0..SIZE).expect("memory is taken back");
        keep(3, start);
    }
    for (name, seconds) in names.into_iter().zip(best) {
        report(Row {
            name: format!("memory, {} GiB: {name}", SIZE >> 30),
            seconds,
            bytes: SIZE as f64,
            operations: 0.0,
            peak: Peak::F32,
        });
    }
}
