//! The worker pool of one rank: persistent threads that share out the chunks of one op at a time.
//!
//! Chunks are claimed one by one, so a thread that the machine takes away delays one chunk and
//! not a fixed share of the work. Idle workers spin briefly, then park. An op returns when its
//! last chunk is done; a worker that was asleep meanwhile is not waited for.

mod cpus;
#[expect(unsafe_code, reason = "lends a borrowed closure to persistent threads")]
mod crew;
#[expect(
    unsafe_code,
    reason = "hands disjoint parts of one slice to concurrent chunks"
)]
mod disjoint;

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;

use crate::isa::Isa;
use crew::Crew;

pub use cpus::available_cpus;
pub(crate) use disjoint::Disjoint;

/// A crew of threads with an instruction set. The thread that calls an op works too, so `threads`
/// counts it: a pool of one has no other threads and runs everything inline.
///
/// A pool may move between threads but is used by one at a time (it is not `Sync`), so chunks
/// cannot start an op of their own on it.
#[derive(Debug)]
pub struct Pool {
    crew: Option<Crew>,
    threads: usize,
    isa: Isa,
    not_sync: PhantomData<Cell<()>>,
}

impl Pool {
    /// Starts `threads - 1` workers (at least one thread is taken as the caller's).
    ///
    /// # Errors
    /// When the machine refuses a thread.
    ///
    /// # Panics
    /// When this machine does not have `isa`.
    pub fn new(threads: usize, isa: Isa) -> io::Result<Pool> {
        assert!(
            isa.is_available(),
            "instruction set {isa} is not available on this machine"
        );
        let threads = threads.max(1);
        let crew = if threads > 1 {
            Some(Crew::start(threads - 1)?)
        } else {
            None
        };
        Ok(Pool {
            crew,
            threads,
            isa,
            not_sync: PhantomData,
        })
    }

    /// Threads that work on an op, the caller included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The instruction set that ops use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Runs `work(chunk)` once for every chunk in `0..chunks`, in any order and on any thread of
    /// the pool, and returns when all are done.
    ///
    /// # Panics
    /// When a chunk panicked (after all threads have left the op).
    pub fn run(&self, chunks: usize, work: impl Fn(usize) + Sync) {
        match &self.crew {
            Some(crew) if chunks > 1 => crew.run(chunks, &work),
            _ => (0..chunks).for_each(work),
        }
    }

    /// Runs `work(first_row, rows)` over blocks of at most `rows_per_chunk` whole rows of `data`,
    /// each `row_len` long.
    ///
    /// # Panics
    /// When `data` is not a whole number of rows, or a chunk panicked.
    pub fn run_rows<T: Send>(
        &self,
        data: &mut [T],
        row_len: usize,
        rows_per_chunk: usize,
        work: impl Fn(usize, &mut [T]) + Sync,
    ) {
        assert!(
            row_len > 0 && data.len().is_multiple_of(row_len),
            "rows of {row_len} numbers"
        );
        disjoint::run_rows(self, data, row_len, rows_per_chunk, work);
    }

    /// Rows per chunk so that a chunk is worth a claim: at least `cells` numbers of work each, and
    /// a few chunks per thread where there is enough work.
    pub(crate) fn rows_per_chunk(&self, rows: usize, cells_per_row: usize, cells: usize) -> usize {
        const CHUNKS_PER_THREAD: usize = 4;
        let least = cells.div_ceil(cells_per_row.max(1));
        rows.div_ceil(self.threads * CHUNKS_PER_THREAD)
            .max(least)
            .max(1)
    }
}
