//! Sampling of a step's rows beside reading their logits once, on one rank and on two.

use std::time::{Duration, Instant};

use plimsoll_kernels::comm::{Collective, Exchange, Member, group};
use plimsoll_kernels::device::{Cpu, Device, Pages};
use plimsoll_kernels::pool::Pool;
use plimsoll_kernels::sampling::{self, Counts, Params, SCRATCH_WORDS, Sampler, VocabShard};
use plimsoll_planner::Bytes;

use crate::cases::Report;
use crate::{Peak, Row};

const ROWS: usize = 32;
/// Tokens of every row's prompt and output.
const PROMPT: usize = 3072;
const OUTPUT: usize = 1024;
const RUNS: usize = 60;

pub(crate) fn run(pool: &Pool, report: Report<'_>) {
    for vocabulary in [49_152, 128_256] {
        for (name, params) in kinds() {
            for ranks in [1, 2] {
                let seconds = match ranks {
                    1 => {
                        let mut member = members(1).remove(0);
                        draw(pool, &mut member, vocabulary, &params)
                    }
                    _ => on_two(pool, vocabulary, &params),
                };
                report(Row {
                    name: format!("{ROWS} rows of {vocabulary}, {name}, {ranks} ranks"),
                    seconds,
                    bytes: (ROWS * vocabulary * 4) as f64,
                    operations: 0.0,
                    peak: Peak::F32,
                });
            }
        }
    }
}

fn kinds() -> [(&'static str, Params); 6] {
    let drawn = Params {
        temperature: 0.8,
        seed: 7,
        ..Params::default()
    };
    let top_p = Params {
        top_p: 0.95,
        ..drawn
    };
    let top_k = Params { top_k: 40, ..top_p };
    let penalised = |params| Params {
        repetition_penalty: 1.1,
        presence_penalty: 0.2,
        frequency_penalty: 0.1,
        ..params
    };
    let logprobs = Params {
        logprobs: Some(5),
        ..top_p
    };
    [
        ("greedy", Params::default()),
        ("temperature", drawn),
        ("top-p", top_p),
        ("top-k, top-p", top_k),
        (
            "all of it",
            penalised(Params {
                min_p: 0.05,
                ..top_k
            }),
        ),
        ("top-p, logprobs", logprobs),
    ]
}

fn members(ranks: usize) -> Vec<Member> {
    let buffer = |_| {
        let mut buffer = Cpu
            .reserve(Bytes::measured(1 << 20), Pages::Small)
            .expect("address space");
        buffer.commit_all().expect("memory");
        Exchange::new(buffer)
    };
    group((0..ranks).map(buffer).collect(), Duration::from_secs(60))
}

/// Two ranks with half of the threads each.
fn on_two(pool: &Pool, vocabulary: usize, params: &Params) -> f64 {
    let (isa, threads) = (pool.isa(), pool.threads().div_ceil(2));
    let seconds: Vec<f64> = std::thread::scope(|scope| {
        let ranks: Vec<_> = members(2)
            .into_iter()
            .map(|mut member| {
                scope.spawn(move || {
                    let pool = Pool::new(threads, isa).expect("threads");
                    let seconds = draw(&pool, &mut member, vocabulary, params);
                    member.barrier().expect("both are there");
                    seconds
                })
            })
            .collect();
        ranks
            .into_iter()
            .map(|rank| rank.join().expect("no rank panics"))
            .collect()
    });
    seconds.into_iter().fold(0.0, f64::max)
}

/// Seconds of the best of [`RUNS`] steps.
fn draw(pool: &Pool, member: &mut Member, vocabulary: usize, params: &Params) -> f64 {
    let width = vocabulary / member.ranks();
    let small = |n: usize| u32::try_from(n).expect("small numbers");
    let shard = VocabShard {
        first: small(member.rank() * width),
        rows: small(width),
    };
    let first = member.rank() * width;
    let given: Vec<f32> = (0..ROWS)
        .flat_map(|row| (first..first + width).map(move |id| logit(row, id)))
        .collect();
    let tokens: Vec<u32> = (0..PROMPT + OUTPUT)
        .map(|at| small(usize::try_from(mix(at as u64) % (vocabulary as u64 / 8)).expect("small")))
        .collect();
    let mut counts = Counts::default();
    counts.follow(&tokens, PROMPT);
    let rows: Vec<sampling::Row<'_>> = (0..)
        .take(ROWS)
        .map(|position| sampling::Row {
            params,
            seen: counts.all(),
            drawn: None,
            bias: &[],
            target: None,
            position,
        })
        .collect();
    let mut logits = given.clone();
    let mut scratch = vec![0; ROWS * SCRATCH_WORDS];
    let (mut sampler, mut out) = (Sampler::default(), Vec::new());
    let mut best = f64::MAX;
    for _ in 0..RUNS {
        logits.copy_from_slice(&given);
        member.barrier().expect("all are there");
        let begin = Instant::now();
        let on: &mut dyn Collective = member;
        let (logits, scratch) = (&mut logits, &mut scratch);
        sampling::run(
            pool,
            on,
            &mut sampler,
            shard,
            &rows,
            logits,
            scratch,
            &mut out,
        )
        .expect("no rank fails");
        best = best.min(begin.elapsed().as_secs_f64());
    }
    best
}

/// About as a model's: a bell with a deviation of 2.5, and in each row some twenty tokens above it.
fn logit(row: usize, id: usize) -> f32 {
    let word = mix((row << 32 | id) as u64);
    let sum: u32 = word.to_le_bytes().iter().map(|byte| u32::from(*byte)).sum();
    let bell = (f64::from(sum) - 1020.0) / 209.0 * 2.5;
    let likely = mix(word).is_multiple_of(2500);
    let above = if likely {
        12.0 + (word % 80) as f64 / 10.0
    } else {
        0.0
    };
    #[expect(clippy::cast_possible_truncation, reason = "logits are f32")]
    let logit = (bell + above) as f32;
    logit
}

/// splitmix64
fn mix(seed: u64) -> u64 {
    let x = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
