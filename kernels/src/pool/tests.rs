//! Every chunk runs once, whatever the threads do; panics and drops leave nothing hanging.

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;

#[test]
fn every_chunk_runs_once_for_any_count_of_threads_and_chunks() {
    for threads in [1, 2, 3, 7] {
        let pool = Pool::new(threads, Isa::Scalar).unwrap();
        for chunks in [0, 1, 2, 3, 31, 257] {
            for _ in 0..50 {
                let counts: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(chunks, |chunk| {
                    counts[chunk].fetch_add(1, Ordering::Relaxed);
                });
                assert!(
                    counts
                        .iter()
                        .all(|count| count.load(Ordering::Relaxed) == 1)
                );
            }
        }
    }
}

#[test]
fn parked_workers_come_back() {
    let pool = Pool::new(3, Isa::Scalar).unwrap();
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(2));
        let sum = AtomicUsize::new(0);
        pool.run(100, |chunk| {
            sum.fetch_add(chunk, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 4950);
    }
}

#[test]
fn rows_are_handed_out_whole() {
    let pool = Pool::new(2, Isa::Scalar).unwrap();
    let mut data = vec![0usize; 33 * 7];
    pool.run_rows(&mut data, 7, 4, |first, rows| {
        for (at, value) in rows.iter_mut().enumerate() {
            *value = first * 7 + at;
        }
    });
    assert!(data.iter().enumerate().all(|(at, value)| at == *value));
}

#[test]
fn a_panicking_chunk_reaches_the_caller_and_the_pool_goes_on() {
    let pool = Pool::new(3, Isa::Scalar).unwrap();
    for panicking in [0, 5, 63] {
        let result = panic::catch_unwind(AssertUnwindSafe(|| {
            pool.run(64, |chunk| assert_ne!(chunk, panicking, "as asked"));
        }));
        assert!(result.is_err());
        let count = AtomicUsize::new(0);
        pool.run(64, |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 64);
    }
}

#[test]
fn a_dropped_pool_ends_its_threads() {
    for threads in [1, 2, 5] {
        drop(Pool::new(threads, Isa::Scalar).unwrap());
    }
}
