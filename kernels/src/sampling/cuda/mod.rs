//! The card's side of sampling: which kernels in which order, how many blocks, and what is refused.
//!
//! A call goes through stages. After each of them every rank's part of one segment of the exchange
//! must have come to all ranks (of one rank there is nothing to do); the last leaves the records, at
//! the front of the exchange, from which [`Batch::sampled`] makes tokens.

mod batch;
mod layout;

use super::{SHARD_ROWS_MAX, VocabShard};
use crate::gpu::{Arguments, Card, Gpu, GpuError, Kind, Launch, Tensor, TensorMut};

pub use batch::{Batch, Row};
#[cfg(feature = "gpu-tests")]
pub(super) use layout::{CHUNK_WORDS, SEARCH_WORDS, chunk};
pub use layout::{RECORD_WORDS, ROW_WORDS, Segment, exchange_words, scratch_words};

const OP: &str = "sampling";
/// As in call.cuh.
const THREADS: u32 = 256;
/// Ids are below this, so that the sum of all weights (2^40 at most) fits 64 bits.
const IDS_MAX: u32 = (1 << 24) - 1;

fn unsupported(what: &'static str, value: usize, supported: String) -> GpuError {
    GpuError::Unsupported {
        op: OP,
        what,
        value: value as u64,
        supported,
    }
}

/// Which part of the vocabulary, and of the group, this rank is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub shard: VocabShard,
    pub rank: usize,
    pub ranks: usize,
}

/// What a call works on.
#[derive(Debug)]
pub struct Buffers<'a> {
    /// `[rows, shard.rows]` in f32, changed.
    pub logits: TensorMut<'a>,
    /// [`Batch::words`].
    pub rows: Tensor<'a>,
    /// Every row's prompt and output, and its biases, u32.
    pub tokens: Tensor<'a>,
    /// [`scratch_words`] of u64; what it holds means nothing before and after.
    pub scratch: TensorMut<'a>,
    /// [`exchange_words`] of u64.
    pub exchange: TensorMut<'a>,
}

/// A kernel of a stage.
#[derive(Clone, Copy, Debug)]
struct Step {
    kernel: &'static str,
    per_chunk: bool,
    level: u32,
    second: bool,
}

/// What runs between two exchanges, and the number of the segment that is exchanged then.
#[derive(Clone, Debug)]
struct Stage {
    steps: Vec<Step>,
    segment: usize,
}

/// A checked call.
#[derive(Debug)]
pub struct Plan<'a> {
    batch: &'a Batch,
    place: Place,
    chunk: u32,
    stages: Vec<Stage>,
    scratch_words: usize,
}

/// Draws one token per row, where there is one rank; [`Batch::sampled`] then reads the exchange.
///
/// # Errors
/// As [`Plan::new`] and [`Plan::run`].
pub fn run(
    gpu: &Gpu,
    batch: &Batch,
    shard: VocabShard,
    buffers: &Buffers<'_>,
) -> Result<(), GpuError> {
    let place = Place {
        shard,
        rank: 0,
        ranks: 1,
    };
    let plan = Plan::new(gpu.card(), batch, place)?;
    (0..plan.stages()).try_for_each(|stage| plan.run(gpu, stage, buffers))
}

