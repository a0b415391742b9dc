//! Sampling on a card against the CPU: not close, but equal. Tokens, log-probabilities, the winners'
//! times, every key, every set that may be drawn from and every sum are compared to the bit.

mod card;
mod case;
mod edges;
mod limits;

use super::{Params, Sampled, cuda};
use crate::gpu::trial::{self, Bench, Failure, Trial};
use card::{Exchange, on_card, small_card};
use case::{Case, Drawn, any_case, on_cpu};

const OP: &str = "sampling";

pub(crate) fn all() -> Vec<Trial> {
    let mut trials = Vec::new();
    let mut add = |name: String, prove: fn(&Bench<'_>, usize) -> Result<(), Failure>, at: usize| {
        trials.push(Trial::new(OP, name, move |bench| prove(bench, at)));
    };
    for width in [64, 65, 127, 128, 129, 191, 200] {
        add(format!("{width} ids, any parameters"), of_width, width);
    }
    for seed in 0..4 {
        add(
            format!("2,051 ids on 1, 2 and 3 ranks, {seed}"),
            in_shards,
            seed,
        );
    }
    add("120 rows in one batch".to_owned(), many_rows, 120);
    for (at, (rows, width, chunk)) in CHUNKS.into_iter().enumerate() {
        let name = format!("{rows} x {width} in chunks of {chunk}");
        add(name, in_chunks, at);
    }
    for (name, prove) in [
        (
            "ranks with an exchange each",
            copied as fn(&Bench<'_>, usize) -> _,
        ),
        ("ranks of the CPU and of the card", beside_a_group),
        ("parameters at their extremes", edges::extremes),
        ("ties at the threshold", edges::ties),
        ("few ties at the threshold", edges::few_ties),
        ("few ties in several chunks", edges::few_ties_in_chunks),
        (
            "a part of a sum that is no number of units",
            edges::part_of_a_sum,
        ),
        (
            "numbers that are none, and infinite ones",
            edges::no_numbers,
        ),
        ("penalties of long and strange histories", edges::histories),
        ("biases, alone and beside penalties", edges::biases),
        ("tokens that are given", edges::given),
        ("sums at the top of a bin", edges::top_of_a_bin),
        ("greedy rows alone", limits::greedy_alone),
        ("one rank in one call", limits::in_one_call),
        ("no rows", limits::no_rows),
        ("what no kernel takes is refused", limits::refusals),
    ] {
        add(name.to_owned(), prove, 0);
    }
    trials
}

/// Rows, width, and the chunk that four multiprocessors get: every one of them, and a last chunk that
/// is short.
const CHUNKS: [(usize, usize, u32); 4] = [
    (8, 8300, 8192),
    (4, 12_500, 4096),
    (2, 14_400, 2048),
    (1, 3000, 1024),
];

/// Compares what the card drew on these shards with what the CPU drew on one.
fn equal(bench: &Bench<'_>, cases: &[Case], cuts: &[&[usize]]) -> Result<(), Failure> {
    let wanted = on_cpu(cases)?;
    for cuts in cuts {
        let got = on_card(bench, cases, cuts, Exchange::Shared)?;
        compare(cases, &got, &wanted, cuts)?;
    }
    Ok(())
}

fn compare(cases: &[Case], got: &[Drawn], wanted: &[Drawn], cuts: &[usize]) -> Result<(), Failure> {
    for (row, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        let params = cases[row].params;
        let fail = |what: String| {
            Failure::Wrong(format!("row {row}, cut at {cuts:?}: {what}; {params:?}"))
        };
        if let Some(id) = (0..wanted.keys.len()).find(|id| got.keys[*id] != wanted.keys[*id]) {
            let (got, wanted) = (got.keys[id], wanted.keys[id]);
            return Err(fail(format!(
                "the key of {id} is {got:#x}, should be {wanted:#x}"
            )));
        }
        if got.kept != wanted.kept {
            let (got, wanted) = (got.kept.len(), wanted.kept.len());
            return Err(fail(format!(
                "{got} tokens stay, should be {wanted}, or others"
            )));
        }
        if (got.time, got.own_sum) != (wanted.time, wanted.own_sum) {
            let (got, wanted) = ((got.time, got.own_sum), (wanted.time, wanted.own_sum));
            return Err(fail(format!(
                "time and sum are {got:?}, should be {wanted:?}"
            )));
        }
        if !same_tokens(&got.sampled, &wanted.sampled) {
            let (got, wanted) = (&got.sampled, &wanted.sampled);
            return Err(fail(format!("drew {got:?}, should be {wanted:?}")));
        }
    }
    Ok(())
}

/// To the bit; what is not a number is like any other such.
fn same_tokens(got: &Sampled, wanted: &Sampled) -> bool {
    let bits = |x: f32| {
        if x.is_nan() {
            f32::NAN.to_bits()
        } else {
            x.to_bits()
        }
    };
    let all = |sampled: &Sampled| {
        sampled.logprobs.as_ref().map(|logprobs| {
            let top = logprobs.top.iter().map(|(id, x)| (*id, bits(*x)));
            (bits(logprobs.logprob), top.collect::<Vec<_>>())
        })
    };
    (got.id, got.finite, all(got)) == (wanted.id, wanted.finite, all(wanted))
}

fn cases(seed: usize, count: usize, width: usize) -> Vec<Case> {
    let mut random = trial::random(seed);
    (0..count).map(|_| any_case(&mut random, width)).collect()
}

fn of_width(bench: &Bench<'_>, width: usize) -> Result<(), Failure> {
    let cases = cases(width, 8, width);
    let last_block = width.div_ceil(64) * 64 - 64;
    equal(bench, &cases, &[&[], &[last_block]])
}

fn in_shards(bench: &Bench<'_>, seed: usize) -> Result<(), Failure> {
    let cases = cases(seed, 5, 2051);
    let cuts: [&[usize]; 3] = [&[], &[64], &[1024, 2048]];
    equal(bench, &cases, &cuts[..2 + seed % 2])
}

fn many_rows(bench: &Bench<'_>, rows: usize) -> Result<(), Failure> {
    equal(bench, &cases(rows, rows, 130), &[&[]])
}

fn in_chunks(bench: &Bench<'_>, at: usize) -> Result<(), Failure> {
    let (rows, width, chunk) = CHUNKS[at];
    let ids = u32::try_from(width).unwrap_or(u32::MAX);
    let used = cuda::chunk(&small_card(bench), rows, ids);
    if used != chunk {
        return Err(Failure::Wrong(format!("chunks of {used}, not {chunk}")));
    }
    let mut cases = cases(at, rows, width);
    // Ties in several chunks, of which some go; the best one is the last chunk's.
    let case = &mut cases[0];
    case.logits.iter_mut().for_each(|x| *x = x.round());
    case.logits[width - 1] = 12.5;
    case.params = Params {
        temperature: 2.0,
        top_k: u32::try_from(width / 3).unwrap_or(u32::MAX),
        min_p: 0.0,
        logprobs: Some(3),
        ..case.params
    };
    equal(bench, &cases, &[&[]])
}

/// Some shards are empty, in front, between and behind.
fn copied(bench: &Bench<'_>, _: usize) -> Result<(), Failure> {
    let mut cases = cases(3, 6, 515);
    (cases[0].params.top_k, cases[0].params.top_p) = (7, 0.8);
    cases[0].params.temperature = 1.0;
    let wanted = on_cpu(&cases)?;
    let splits: [&[usize]; 4] = [&[256], &[0, 64], &[192, 192, 448], &[128, 515]];
    for cuts in splits {
        let got = on_card(bench, &cases, cuts, Exchange::Copied)?;
        compare(&cases, &got, &wanted, cuts)?;
    }
    Ok(())
}

fn beside_a_group(bench: &Bench<'_>, _: usize) -> Result<(), Failure> {
    let cases = cases(8, 8, 515);
    for cuts in [&[320][..], &[64, 448]] {
        let wanted = case::tokens_of_cpu(&cases, cuts)?;
        let got = on_card(bench, &cases, cuts, Exchange::Shared)?;
        for (row, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
            if !same_tokens(&got.sampled, wanted) {
                let got = &got.sampled;
                return Err(Failure::Wrong(format!(
                    "row {row}: {got:?}, should be {wanted:?}"
                )));
            }
        }
    }
    Ok(())
}
