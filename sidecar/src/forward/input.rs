//! One step's input, as the engine fills it and every rank reads it.

use plimsoll_kernels::sampling::{Params, Seen};

/// What a sequence whose next token is drawn brings along.
#[derive(Clone, Debug)]
pub struct SampleRow {
    pub params: Params,
    /// The row whose logits are drawn from.
    pub row: u32,
    /// Index of the drawn token in its sequence.
    pub position: u32,
    /// The sequence's tokens in `StepInput::seen` (none unless penalties need them): where they begin
    /// and end.
    pub seen: [usize; 2],
    /// Which of the last step's samples is one more token of it, that is not among them.
    pub drawn: Option<usize>,
    /// Its biases in `StepInput::bias`: where they begin and end.
    pub bias: [usize; 2],
    /// The next token, where a prompt is scored and nothing is drawn.
    pub target: Option<u32>,
}

/// A token that the step before draws: what stands in its place is replaced on the rank, which
/// knows it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Index in `StepInput::ids`.
    pub at: usize,
    /// Which of that step's samples it is.
    pub sample: usize,
}

/// Rows are tokens. Vectors are filled again every step and keep their memory.
#[derive(Clone, Debug, Default)]
pub struct StepInput {
    /// Per row: token, position in its sequence, and slot of the KV cache.
    pub ids: Vec<u32>,
    pub positions: Vec<u32>,
    pub slots: Vec<u64>,
    /// Per sequence, and one more: its first row.
    pub query_start: Vec<u32>,
    /// Per sequence: tokens in the cache after this step.
    pub context_len: Vec<u32>,
    /// Rows that have an adapter, ascending, and the slot of each.
    pub adapted_rows: Vec<u32>,
    pub adapted_slots: Vec<u32>,
    /// `[sequences, table_stride]`
    pub block_tables: Vec<u32>,
    pub table_stride: usize,
    pub samples: Vec<SampleRow>,
    /// Tokens of penalised sequences, counted.
    pub seen: Vec<Seen>,
    pub carried_ids: Vec<Carried>,
    /// What is added to the logits of which tokens.
    pub bias: Vec<(u32, f32)>,
    /// Return the logits of the sampled rows too (tests and validation).
    pub keep_logits: bool,
}

impl StepInput {
    pub fn clear(&mut self) {
        let StepInput {
            ids,
            positions,
            slots,
            query_start,
            context_len,
            adapted_rows,
            adapted_slots,
            block_tables,
            table_stride,
            samples,
            seen,
            carried_ids,
            bias,
            keep_logits,
        } = self;
        ids.clear();
        positions.clear();
        slots.clear();
        query_start.clear();
        query_start.push(0);
        context_len.clear();
        adapted_rows.clear();
        adapted_slots.clear();
        block_tables.clear();
        *table_stride = 0;
        samples.clear();
        seen.clear();
        carried_ids.clear();
        bias.clear();
        *keep_logits = false;
    }

    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    pub fn sequences(&self) -> usize {
        self.context_len.len()
    }
}
