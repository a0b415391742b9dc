//! Sampling against a naive sort, over every kind of split, and against chance.
#![allow(clippy::cast_possible_truncation, reason = "small vocabularies")]
#![allow(clippy::cast_precision_loss, reason = "tolerances cover it")]

mod edges;

use std::time::Duration;

use super::*;
use crate::comm::{Exchange, Member, group};
use crate::device::{Cpu, Device, Pages};
use crate::isa::Isa;
use crate::testing::Random;
use plimsoll_planner::Bytes;

const VOCABULARY: usize = 515;

fn members(ranks: usize) -> Vec<Member> {
    let buffer = |_| {
        let mut buffer = Cpu.reserve(Bytes::measured(4096), Pages::Small).unwrap();
        buffer.commit_all().unwrap();
        Exchange::new(buffer)
    };
    group((0..ranks).map(buffer).collect(), Duration::from_secs(20))
}

/// One sequence's history and parameters.
#[derive(Clone)]
struct Case {
    params: Params,
    prompt: Vec<u32>,
    output: Vec<u32>,
    bias: Vec<(u32, f32)>,
    target: Option<u32>,
    logits: Vec<f32>,
}

impl Case {
    /// Of all tokens but the last of the output, which is told beside them.
    fn counts(&self) -> Counts {
        let mut tokens = self.prompt.clone();
        tokens.extend(&self.output[..self.output.len().saturating_sub(1)]);
        let mut counts = Counts::default();
        counts.follow(&tokens, self.prompt.len());
        counts
    }
}

