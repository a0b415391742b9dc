//! What is little work, and what is none of the kernels' business.

use super::card::batch;
use super::case::{self, Case};
use super::{cases, equal, same_tokens};
use crate::gpu::trial::{Bench, Failure, refused};
use crate::gpu::{GpuError, Kind};
use crate::sampling::cuda::{self, Batch, Buffers, Place, Plan, RECORD_WORDS};
use crate::sampling::{MAX_LOGPROBS, Params, SHARD_ROWS_MAX, Sampled, VocabShard};

pub(super) fn greedy_alone(bench: &Bench<'_>, _: usize) -> Result<(), Failure> {
    let mut cases = cases(60, 5, 300);
    for case in &mut cases {
        case.params.temperature = 0.0;
        case.params.logprobs = None;
    }
    // Nothing comes between the two that are equal.
    cases[1].bias.clear();
    cases[1].prompt.clear();
    cases[1].output.clear();
    (cases[1].logits[7], cases[1].logits[263]) = (99.0, 99.0); // one thread's
    equal(bench, &cases, &[&[], &[256]])?;
    let (batch, _) = batch(&cases)?;
    let place = Place {
        shard: case::shards(300, &[])[0],
        rank: 0,
        ranks: 1,
    };
    match Plan::new(bench.gpu.card(), &batch, place)?.stages() {
        1 => Ok(()),
        stages => Err(Failure::Wrong(format!("{stages} stages for greedy rows"))),
    }
}

/// No row, and no ids: nothing is launched for them, and nothing is drawn.
pub(super) fn no_rows(bench: &Bench<'_>, _: usize) -> Result<(), Failure> {
    let (none, params) = (bench.put_raw::<u32>(&[])?, Params::default());
    let nothing = || bench.put_raw::<u64>(&[]);
    let (mut logits, mut scratch, mut exchange) = (nothing()?, nothing()?, nothing()?);
    let batch = Batch::new(&[])?;
    let shard = VocabShard { first: 0, rows: 64 };
    let buffers = Buffers {
        logits: logits.view_mut(Kind::F32),
        rows: none.view(Kind::U32),
        tokens: none.view(Kind::U32),
        scratch: scratch.view_mut(Kind::U64),
        exchange: exchange.view_mut(Kind::U64),
    };
    cuda::run(bench.gpu, &batch, shard, &buffers)?;
    let drawn = batch.sampled(&[]);
    let case = Case::new(Vec::new(), params);
    let of_no_ids = one_call(bench, &[case])?;
    match (drawn.is_empty(), of_no_ids[0].finite) {
        (true, false) => Ok(()),
        _ => Err(Failure::Wrong(format!("{drawn:?}, {of_no_ids:?}"))),
    }
}

/// The launcher for one rank draws what stages in turn draw.
pub(super) fn in_one_call(bench: &Bench<'_>, _: usize) -> Result<(), Failure> {
    let cases = cases(77, 6, 200);
    let got = one_call(bench, &cases)?;
    let wanted = case::tokens_of_cpu(&cases, &[])?;
    match got
        .iter()
        .zip(&wanted)
        .find(|(got, wanted)| !same_tokens(got, wanted))
    {
        None => Ok(()),
        Some((got, wanted)) => Err(Failure::Wrong(format!("{got:?}, should be {wanted:?}"))),
    }
}

fn one_call(bench: &Bench<'_>, cases: &[Case]) -> Result<Vec<Sampled>, Failure> {
    let shard = case::shards(cases[0].logits.len(), &[])[0];
    let (batch, tokens) = batch(cases)?;
    let (rows, tokens) = (bench.put_raw(batch.words())?, bench.put_raw(&tokens)?);
    let scratch = cuda::scratch_words(bench.gpu.card(), &batch, shard.rows);
    let mut logits = bench.put_raw(&case::logits_of(cases, shard))?;
    let mut scratch = bench.put_raw(&vec![u64::MAX; scratch])?;
    let mut exchange = bench.put_raw(&vec![u64::MAX; cuda::exchange_words(cases.len(), 1)])?;
    let buffers = Buffers {
        logits: logits.view_mut(Kind::F32),
        rows: rows.view(Kind::U32),
        tokens: tokens.view(Kind::U32),
        scratch: scratch.view_mut(Kind::U64),
        exchange: exchange.view_mut(Kind::U64),
    };
    cuda::run(bench.gpu, &batch, shard, &buffers)?;
    Ok(batch.sampled(&exchange.download(cases.len() * RECORD_WORDS)?))
}

/// Sizes of a call that fits, and what it is made of.
struct Sizes {
    logits: usize,
    rows: usize,
    tokens: usize,
    scratch: usize,
    exchange: usize,
}