impl<'a> Plan<'a> {
    /// # Errors
    /// When the kernels do not take the shard, or there is no such rank.
    pub fn new(card: &Card, batch: &'a Batch, place: Place) -> Result<Plan<'a>, GpuError> {
        let Place { shard, rank, ranks } = place;
        let VocabShard { first, rows: width } = shard;
        if width as usize > SHARD_ROWS_MAX {
            let supported = format!("at most {SHARD_ROWS_MAX}");
            return Err(unsupported("shard.rows", width as usize, supported));
        }
        if width > 0 && !first.is_multiple_of(64) {
            let supported = "multiples of 64".to_owned();
            return Err(unsupported("shard.first", first as usize, supported));
        }
        if first.checked_add(width).is_none_or(|end| end > IDS_MAX) {
            let supported = format!("ids up to {IDS_MAX}");
            return Err(unsupported("shard.first", first as usize, supported));
        }
        if rank >= ranks || u32::try_from(ranks).is_err() {
            let supported = format!("ranks below {ranks}");
            return Err(unsupported("rank", rank, supported));
        }
        Ok(Plan {
            batch,
            place,
            chunk: layout::chunk(card, batch.rows(), width),
            stages: stages(batch),
            scratch_words: scratch_words(card, batch, width),
        })
    }

    pub fn stages(&self) -> usize {
        self.stages.len()
    }

    /// What ranks must exchange after a stage.
    pub fn exchanged(&self, stage: usize) -> Segment {
        let number = self.stages[stage].segment;
        Segment::new(number, self.batch.rows(), self.place.ranks)
    }

    /// Launches a stage.
    ///
    /// # Errors
    /// When a buffer does not fit, or a launch fails.
    pub fn run(&self, gpu: &Gpu, stage: usize, buffers: &Buffers<'_>) -> Result<(), GpuError> {
        let Place { shard, rank, ranks } = self.place;
        let rows = self.batch.rows();
        let Buffers {
            logits,
            rows: words,
            tokens,
            scratch,
            exchange,
        } = buffers;
        let width = shard.rows as usize;
        logits.check(OP, "logits", Kind::F32, rows * width, 4)?;
        words.check(OP, "rows", Kind::U32, rows * ROW_WORDS, 4)?;
        tokens.check(OP, "tokens", Kind::U32, self.batch.tokens, 4)?;
        scratch.check(OP, "scratch", Kind::U64, self.scratch_words, 8)?;
        exchange.check(OP, "exchange", Kind::U64, exchange_words(rows, ranks), 8)?;
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let arguments = Arguments::new()
            .write(logits)
            .read(*words)
            .read(*tokens)
            .write(exchange)
            .write(scratch)
            .u32(shard.rows)
            .u32(shard.first)
            .u32(self.chunk)
            .u32(number(rows))
            .u32(number(ranks))
            .u32(number(rank));
        let chunks = shard.rows.div_ceil(self.chunk);
        for step in &self.stages[stage].steps {
            let counts_seen = self.batch.changes() && ["largest", "weigh"].contains(&step.kernel);
            gpu.launch(&Launch {
                op: OP,
                kernel: &format!("{OP}_{}", step.kernel),
                grid: match step.per_chunk {
                    true => [chunks, number(rows), 1],
                    false => [number(rows), 1, 1],
                },
                threads: THREADS,
                shared_bytes: if counts_seen { 4 * self.chunk } else { 0 },
                arguments: arguments
                    .clone()
                    .u32(step.level)
                    .u32(u32::from(step.second)),
            })?;
        }
        Ok(())
    }
}

/// The kernels of a batch, in order; the same on every rank.
fn stages(batch: &Batch) -> Vec<Stage> {
    const RECORDS: usize = 0;
    let step = |kernel, per_chunk| Step {
        kernel,
        per_chunk,
        level: 0,
        second: false,
    };
    let mut stages = vec![Stage {
        steps: vec![step("largest", true), step("merge", false)],
        segment: RECORDS,
    }];
    if !batch.weighs() {
        return stages;
    }
    let mut steps = vec![step("weigh", true)];
    let searches = [(batch.searches(), false), (batch.searches_twice, true)];
    for (_, second) in searches.into_iter().filter(|(wanted, _)| *wanted) {
        for level in 0..3 {
            let at = |kernel, per_chunk| Step {
                kernel,
                per_chunk,
                level,
                second,
            };
            if level > 0 {
                steps.push(at("count_digit", true));
            }
            // The second search begins with the first one's histogram.
            if level > 0 || !second {
                let segment = match (level, second) {
                    (0, _) => 1,
                    (1, false) => 2,
                    (_, false) => 3,
                    (1, true) => 4,
                    (_, true) => 5,
                };
                stages.push(Stage { steps, segment });
                steps = Vec::new();
            }
            steps.push(at("descend", false));
        }
    }
    if batch.searches() {
        steps.push(step("count_ties", true));
    }
    if batch.draws() {
        steps.push(step("race", true));
    }
    steps.push(step("finish", false));
    stages.push(Stage {
        steps,
        segment: RECORDS,
    });
    stages
}
