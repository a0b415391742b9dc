//! Sums over ranks of a decode step's row and of a prefill's, beside reading every rank's numbers once.

use std::time::{Duration, Instant};

use plimsoll_kernels::comm::{Collective, Exchange, Member, group};
use plimsoll_kernels::device::{Cpu, Device, Pages};
use plimsoll_kernels::pool::Pool;
use plimsoll_planner::Bytes;

use crate::cases::Report;
use crate::{Peak, Row};

const RUNS: usize = 200;

pub(crate) fn run(pool: &Pool, report: Report<'_>) {
    for ranks in [2, 4] {
        for hidden in [576, 4096] {
            for rows in [1, 4, 16, 64, 512] {
                let count = rows * hidden;
                report(Row {
                    name: format!("sum of {rows} x {hidden} over {ranks} ranks"),
                    seconds: sum(pool, ranks, count),
                    bytes: (ranks * count * 4) as f64,
                    operations: 0.0,
                    peak: Peak::F32,
                });
            }
        }
    }
}

fn members(ranks: usize, count: usize) -> Vec<Member> {
    let buffer = |_| {
        let bytes = Bytes::measured((count * 4) as u64);
        let mut buffer = Cpu.reserve(bytes, Pages::Small).expect("address space");
        buffer.commit_all().expect("memory");
        Exchange::new(buffer)
    };
    group((0..ranks).map(buffer).collect(), Duration::from_secs(60))
}

/// Seconds of the best sum, of the rank that took longest; ranks share the pool's number of threads.
fn sum(pool: &Pool, ranks: usize, count: usize) -> f64 {
    let (isa, threads) = (pool.isa(), pool.threads() / ranks);
    let best: Vec<f64> = std::thread::scope(|scope| {
        let ranks: Vec<_> = members(ranks, count)
            .into_iter()
            .map(|mut member| {
                scope.spawn(move || {
                    let pool = Pool::new(threads, isa).expect("threads");
                    let mut values = vec![0.5; count];
                    let mut best = f64::MAX;
                    for _ in 0..RUNS {
                        values.fill(0.5);
                        member.barrier().expect("all are there");
                        let begin = Instant::now();
                        member
                            .all_reduce_sum_on(&pool, &mut values)
                            .expect("no rank fails");
                        best = best.min(begin.elapsed().as_secs_f64());
                    }
                    member.barrier().expect("all are there");
                    best
                })
            })
            .collect();
        let best = ranks.into_iter().map(|rank| rank.join().expect("no panic"));
        best.collect()
    });
    best.into_iter().fold(0.0, f64::max)
}
