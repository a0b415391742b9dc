//! Sampling in the regions of all ranks, of rows that ask for all there is.
#![expect(clippy::cast_possible_truncation, reason = "test sizes are small")]

use plimsoll_planner::card::sampling::{BIASES_MAX, history_words};
use plimsoll_planner::scratch::workspaces;
use plimsoll_planner::{ModelShape, Shard};

use super::draw::{Planned, request, smallest};
use super::place::{Place, takes};
use crate::gpu::trial::{Bench, Failure, refused};
use crate::gpu::{Card, GpuError, Kind};
use crate::sampling::cuda::{self, Batch, Buffers, Place as Of, Plan, ROW_WORDS};
use crate::sampling::{MAX_LOGPROBS, Params, VocabShard};

/// Rows that ask for all there is: both searches, penalties over a whole context, biases, candidates.
fn batch(sequences: usize, context: usize) -> Result<Batch, Failure> {
    let params = Params {
        temperature: 0.5,
        top_k: 7,
        top_p: 0.9,
        presence_penalty: 0.1,
        logprobs: Some(MAX_LOGPROBS),
        ..Params::default()
    };
    let row = history_words(context);
    let rows: Vec<cuda::Row<'_>> = (0..sequences)
        .map(|at| {
            let [start, end] = [at * row, at * row + context].map(|word| word as u32);
            cuda::Row {
                params: &params,
                history: [start, start + end.abs_diff(start) / 2, end],
                bias: [end, ((at + 1) * row) as u32],
                target: None,
                position: 0,
            }
        })
        .collect();
    Ok(Batch::new(&rows)?)
}

/// The words that [`batch`] speaks of: tokens of a history that come again, then ids that ascend.
fn tokens(sequences: usize, context: usize) -> Vec<u32> {
    let history = (0..context as u32).map(|at| at * 37 % 1999);
    let biases = (0..BIASES_MAX as u32).flat_map(|id| [id, 0.25_f32.to_bits()]);
    let row: Vec<u32> = history.chain(biases).collect();
    row.repeat(sequences)
}

struct Rank {
    shard: VocabShard,
    logits: Place,
    scratch: Place,
}

pub(super) fn stays_inside(bench: &Bench<'_>, seed: usize) -> Result<(), Failure> {
    let planned = Planned::draw(seed);
    run(bench, &planned).map_err(|failure| match failure {
        Failure::Wrong(what) => Failure::Wrong(format!("{what}, of {planned:?}")),
        Failure::Gpu(error) => Failure::Gpu(error),
    })
}

