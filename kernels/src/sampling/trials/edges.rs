//! Parameters, numbers and histories where something goes over an edge.

use std::ops::RangeInclusive;

use super::case::{self, Case, any_case};
use super::{cases, equal};
use crate::gpu::trial::{self, Bench, Failure};
use crate::sampling::Params;

pub(super) fn extremes(bench: &Bench<'_>, _: usize) -> Result<(), Failure> {
    let mut random = trial::random(21);
    let mut cases = Vec::new();
    for top_k in [0, 1, 129, 130, 131, u32::MAX] {
        for (top_p, min_p) in [
            (1e-9, 0.0),
            (0.0, 0.0),
            (1.0, 1.0),
            (0.999_999_94, 0.0),
            (0.7, 1e-30),
        ] {
            let mut case = any_case(&mut random, 130);
            let temperature = [1e-3, 1.0, 60.0][random.below(3)];
            case.params = Params {
                temperature,
                top_k,
                top_p,
                min_p,
                ..case.params
            };
            cases.push(case);
        }
    }
    equal(bench, &cases, &[&[], &[64]])
}

/// Few different logits, so that nearly every threshold falls among equal ones.
pub(super) fn ties(bench: &Bench<'_>, _: usize) -> Result<(), Failure> {
    let mut random = trial::random(34);
    let mut cases = Vec::new();
    for (top_k, top_p, min_p) in [
        (0, 0.3, 0.0),
        (0, 0.9, 0.0),
        (3, 1.0, 0.0),
        (3, 1.0, 1.0), // only the largest pass, and not all of them
        (100, 1.0, 0.0),
        (200, 0.5, 0.0),
        (299, 1.0, 0.0),
    ] {
        for kinds in [1, 3] {
            let logits = (0..300).map(|_| random.below(kinds) as f32).collect();
            let params = Params {
                temperature: 1.0,
                top_k,
                top_p,
                min_p,
                seed: random.word(),
                ..Params::default()
            };
            cases.push(Case::new(logits, params));
        }
    }
    equal(bench, &cases, &[&[], &[64, 256]])
}

/// Eight equal tokens in both halves of two blocks, of which the first few stay: one that should not
/// run wins soon.
pub(super) fn few_ties(bench: &Bench<'_>, _: usize) -> Result<(), Failure> {
    let cases = only(130, [3, 20, 40, 60, 70, 96, 101, 127], 1..=8, 3);
    equal(bench, &cases, &[&[], &[64]])
}

/// The same in three chunks of 1,024.
pub(super) fn few_ties_in_chunks(bench: &Bench<'_>, _: usize) -> Result<(), Failure> {
    let cases = only(
        3000,
        [3, 1020, 1030, 1500, 2040, 2050, 2500, 2999],
        1..=5,
        1,
    );
    equal(bench, &cases, &[&[]])
}

/// Rows in which these tokens alone are likely, all alike, and `top_k` of them stay: `rows` of each.
fn only(width: usize, ids: [usize; 8], top_k: RangeInclusive<u32>, rows: usize) -> Vec<Case> {
    let mut random = trial::random(35);
    let mut cases = Vec::new();
    for top_k in top_k {
        for _ in 0..rows {
            let mut logits = vec![f32::NEG_INFINITY; width];
            ids.iter().for_each(|id| logits[*id] = 1.0);
            let params = Params {
                temperature: 1.0,
                top_k,
                seed: random.word(),
                ..Params::default()
            };
            cases.push(Case::new(logits, params));
        }
    }
    cases
}

/// Weights of 2^40, 256 times 256, and 1: the part of their sum is a little less than 2^40 + 1, which
/// the first token alone does not reach.
pub(super) fn part_of_a_sum(bench: &Bench<'_>, _: usize) -> Result<(), Failure> {
    let mut logits = vec![-22.1807; 258];
    (logits[100], logits[200]) = (0.0, -27.7);
    let params = Params {
        temperature: 1.0,
        top_p: 0.999_999_94,
        ..Params::default()
    };
    let cases = [Case::new(logits, params)];
    match case::on_cpu(&cases)?[0].kept[..] {
        [0, 100] => equal(bench, &cases, &[&[], &[64]]),
        ref kept => Err(Failure::Wrong(format!(
            "{kept:?} stay, should be 0 and 100"
        ))),
    }
}

