//! A batch of rows as the card reads it, and the way back from its records to tokens.

use super::layout::{RECORD_WORDS, ROW_WORDS};
use super::unsupported;
use crate::gpu::GpuError;
use crate::sampling::outcome::{self, Record};
use crate::sampling::{MAX_LOGPROBS, Params, Sampled, weight};

/// The most rows of one batch: a grid has no more.
const ROWS_MAX: usize = 65_535;
/// The most words of all histories and biases: a token's count has two flags beside it.
const TOKENS_MAX: u32 = 1 << 30;

/// One sequence whose next token is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    pub params: &'a Params,
    /// Where its prompt begins, its output begins and its output ends among the tokens on the card.
    /// Read only when the row has penalties.
    pub history: [u32; 3],
    /// Where its biases begin and end there: ids that ascend, each followed by the bits of its bias.
    pub bias: [u32; 2],
    /// As [`super::super::Row::target`].
    pub target: Option<u32>,
    /// The token's index in its sequence: the counter of the random numbers.
    pub position: u32,
}

/// As in call.cuh.
mod flag {
    pub(super) const DRAWS: u32 = 1;
    pub(super) const CHANGED: u32 = 2;
    pub(super) const LOGPROBS: u32 = 4;
    pub(super) const TOP_K: u32 = 8;
    pub(super) const TOP_P: u32 = 16;
    pub(super) const SAVES: u32 = 32;
    pub(super) const GIVEN: u32 = 64;
}

/// Rows that are drawn together.
#[derive(Clone, Debug)]
pub struct Batch {
    params: Vec<Params>,
    targets: Vec<Option<u32>>,
    words: Vec<u32>,
    /// Tokens that the card must have.
    pub(super) tokens: usize,
    /// Logits that are kept while keys take their places.
    pub(super) saved: usize,
    /// What any row has.
    flags: u32,
    /// Whether a row has both top-k and top-p.
    pub(super) searches_twice: bool,
}

impl Batch {
    /// # Errors
    /// When there are too many rows, tokens or log-probabilities, or a history ends before it begins.
    pub fn new(rows: &[Row<'_>]) -> Result<Batch, GpuError> {
        if rows.len() > ROWS_MAX {
            return Err(unsupported(
                "rows",
                rows.len(),
                format!("at most {ROWS_MAX}"),
            ));
        }
        let mut batch = Batch {
            params: rows.iter().map(|row| *row.params).collect(),
            targets: rows.iter().map(|row| row.target).collect(),
            words: Vec::with_capacity(rows.len() * ROW_WORDS),
            tokens: 0,
            saved: 0,
            flags: 0,
            searches_twice: false,
        };
        for row in rows {
            batch.push(row)?;
        }
        Ok(batch)
    }

    fn push(&mut self, row: &Row<'_>) -> Result<(), GpuError> {
        let Params {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            seed,
            stream,
            logprobs,
        } = *row.params;
        let candidates = logprobs.unwrap_or(0);
        if candidates > MAX_LOGPROBS {
            let supported = format!("at most {MAX_LOGPROBS}");
            return Err(unsupported("logprobs", candidates.into(), supported));
        }
        if row.target.is_some() && !row.params.greedy() {
            return Err(shape(
                "target",
                "one for a row that is drawn",
                "greedy parameters",
            ));
        }
        let [bias, bias_end] = checked_bias(row.bias)?;
        let flags = flags_of(row.params, bias < bias_end, row.target);
        let [prompt, output, end] = match row.params.penalised() {
            false => [0; 3],
            true => checked(row.history)?,
        };
        let saved = u32::try_from(self.saved).unwrap_or(u32::MAX);
        if flags & flag::SAVES != 0 {
            self.saved += (end - prompt + (bias_end - bias) / 2) as usize;
        }
        self.tokens = self.tokens.max(end.max(bias_end) as usize);
        self.flags |= flags;
        self.searches_twice |= flags & flag::TOP_K != 0 && flags & flag::TOP_P != 0;
        let least = weight::least_key(weight::part_of(weight::WEIGHT_ONE, min_p));
        let fraction = u32::try_from(weight::fraction_of(top_p)).unwrap_or(u32::MAX);
        let [seed_low, seed_high] = [seed & u64::from(u32::MAX), seed >> 32]
            .map(|half| u32::try_from(half).unwrap_or(u32::MAX));
        let words: [u32; ROW_WORDS] = [
            flags,
            (1.0 / temperature).to_bits(),
            least.max(1),
            top_k,
            fraction,
            repetition_penalty.to_bits(),
            presence_penalty.to_bits(),
            frequency_penalty.to_bits(),
            seed_low,
            seed_high,
            stream,
            row.position,
            prompt,
            output,
            end,
            saved,
            candidates.into(),
            bias,
            bias_end,
            row.target.unwrap_or(0),
        ];
        self.words.extend(words);
        Ok(())
    }

    /// What the card needs to know of the rows: `[rows, ROW_WORDS]`.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    pub fn rows(&self) -> usize {
        self.params.len()
    }

