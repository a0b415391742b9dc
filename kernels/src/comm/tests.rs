//! Ranks agree bit for bit; a rank that fails, leaves or stays away lets the others go quickly.

use std::panic;
use std::thread;
use std::time::{Duration, Instant};

use plimsoll_planner::Bytes;

use super::group::PIECES_FROM;
use super::*;
use crate::device::{Cpu, Device, Pages};
use crate::pool::Pool;
use crate::testing::Random;

const LIMIT: Duration = Duration::from_secs(20);

fn members(ranks: usize, bytes: u64, limit: Duration) -> Vec<Member> {
    let buffers = (0..ranks).map(|_| {
        let mut buffer = Cpu.reserve(Bytes::measured(bytes), Pages::Small).unwrap();
        buffer.commit_all().unwrap();
        buffer.poison();
        Exchange::new(buffer)
    });
    group(buffers.collect(), limit)
}

/// Runs `work` on every rank and returns what each gave.
fn on_all<T: Send>(members: Vec<Member>, work: impl Fn(Member) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let ranks: Vec<_> = members
            .into_iter()
            .map(|m| scope.spawn(move || work(m)))
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn sums_are_taken_in_rank_order_with_equal_bits_everywhere() {
    for ranks in [1, 2, 3, 5] {
        // Longer and shorter than the exchange buffer of one page.
        for len in [1, 7, 1024, 1025, 5000] {
            let values: Vec<Vec<f32>> = (0..ranks)
                .map(|rank| {
                    Random::new(rank as u64)
                        .values(len)
                        .iter()
                        .map(|v| v * 1e3)
                        .collect()
                })
                .collect();
            let expected: Vec<f32> = (0..len)
                .map(|i| {
                    values[1..]
                        .iter()
                        .fold(values[0][i], |sum, values| sum + values[i])
                })
                .collect();
            let sums = on_all(members(ranks, 4096, LIMIT), |mut member| {
                let mut sums = Vec::new();
                for _ in 0..20 {
                    sums = values[member.rank()].clone();
                    member.all_reduce_sum(&mut sums).unwrap();
                }
                member.barrier().unwrap();
                sums
            });
            assert!(
                sums.iter().all(|sum| *sum == expected),
                "{ranks} ranks, {len} numbers"
            );
        }
    }
}

#[test]
fn sums_in_pieces_have_the_bits_of_whole_ones() {
    for (ranks, threads) in [(2, 1), (3, 2), (5, 1)] {
        // Last pieces that are shorter or none, and tasks of a pool.
        for len in [1, 15, 33, 1000, 70_001, 140_000] {
            let values: Vec<Vec<f32>> = (0..ranks)
                .map(|rank| Random::new(rank as u64).values(len))
                .collect();
            let added = |i: usize| {
                let others = values[1..].iter();
                others.fold(values[0][i], |sum, values| sum + values[i])
            };
            let expected: Vec<f32> = (0..len).map(added).collect();
            on_all(members(ranks, 560_000, LIMIT), |mut member| {
                let pool = Pool::new(threads, crate::isa::Isa::Scalar).unwrap();
                for _ in 0..3 {
                    let mut sums = values[member.rank()].clone();
                    member.add_pieces(Some(&pool), &mut sums).unwrap();
                    assert!(sums == expected, "{ranks} ranks, {len} numbers");
                }
                member.barrier().unwrap();
            });
        }
    }
}

#[test]
fn a_rank_that_fails_between_the_pieces_of_a_sum_lets_the_others_go() {
    let start = Instant::now();
    let results = on_all(members(3, 4096, LIMIT), |mut member| {
        let mut values = vec![1.0; 1000];
        if member.rank() == 2 {
            // Its numbers, and nothing of the sums.
            let none = |_: usize, _: &[f32], _: &mut [f32]| {};
            member
                .exchange_parts(&mut values, 0..1000, |_| 0..0, none)
                .unwrap();
            member.fail("it ran out of luck");
            return Ok(());
        }
        member.add_pieces(None, &mut values)
    });
    assert!(start.elapsed() < LIMIT / 4);
    for result in &results[..2] {
        let failed = matches!(result, Err(RankFailed::Failed { rank: 2, .. }));
        assert!(failed, "{results:?}");
    }
}

#[test]
fn long_sums_go_by_pieces_and_short_ones_do_not() {
    for (len, meetings) in [(PIECES_FROM - 1, 2), (PIECES_FROM, 4)] {
        let bytes = (PIECES_FROM * size_of::<f32>()) as u64;
        let met = on_all(members(2, bytes, LIMIT), |mut member| {
            let mut values = vec![0.25; len];
            member.all_reduce_sum(&mut values).unwrap();
            assert!(values.iter().all(|sum| *sum == 0.5));
            let met = member.meetings();
            member.barrier().unwrap();
            met
        });
        assert!(met.iter().all(|met| *met >= meetings), "{met:?}");
        assert!(met.iter().any(|met| *met <= meetings + 1), "{met:?}");
    }
}

#[test]
fn records_are_gathered_and_sent_in_rank_order() {
    for ranks in [1, 2, 4] {
        for len in [0, 1, 3, 512, 513, 2000] {
            let word = |rank: usize, i: usize| (rank * 1_000_000 + i) as u64;
            on_all(members(ranks, 4096, LIMIT), |mut member| {
                let rank = member.rank();
                let mine: Vec<u64> = (0..len).map(|i| word(rank, i)).collect();
                let mut all = vec![u64::MAX; len * ranks];
                member.all_gather(&mine, &mut all).unwrap();
                let expected: Vec<u64> = (0..ranks)
                    .flat_map(|rank| (0..len).map(move |i| word(rank, i)))
                    .collect();
                assert_eq!(all, expected);
                let mut words = mine;
                member.broadcast(ranks - 1, &mut words).unwrap();
                assert_eq!(
                    words,
                    (0..len).map(|i| word(ranks - 1, i)).collect::<Vec<_>>()
                );
                member.barrier().unwrap();
            });
        }
    }
}

#[test]
fn a_failing_rank_lets_the_others_go_at_once_and_for_good() {
    let start = Instant::now();
    let results = on_all(members(3, 4096, LIMIT), |mut member| {
        let mut values = vec![1.0; 10];
        member.all_reduce_sum(&mut values).unwrap();
        if member.rank() == 1 {
            member.fail("its arena would not commit");
            return None;
        }
        let first = member.all_reduce_sum(&mut values);
        let later = member.barrier();
        Some((first, later))
    });
    assert!(
        start.elapsed() < LIMIT / 4,
        "released after {:?}",
        start.elapsed()
    );
    let reason = "its arena would not commit".to_owned();
    let failed = Err(RankFailed::Failed { rank: 1, reason });
    assert_eq!(
        results,
        [
            Some((failed.clone(), failed.clone())),
            None,
            Some((failed.clone(), failed))
        ]
    );
}

#[test]
fn a_rank_that_panics_or_leaves_counts_as_failed() {
    let start = Instant::now();
    let results = on_all(members(2, 4096, LIMIT), |mut member| {
        if member.rank() == 0 {
            let left = panic::catch_unwind(panic::AssertUnwindSafe(move || {
                let _member = member;
                panic::resume_unwind(Box::new("as asked"));
            }));
            assert!(left.is_err());
            return Ok(());
        }
        member.barrier()
    });
    assert!(start.elapsed() < LIMIT / 4);
    assert!(
        matches!(&results[1], Err(RankFailed::Failed { rank: 0, .. })),
        "{results:?}"
    );
}

#[test]
fn a_rank_that_stays_away_is_waited_for_no_longer_than_the_limit() {
    let mut members = members(2, 4096, Duration::from_millis(50));
    let _away = members.remove(0);
    let start = Instant::now();
    let result = members[0].barrier();
    assert!(
        matches!(result, Err(RankFailed::TimedOut { rank: 1, .. })),
        "{result:?}"
    );
    assert!(start.elapsed() >= Duration::from_millis(50) && start.elapsed() < LIMIT);
}

#[test]
fn a_group_of_one_needs_no_bytes() {
    let buffer = Cpu.reserve(Bytes::measured(4096), Pages::Small).unwrap();
    let mut member = group(vec![Exchange::new(buffer)], LIMIT).remove(0);
    let mut values = [1.0, 2.0];
    member.all_reduce_sum(&mut values).unwrap();
    assert_eq!((values, member.ranks()), ([1.0, 2.0], 1));
}

/// Pages of an exchange buffer as the kernel sees them.
fn shared(bytes: u64) -> (Exchange, Pool) {
    let mut buffer = Cpu.reserve(Bytes::measured(bytes), Pages::Small).unwrap();
    buffer.commit_all().unwrap();
    (
        Exchange::new(buffer),
        Pool::new(1, crate::isa::Isa::Scalar).unwrap(),
    )
}

#[test]
fn ranks_give_their_pages_back_between_collectives_and_go_on() {
    const RANKS: usize = 3;
    const BYTES: usize = 8192;
    let ends: Vec<_> = (0..RANKS).map(|_| shared(BYTES as u64)).collect();
    let buffers = ends.iter().map(|(exchange, _)| exchange.clone()).collect();
    let ends: Vec<_> = group(buffers, LIMIT).into_iter().zip(ends).collect();
    let sums: Vec<f32> = thread::scope(|scope| {
        let ranks = ends.into_iter().map(|(mut member, (exchange, pool))| {
            scope.spawn(move || {
                let mut values = vec![1.0; 5000];
                for _ in 0..50 {
                    values.fill(1.0);
                    member.all_reduce_sum(&mut values).unwrap();
                    // Others may be far ahead, or still on their way out of the last sum.
                    exchange.discard(&pool, 0..BYTES).unwrap();
                    assert_eq!(exchange.committed(), Bytes::ZERO);
                    exchange.commit_poisoned(&pool, 0..BYTES).unwrap();
                }
                member.barrier().unwrap();
                values[4999]
            })
        });
        let ranks: Vec<_> = ranks.collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    assert_eq!(sums, [3.0; RANKS]);
}

#[test]
fn pages_that_others_may_still_read_cannot_be_given_back() {
    let ends = [shared(4096), shared(4096)];
    let buffers = ends.iter().map(|(exchange, _)| exchange.clone()).collect();
    let mut members = group(buffers, Duration::from_millis(50));
    let (exchange, pool) = &ends[0];
    let mut values = [1.0; 8];
    assert!(members[0].all_reduce_sum(&mut values).is_err(), "alone");
    let busy = |result| matches!(result, Err(crate::device::DeviceError::Busy { .. }));
    assert!(busy(exchange.discard(pool, 0..4096)));
    assert!(busy(exchange.commit_poisoned(pool, 0..4096)));
    // The other rank never took part: its pages are its own.
    ends[1].0.discard(pool, 0..4096).unwrap();
}

#[test]
fn a_rank_without_its_pages_takes_no_part() {
    let ends = [shared(4096), shared(4096)];
    let buffers = ends.iter().map(|(exchange, _)| exchange.clone()).collect();
    let members = group(buffers, LIMIT);
    let (exchange, pool) = &ends[1];
    exchange.discard(pool, 0..4096).unwrap();
    let outcomes = on_all(members, |mut member| {
        let take_part = || member.barrier();
        let outcome = panic::catch_unwind(panic::AssertUnwindSafe(take_part));
        // A rank's thread says why it ends; here its member is dropped.
        drop(member);
        outcome
    });
    assert!(matches!(
        outcomes[0],
        Ok(Err(RankFailed::Failed { rank: 1, .. }))
    ));
    assert!(outcomes[1].is_err(), "it panics");
}