pub(super) fn no_numbers(bench: &Bench<'_>, _: usize) -> Result<(), Failure> {
    const NAN: f32 = f32::NAN;
    const INFINITE: f32 = f32::INFINITY;
    let fills: [(f32, &[(usize, f32)]); 9] = [
        (NAN, &[]),
        (NAN, &[(100, 1.0)]),
        (-INFINITE, &[]),
        (-INFINITE, &[(63, NAN), (64, -3.0)]),
        (INFINITE, &[]),
        (0.5, &[(70, INFINITE), (71, INFINITE)]),
        (NAN, &[(5, -INFINITE), (90, INFINITE)]),
        (-0.0, &[(3, 0.0), (129, 0.0)]),
        (f32::MIN, &[(2, f32::MAX), (80, 1e-40)]),
    ];
    let mut cases = Vec::new();
    for (fill, exceptions) in fills {
        for temperature in [0.0, 1.0] {
            let mut logits = vec![fill; 130];
            exceptions.iter().for_each(|(at, x)| logits[*at] = *x);
            let params = Params {
                temperature,
                logprobs: Some(3),
                top_p: 0.9,
                ..Params::default()
            };
            cases.push(Case::new(logits, params));
        }
    }
    equal(bench, &cases, &[&[], &[64], &[128]])
}

pub(super) fn histories(bench: &Bench<'_>, _: usize) -> Result<(), Failure> {
    let mut cases = cases(55, 8, 200);
    for (at, case) in cases.iter_mut().enumerate() {
        case.params = Params {
            temperature: if at % 2 == 0 { 1.0 } else { 0.0 },
            repetition_penalty: [1.7, 1.0, 0.6][at % 3],
            presence_penalty: [0.0, -20.0][at / 2 % 2],
            frequency_penalty: [0.013, 0.0, -0.4][at % 3],
            logprobs: Some(2),
            ..case.params
        };
    }
    cases[0].output = vec![70; 400]; // often one token
    cases[1].output = (0..700).map(|t| t % 200).collect(); // every token
    cases[2].prompt = vec![199, 200, 201, u32::MAX, 0]; // ids that no vocabulary has
    cases[3].prompt.clear(); // nothing to read
    cases[3].output.clear();
    cases[4].prompt = vec![64; 300];
    cases[4].output = vec![64, 64, 5, 63];
    // What it drew was seen, and its own logit is reported.
    cases[6].params.presence_penalty = -60.0;
    cases[6].output = vec![150, 150];
    equal(bench, &cases, &[&[], &[64], &[64, 128]])
}

/// 8,191 equal keys in a chunk, the last of their bin: their sum needs all 32 bits.
pub(super) fn top_of_a_bin(bench: &Bench<'_>, _: usize) -> Result<(), Failure> {
    let mut logits = vec![case::at_the_top_of_a_bin(0.0); 8192 + 64];
    logits[8000] = 0.0;
    let params = Params {
        temperature: 1.0,
        top_p: 0.37,
        ..Params::default()
    };
    let cases = vec![Case::new(logits, params); 8];
    equal(bench, &cases[..], &[&[]])
}

/// Every id, ids that no vocabulary has, one id alone, and what must never be drawn.
pub(super) fn biases(bench: &Bench<'_>, _: usize) -> Result<(), Failure> {
    let mut cases = cases(56, 8, 200);
    for (at, case) in cases.iter_mut().enumerate() {
        case.params = Params {
            temperature: if at % 2 == 0 { 1.0 } else { 0.0 },
            repetition_penalty: [1.0, 1.7][at / 2 % 2],
            presence_penalty: [0.0, 0.5][at / 4],
            frequency_penalty: 0.0,
            logprobs: [Some(2), None][at / 3 % 2],
            ..case.params
        };
        case.bias = match at % 4 {
            0 => (0..200).map(|id| (id, id as f32 * 0.031 - 3.0)).collect(),
            1 => vec![
                (64, 30.0),
                (150, -30.0),
                (199, 29.9),
                (200, 100.0),
                (u32::MAX, 100.0),
            ],
            // 62 is in no history: no penalty is its.
            2 => vec![(62, 99.0), (63, 100.0)],
            _ => (0..200)
                .map(|id| (id, if id == 77 { 0.0 } else { f32::NEG_INFINITY }))
                .collect(),
        };
        (case.prompt, case.output) = (vec![63, 77, 5], vec![63, 63, 64, 77]);
    }
    let wanted = case::on_cpu(&cases)?;
    if wanted[3].sampled.id != 77 || wanted[7].sampled.id != 77 {
        return Err(Failure::Wrong("a forbidden token was drawn".to_owned()));
    }
    equal(bench, &cases, &[&[], &[64], &[64, 128]])
}

/// Tokens of every shard, likely ones and others, beside rows that are drawn.
pub(super) fn given(bench: &Bench<'_>, _: usize) -> Result<(), Failure> {
    let mut cases = cases(57, 8, 200);
    for (case, target) in cases.iter_mut().zip([0, 63, 64, 127, 199, 5]) {
        case.params = Params {
            logprobs: Some(2),
            ..Params::default()
        };
        case.bias.clear();
        case.target = Some(target);
    }
    cases[5].logits[5] = 99.0; // among those listed
    equal(bench, &cases, &[&[], &[64], &[64, 128]])
}