fn run(bench: &Bench<'_>, planned: &Planned) -> Result<(), Failure> {
    let sequences = planned.request.limits.max_num_seqs as usize;
    let context = planned.context as usize;
    let batch = batch(sequences, context)?;
    let at = planned.workspaces(0);
    let mut rows = Place::of(bench, "sampling_rows", at.sampling_rows)?;
    rows.put(batch.words())?;
    let mut histories = Place::of(bench, "sampling_tokens", at.sampling_tokens)?;
    histories.put(&tokens(sequences, context))?;
    // One for all ranks: each writes what is its own.
    let mut exchange = Place::of(bench, "sampling_exchange", at.sampling_exchange)?;
    let mut ranks = Vec::new();
    for (rank, shard) in planned.shards.iter().enumerate() {
        let mut logits = Place::of(bench, "logits", planned.activations(rank).logits)?;
        logits.fill()?;
        let scratch = planned.workspaces(rank).sampling_scratch();
        let mut scratch = Place::of(bench, "sampling's scratch", scratch)?;
        // What it holds before means nothing, but a kernel may look at it.
        scratch.put(&vec![u64::MAX; scratch.count(Kind::U64, 0)])?;
        ranks.push(Rank {
            shard: VocabShard {
                first: shard.vocab_rows.start,
                rows: shard.vocab_row_count(),
            },
            logits,
            scratch,
        });
    }
    let count = ranks.len();
    let mut stages = 1;
    let mut stage = 0;
    while stage < stages {
        for (rank, member) in ranks.iter_mut().enumerate() {
            let shard = member.shard;
            let of = Of {
                shard,
                rank,
                ranks: count,
            };
            let plan = Plan::new(bench.gpu.card(), &batch, of)?;
            stages = plan.stages();
            let needed = cuda::scratch_words(bench.gpu.card(), &batch, shard.rows);
            let spare = member.scratch.count(Kind::U64, needed - 1);
            let mut launch = |less: [usize; 5]| {
                let buffers = Buffers {
                    logits: member.logits.view_mut(Kind::F32, less[0]),
                    rows: rows.view(Kind::U32, less[1]),
                    tokens: histories.view(Kind::U32, less[2]),
                    exchange: exchange.view_mut(Kind::U64, less[3]),
                    scratch: member.scratch.view_mut(Kind::U64, less[4]),
                };
                plan.run(bench.gpu, stage, &buffers)
            };
            // Regions begin on cache lines, and rows of one have whole words: scratch may have some more.
            let shape = |error: &GpuError| matches!(error, GpuError::Shape { .. });
            refused(
                "sampling with a word less of scratch",
                launch([0, 0, 0, 0, spare]),
                shape,
            )?;
            let has = |name| (name, true);
            let operands = [
                ("logits", shard.rows > 0),
                has("rows"),
                has("tokens"),
                has("exchange"),
                ("scratch", false),
            ];
            takes("sampling", operands, launch)?;
        }
        stage += 1;
    }
    let of_all = [&rows, &histories, &exchange];
    let of_ranks = ranks.iter().flat_map(|rank| [&rank.logits, &rank.scratch]);
    of_all
        .into_iter()
        .chain(of_ranks)
        .try_for_each(Place::stayed_inside)
}

pub(super) fn takes_what_is_planned(bench: &Bench<'_>) -> Result<(), Failure> {
    for sequences in [1, 7, 64] {
        for ranks in 1..=3 {
            for (width, context) in [(0, 64), (1000, 300), (49_152, 8192), (128_256, 4096)] {
                taken(bench, sequences, ranks, (width, context))?;
            }
        }
    }
    Ok(())
}

/// On a card of any size no more than there is, and on the largest all of it: but for what rounds regions
/// up to cache lines and rows to words.
fn taken(
    bench: &Bench<'_>,
    sequences: u32,
    ranks: usize,
    (width, context): (u32, u32),
) -> Result<(), Failure> {
    let shape = ModelShape {
        vocab: width.max(1),
        ..smallest()
    };
    let shard = Shard {
        vocab_rows: 0..width,
        ..Shard::whole(&shape)
    };
    let at = workspaces(&request(shape, (sequences, 64), ranks), &shard, context);
    let batch = batch(sequences as usize, context as usize)?;
    let rows = batch.rows();
    let words = |count: usize, bytes: u64| count as u64 * bytes;
    let planned = [at.sampling_rows, at.sampling_tokens, at.sampling_exchange];
    let exact = [
        words(rows * ROW_WORDS, 4),
        words(rows * history_words(context as usize), 4),
        words(cuda::exchange_words(rows, ranks), 8),
    ];
    if planned.map(|region| region.bytes) != exact {
        let what = format!("{sequences} rows on {ranks} ranks: {planned:?} for {exact:?}");
        return Err(Failure::Wrong(what));
    }
    let planned = at.sampling_scratch().bytes;
    for multiprocessors in [1, 8, 132, 100_000] {
        let card = Card {
            multiprocessors,
            ..bench.gpu.card().clone()
        };
        let taken = words(cuda::scratch_words(&card, &batch, width), 8);
        let spare = 64 + 8 * rows as u64;
        let is_all = multiprocessors < 100_000 || taken + spare > planned;
        if taken > planned || !is_all {
            return Err(Failure::Wrong(format!(
                "{sequences} rows of {width} ids on {ranks} ranks, contexts of {context}, \
                 {multiprocessors} multiprocessors: {taken} bytes are taken, {planned} planned"
            )));
        }
    }
    Ok(())
}