    /// Whether a row is not greedy.
    pub(super) fn draws(&self) -> bool {
        self.flags & flag::DRAWS != 0
    }

    /// Whether logits of a row change before a token is chosen.
    pub(super) fn changes(&self) -> bool {
        self.flags & flag::CHANGED != 0
    }

    /// Whether a row needs a threshold.
    pub(super) fn searches(&self) -> bool {
        self.flags & (flag::TOP_K | flag::TOP_P) != 0
    }

    /// Whether a row needs more than the largest logit.
    pub(super) fn weighs(&self) -> bool {
        self.flags & (flag::DRAWS | flag::LOGPROBS) != 0
    }

    /// The tokens, from the records of all ranks: `[ranks, rows, RECORD_WORDS]`.
    ///
    /// # Panics
    /// When `words` is no whole number of ranks.
    pub fn sampled(&self, words: &[u64]) -> Vec<Sampled> {
        let of_rank = self.rows() * RECORD_WORDS;
        assert!(
            of_rank == 0 || words.len().is_multiple_of(of_rank),
            "{} words are no records of {} rows",
            words.len(),
            self.rows()
        );
        let each = self.params.iter().enumerate();
        let row_of_ranks = |row: usize| {
            let ranks = words.chunks(of_rank);
            ranks.map(move |records| &records[row * RECORD_WORDS..][..RECORD_WORDS])
        };
        each.map(|(row, params)| {
            let largest = row_of_ranks(row).fold([0; 2], |best: [u64; 2], record| {
                [best[0].max(record[0]), best[1].max(record[1])]
            });
            let is_written = !params.greedy() || params.logprobs.is_some();
            let records = row_of_ranks(row).map(|record| read(record, params, largest[0]));
            let target = self.targets[row];
            outcome::sampled(params, target, largest, is_written.then_some(records))
        })
        .collect()
    }
}

fn flags_of(params: &Params, biased: bool, target: Option<u32>) -> u32 {
    let draws = !params.greedy();
    let (changes, logprobs) = (params.penalised() || biased, params.logprobs.is_some());
    [
        (draws, flag::DRAWS),
        (changes, flag::CHANGED),
        (logprobs, flag::LOGPROBS),
        (draws && params.top_k > 0, flag::TOP_K),
        (draws && params.top_p < 1.0, flag::TOP_P),
        (draws && changes && logprobs, flag::SAVES),
        (target.is_some(), flag::GIVEN),
    ]
    .into_iter()
    .map(|(holds, flag)| if holds { flag } else { 0 })
    .sum()
}

fn shape(what: &'static str, has: impl Into<String>, needs: &str) -> GpuError {
    GpuError::Shape {
        op: super::OP,
        what,
        has: has.into(),
        needs: needs.to_owned(),
    }
}

fn checked(history: [u32; 3]) -> Result<[u32; 3], GpuError> {
    let [prompt, output, end] = history;
    if prompt > output || output > end {
        let has = format!("a prompt from {prompt}, an output from {output}, an end at {end}");
        return Err(shape("history", has, "that order"));
    }
    bounded(end).map(|()| history)
}

fn checked_bias(bias: [u32; 2]) -> Result<[u32; 2], GpuError> {
    let [start, end] = bias;
    if start > end || !(end - start).is_multiple_of(2) {
        let has = format!("words from {start} to {end}");
        return Err(shape("bias", has, "pairs of them"));
    }
    bounded(end).map(|()| bias)
}

fn bounded(end: u32) -> Result<(), GpuError> {
    if end > TOKENS_MAX {
        let supported = format!("at most {TOKENS_MAX}");
        return Err(unsupported("tokens", end as usize, supported));
    }
    Ok(())
}

/// One record, as call.cuh has it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "two halves of a word are asked for"
)]
fn read<'r>(record: &'r [u64], params: &Params, largest: u64) -> Record<'r> {
    let [_, _, time, id_and_value, is_key, own_sum] = record[..6] else {
        unreachable!("a record has {RECORD_WORDS} words")
    };
    let value = (id_and_value >> 32) as u32;
    let candidates = usize::from(params.logprobs.unwrap_or(0));
    Record {
        time,
        id: id_and_value as u32,
        logit: match is_key {
            0 => f32::from_bits(value),
            _ => outcome::logit_of(value, largest, params.temperature),
        },
        own_sum,
        candidates: &record[6..][..candidates],
    }
}