/// Draws every case at `position` with the vocabulary cut at `cuts`; all ranks must agree.
fn draw(cases: &[Case], cuts: &[usize], position: u32) -> Vec<Sampled> {
    let vocabulary = cases[0].logits.len();
    let mut edges = vec![0];
    edges.extend(cuts);
    edges.push(vocabulary);
    let drawn: Vec<Vec<Sampled>> = std::thread::scope(|scope| {
        let ranks = members(edges.len() - 1)
            .into_iter()
            .enumerate()
            .map(|(rank, mut member)| {
                let (first, end) = (edges[rank], edges[rank + 1]);
                scope.spawn(move || {
                    // Ranks of different instruction sets draw alike.
                    let isas = Isa::available();
                    let pool = Pool::new(1, isas[(rank + position as usize) % isas.len()]).unwrap();
                    let shard = VocabShard {
                        first: first as u32,
                        rows: (end - first) as u32,
                    };
                    let mut logits: Vec<f32> = cases
                        .iter()
                        .flat_map(|case| case.logits[first..end].to_vec())
                        .collect();
                    let counts: Vec<Counts> = cases.iter().map(Case::counts).collect();
                    let rows: Vec<Row<'_>> = cases
                        .iter()
                        .zip(&counts)
                        .map(|(case, counts)| Row {
                            params: &case.params,
                            seen: counts.all(),
                            drawn: case.output.last().copied(),
                            bias: &case.bias,
                            target: case.target,
                            position,
                        })
                        .collect();
                    let mut scratch = vec![u64::MAX; rows.len() * SCRATCH_WORDS];
                    let mut out = Vec::new();
                    let mut sampler = Sampler::default();
                    let (logits, scratch) = (&mut logits, &mut scratch);
                    run(
                        &pool,
                        &mut member,
                        &mut sampler,
                        shard,
                        &rows,
                        logits,
                        scratch,
                        &mut out,
                    )
                    .unwrap();
                    // Leave together: a member that leaves early poisons the group.
                    member.barrier().unwrap();
                    std::mem::forget(member);
                    out
                })
            });
        let ranks: Vec<_> = ranks.collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    for other in &drawn[1..] {
        assert_eq!(other, &drawn[0], "ranks disagree");
    }
    drawn[0].clone()
}

/// Rounded logits, so that equal ones occur.
fn logits(random: &mut Random, vocabulary: usize) -> Vec<f32> {
    (0..vocabulary)
        .map(|_| (random.value() * 24.0).round() / 4.0)
        .collect()
}

fn params(random: &mut Random, index: usize) -> Params {
    let pick = |random: &mut Random, values: &[f32]| values[random.below(values.len())];
    Params {
        temperature: pick(random, &[0.0, 0.3, 0.7, 1.0, 2.0]),
        top_k: [0, 1, 5, 40, 2000][random.below(5)],
        top_p: pick(random, &[1.0, 0.95, 0.5, 0.01]),
        min_p: pick(random, &[0.0, 0.0, 0.05, 0.9]),
        repetition_penalty: pick(random, &[1.0, 1.3]),
        presence_penalty: pick(random, &[0.0, 0.5, -0.5]),
        frequency_penalty: pick(random, &[0.0, 0.25]),
        seed: random.word(),
        stream: index as u32 % 3,
        logprobs: [None, Some(0), Some(5), Some(20)][random.below(4)],
    }
}

fn cases(random: &mut Random, count: usize) -> Vec<Case> {
    (0..count)
        .map(|index| Case {
            params: params(random, index),
            prompt: (0..random.below(30))
                .map(|_| random.below(VOCABULARY) as u32)
                .collect(),
            output: (0..random.below(30))
                .map(|_| random.below(60) as u32)
                .collect(),
            bias: bias(random),
            target: None,
            logits: logits(random, VOCABULARY),
        })
        .collect()
}

/// For half of the rows: a few ids, some of which are in outputs and some forbidden.
fn bias(random: &mut Random) -> Vec<(u32, f32)> {
    let count = random.below(2) * random.below(20);
    let mut ids: Vec<u32> = (0..count)
        .map(|at| random.below([60, VOCABULARY][at % 2]) as u32)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    let values = [-100.0, 2.5, 0.25, f32::NEG_INFINITY];
    ids.into_iter()
        .map(|id| (id, values[random.below(4)]))
        .collect()
}

/// The logits after biases and penalties, naively.
fn penalised(case: &Case) -> Vec<f32> {
    let mut logits = case.logits.clone();
    for (id, bias) in &case.bias {
        // Of an id that the vocabulary has not nothing comes.
        if let Some(x) = logits.get_mut(*id as usize) {
            *x += bias;
        }
    }
    for (id, x) in logits.iter_mut().enumerate() {
        let id = id as u32;
        let times = case.output.iter().filter(|token| **token == id).count();
        if times > 0 || case.prompt.contains(&id) {
            let penalty = case.params.repetition_penalty;
            *x = if *x > 0.0 { *x / penalty } else { *x * penalty };
        }
        if times > 0 {
            *x -= case.params.presence_penalty;
        }
        for _ in 0..times {
            *x -= case.params.frequency_penalty;
        }
    }
    logits
}

/// Tokens that may be drawn, by sorting: min-p, then top-k, then top-p.
fn allowed(case: &Case) -> Vec<u32> {
    let params = &case.params;
    let logits = penalised(case);
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scale = 1.0 / params.temperature;
    let mut tokens: Vec<(u64, u32)> = (0..)
        .zip(&logits)
        .map(|(id, x)| (weight::weight(weight::key((x - max) * scale)), id))
        .filter(|(w, _)| *w > 0 && *w >= weight::part_of(weight::WEIGHT_ONE, params.min_p))
        .collect();
    tokens.sort_by_key(|(w, id)| (std::cmp::Reverse(*w), *id));
    if params.top_k > 0 {
        tokens.truncate(params.top_k as usize);
    }
    let total: u64 = tokens.iter().map(|(w, _)| w).sum();
    let (mut sum, mut count) = (0, 0);
    while count < tokens.len() && sum < weight::part_of(total, params.top_p).max(1) {
        sum += tokens[count].0;
        count += 1;
    }
    tokens[..count].iter().map(|(_, id)| *id).collect()
}

#[test]
fn every_split_draws_the_same_tokens() {
    let mut random = Random::new(11);
    let splits: [&[usize]; 6] = [
        &[256],
        &[64],
        &[512],
        &[64, 128],
        &[0, 192, 192, 448],
        &[64, 128, 448, 515],
    ];
    for round in 0..12 {
        let cases = cases(&mut random, 6);
        let whole = draw(&cases, &[], round);
        for cuts in splits {
            assert_eq!(
                draw(&cases, cuts, round),
                whole,
                "cut at {cuts:?}, round {round}"
            );
        }
    }
}

#[test]
fn drawn_tokens_are_those_a_sort_allows_and_all_of_them_occur() {
    let mut random = Random::new(5);
    for round in 0..30 {
        let mut case = cases(&mut random, 1).remove(0);
        // Few likely tokens, so that all of them come up.
        case.params.temperature = 1.5;
        case.params.top_k = [0, 3, 7][round % 3];
        case.params.top_p = [1.0, 0.6, 0.3][round / 3 % 3];
        // They lie in two blocks.
        case.logits.truncate(70);
        case.logits[6..64].fill(-30.0);
        case.logits.iter_mut().for_each(|x| *x = (*x / 2.0).round());
        (case.prompt, case.output) = (vec![], vec![1, 1, 4]);
        let allowed = allowed(&case);
        let mut seen = std::collections::HashSet::new();
        let repeated: Vec<Case> = vec![case; 256];
        for position in 0..10 {
            let mut repeated = repeated.clone();
            (0..)
                .zip(&mut repeated)
                .for_each(|(stream, case)| case.params.stream = stream);
            for sampled in draw(&repeated, &[], position) {
                assert!(
                    allowed.contains(&sampled.id),
                    "{} is not allowed",
                    sampled.id
                );
                seen.insert(sampled.id);
            }
        }
        // A token that should come up 10 times or more in 2,560 draws does.
        let logits = penalised(&repeated[0]);
        let exp = |id: u32| f64::from(logits[id as usize] / 1.5).exp();
        let sum: f64 = allowed.iter().map(|id| exp(*id)).sum();
        for id in allowed.iter().filter(|id| exp(**id) / sum > 10.0 / 2560.0) {
            assert!(seen.contains(id), "round {round}: {id} never came up");
        }
    }
}

#[test]
fn frequencies_are_the_probabilities() {
    const DRAWS: u32 = 20_000;
    let likely = [2.0, 1.0, 0.5, 0.0, -1.0, 1.5, 0.25, -2.0];
    // They lie in four blocks of 64, with nothing between them.
    let mut logits = vec![f32::NEG_INFINITY; 250];
    (0..)
        .step_by(33)
        .zip(likely)
        .for_each(|(at, x): (usize, f32)| logits[at] = x);
    let case = |stream| Case {
        params: Params {
            temperature: 0.8,
            seed: 42,
            stream,
            ..Params::default()
        },
        prompt: vec![],
        output: vec![],
        bias: vec![],
        target: None,
        logits: logits.clone(),
    };
    let cases: Vec<Case> = (0..200).map(case).collect();
    let mut counts = [0f64; 8];
    for position in 0..DRAWS / 200 {
        for sampled in draw(&cases, &[], position) {
            assert!(sampled.id.is_multiple_of(33));
            counts[sampled.id as usize / 33] += 1.0;
        }
    }
    let sum: f64 = likely.iter().map(|x| f64::from(x / 0.8).exp()).sum();
    let chi_square: f64 = likely
        .iter()
        .zip(counts)
        .map(|(x, count)| {
            let expected = f64::from(DRAWS) * f64::from(x / 0.8).exp() / sum;
            (count - expected).powi(2) / expected
        })
        .sum();
    // 7 degrees of freedom: 24.3 is passed by chance once in a thousand; the seed is fixed.
    assert!(
        chi_square < 24.3,
        "chi square {chi_square}, counts {counts:?}"
    );
}

#[test]
fn greedy_takes_the_lowest_of_equal_ids_and_reports_exact_logprobs() {
    let mut random = Random::new(9);
    for logprobs in [None, Some(3)] {
        let mut case = cases(&mut random, 1).remove(0);
        case.params = Params {
            logprobs,
            repetition_penalty: 1.2,
            ..Params::default()
        };
        case.logits[70] = 9.0;
        case.logits[300] = 9.0;
        (case.prompt, case.output) = (vec![5], vec![6]);
        case.bias.clear();
        let sampled = draw(std::slice::from_ref(&case), &[128, 256], 0).remove(0);
        assert_eq!(sampled.id, 70);
        let Some(reported) = sampled.logprobs else {
            assert_eq!(logprobs, None);
            continue;
        };
        let sum: f64 = case.logits.iter().map(|x| f64::from(*x).exp()).sum();
        let exact = |id: u32| f64::from(case.logits[id as usize]) - sum.ln();
        assert!((f64::from(reported.logprob) - exact(70)).abs() < 1e-5);
        assert_eq!(
            reported
                .top
                .iter()
                .map(|(id, _)| *id)
                .take(2)
                .collect::<Vec<_>>(),
            [70, 300]
        );
        for (id, logprob) in &reported.top {
            assert!((f64::from(*logprob) - exact(*id)).abs() < 1e-5);
        }
    }
}

#[test]
fn a_penalised_token_reports_the_models_own_logprob() {
    let mut random = Random::new(13);
    let mut case = cases(&mut random, 1).remove(0);
    case.params = Params {
        logprobs: Some(2),
        presence_penalty: -30.0,
        temperature: 1.0,
        top_k: 1,
        ..Params::default()
    };
    case.output = vec![17, 17];
    case.bias.clear();
    let sampled = draw(std::slice::from_ref(&case), &[64, 128], 3).remove(0);
    assert_eq!(
        sampled.id, 17,
        "a negative penalty makes it the most likely"
    );
    let sum: f64 = case.logits.iter().map(|x| f64::from(*x).exp()).sum();
    let exact = f64::from(case.logits[17]) - sum.ln();
    assert!((f64::from(sampled.logprobs.unwrap().logprob) - exact).abs() < 1e-5);
}