pub(super) fn refusals(bench: &Bench<'_>, _: usize) -> Result<(), Failure> {
    let unsupported = |error: &GpuError| matches!(error, GpuError::Unsupported { .. });
    let shape = |error: &GpuError| matches!(error, GpuError::Shape { .. });
    let row = |params, history| cuda::Row {
        params,
        history,
        bias: [0; 2],
        target: None,
        position: 0,
    };
    let plain = Params::default();
    let many = Params {
        logprobs: Some(MAX_LOGPROBS + 1),
        ..plain
    };
    refused(
        "21 alternatives",
        Batch::new(&[row(&many, [0; 3])]),
        unsupported,
    )?;
    let rows = vec![row(&plain, [0; 3]); 65_536];
    refused("65,536 rows", Batch::new(&rows), unsupported)?;
    let penalised = Params {
        presence_penalty: 1.0,
        ..plain
    };
    let backwards = Batch::new(&[row(&penalised, [5, 4, 6])]);
    refused("a history backwards", backwards, shape)?;
    let long = Batch::new(&[row(&penalised, [0, 0, (1 << 30) + 1])]);
    refused("2^30 + 1 tokens", long, unsupported)?;
    let biased = |bias| cuda::Row {
        bias,
        ..row(&plain, [0; 3])
    };
    refused("half a bias", Batch::new(&[biased([0, 3])]), shape)?;
    refused("a bias backwards", Batch::new(&[biased([4, 2])]), shape)?;
    let far = [1 << 30, (1 << 30) + 2];
    refused("a bias too far", Batch::new(&[biased(far)]), unsupported)?;
    let drawn = Params {
        temperature: 1.0,
        ..plain
    };
    let given = cuda::Row {
        target: Some(5),
        ..row(&drawn, [0; 3])
    };
    refused("a token drawn and given", Batch::new(&[given]), shape)?;

    let batch = Batch::new(&[row(&penalised, [2, 4, 6])])?;
    let place = |first, rows, rank| Place {
        shard: VocabShard { first, rows },
        rank,
        ranks: 2,
    };
    let plan = |place| Plan::new(bench.gpu.card(), &batch, place);
    let width = u32::try_from(SHARD_ROWS_MAX).unwrap_or(u32::MAX);
    refused(
        "a shard too wide",
        plan(place(0, width + 1, 0)),
        unsupported,
    )?;
    refused(
        "a shard within a block",
        plan(place(32, 64, 0)),
        unsupported,
    )?;
    refused(
        "ids above 2^24",
        plan(place((1 << 24) - 64, 64, 0)),
        unsupported,
    )?;
    refused("a third rank of two", plan(place(0, 64, 2)), unsupported)?;

    let plan = plan(place(64, 100, 1))?;
    let fits = || Sizes {
        logits: 100,
        rows: batch.words().len(),
        tokens: 6,
        scratch: cuda::scratch_words(bench.gpu.card(), &batch, 100),
        exchange: cuda::exchange_words(1, 2),
    };
    let run = |sizes: Sizes, kind| -> Result<Result<(), GpuError>, Failure> {
        let numbers = bench.put_raw(&vec![0u32; sizes.tokens + sizes.rows])?;
        let mut logits = bench.put_raw(&vec![0u32; sizes.logits])?;
        let mut words = [sizes.scratch, sizes.exchange]
            .map(|count| vec![0u64; count])
            .into_iter();
        let mut next = || bench.put_raw(&words.next().unwrap_or_default());
        let (mut scratch, mut exchange) = (next()?, next()?);
        let numbers = numbers.view(Kind::U32);
        let buffers = Buffers {
            logits: logits.view_mut(kind),
            rows: numbers.part(0, sizes.rows),
            tokens: numbers.part(sizes.rows, sizes.tokens),
            scratch: scratch.view_mut(Kind::U64),
            exchange: exchange.view_mut(Kind::U64),
        };
        Ok(plan.run(bench.gpu, 0, &buffers))
    };
    run(fits(), Kind::F32)??;
    refused("integers as logits", run(fits(), Kind::U32)?, shape)?;
    type Change = fn(&mut Sizes);
    let one_less: [(&str, Change); 5] = [
        ("a logit less", |sizes| sizes.logits -= 1),
        ("a word of parameters less", |sizes| sizes.rows -= 1),
        ("a token less", |sizes| sizes.tokens -= 1),
        ("a word of scratch less", |sizes| sizes.scratch -= 1),
        ("a word of exchange less", |sizes| sizes.exchange -= 1),
    ];
    for (what, shorten) in one_less {
        let mut sizes = fits();
        shorten(&mut sizes);
        refused(what, run(sizes, Kind::F32)?, shape)?;
    }
    Ok(())
}
