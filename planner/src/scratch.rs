//! The accounts of one rank that hold no model: activations, workspaces, exchange buffers, and
//! what a driver takes for itself. Every buffer has a name; the engine carves exactly these.

use crate::blocks::GROUP;
use crate::bytes::Bytes;
use crate::card;
use crate::model::ModelShape;
use crate::request::{Backend, Limits, Request};
use crate::shard::Shard;
use crate::stored::InputForm;
use crate::weights::{PANEL_COLS, TENSOR_ALIGN, padded_mlp_columns};

/// Parts into which decode attention may cut one sequence's context, so that few sequences still
/// keep all threads busy.
pub const ATTENTION_SPLITS: u64 = 16;
/// Rows of a converted GEMM input are padded to this many, so that a tile is never cut.
pub const GEMM_INPUT_ROWS: u64 = 16;
/// Sampling on a CPU keeps this much per sequence: histograms of the threshold search, and candidates.
pub const SAMPLING_BYTES_PER_SEQUENCE: u64 = 32 << 10;

/// One buffer's place in its account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// Bytes from the start of the account; a multiple of 64.
    pub offset: u64,
    pub bytes: u64,
}

/// Places one buffer after the other, each on a cache line.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    end: Bytes,
}

impl From<Bytes> for Cursor {
    /// Behind so many bytes.
    fn from(end: Bytes) -> Cursor {
        Cursor { end }
    }
}

impl Cursor {
    pub(crate) fn end(&self) -> Bytes {
        self.end
    }

    /// The next buffer: `count` elements of `element` bytes.
    pub(crate) fn place(&mut self, count: Bytes, element: u64) -> Region {
        let bytes = count.saturating_mul(element);
        let region = Region {
            offset: self.end.0,
            bytes: bytes.0,
        };
        self.end += bytes.round_up(TENSOR_ALIGN);
        region
    }
}

fn product(a: u64, b: u64) -> Bytes {
    Bytes(a).saturating_mul(b)
}

/// The account `Activations`: n = `max_num_batched_tokens` rows, f32 on the CPU, the request's `dtype` on
/// CUDA; the residual stream and logits are f32 everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActivationLayout {
    /// `[n, hidden]`: output of the embedding; then inputs in the order of a matrix's columns, as they
    /// are gathered for q, k, v, gate and up
    pub hidden: Region,
    /// `[n, hidden]`: the residual stream
    pub residual: Region,
    /// `[n, hidden]`: what a norm leaves for the next linear layer
    pub normed: Region,
    /// `[n, (q + 2 kv) x head_dim]`; then inputs of o, as they are gathered
    pub qkv: Region,
    /// `[n, q x head_dim]`
    pub attention: Region,
    /// `[n, 2 x padded columns]`, see [`padded_mlp_columns`]; then inputs of down, as they are gathered
    pub gate_up: Region,
    /// `[n, padded columns]`: SiLU(gate) x up
    pub activated: Region,
    /// `[n, hidden]`: this rank's part of a sum over ranks
    pub partial: Region,
    /// f32 `[max_num_seqs, vocab rows]`
    pub logits: Region,
    total: Bytes,
}

impl ActivationLayout {
    /// The account, before it is rounded up to the granule.
    pub fn total(&self) -> Bytes {
        self.total
    }
}

/// Where every activation of a rank lies.
pub fn activations(request: &Request, shard: &Shard) -> ActivationLayout {
    let Request { shape, limits, .. } = request;
    let tokens = u64::from(limits.max_num_batched_tokens);
    // A card's matrices take and give numbers of their own type.
    let element = match request.backend {
        Backend::Cpu => 4,
        Backend::Cuda => request.dtype.bytes(),
    };
    let head_dim = u64::from(shape.head_dim);
    let query = u64::from(shard.query_head_count()) * head_dim;
    let qkv = query + 2 * u64::from(shard.kv_head_count()) * head_dim;
    let columns = padded_mlp_columns(shard);
    let mut cursor = Cursor::default();
    let mut row = |width: u64, element: u64| cursor.place(product(tokens, width), element);
    let (hidden, residual) = (
        row(shape.hidden.into(), element),
        row(shape.hidden.into(), 4),
    );
    let mut row = |width: u64| row(width, element);
    let normed = row(shape.hidden.into());
    let (qkv, attention) = (row(qkv), row(query));
    let (gate_up, activated) = (row(2 * columns), row(columns));
    let partial = row(shape.hidden.into());
    let logits = cursor.place(
        product(limits.max_num_seqs.into(), shard.vocab_row_count().into()),
        4,
    );
    ActivationLayout {
        hidden,
        residual,
        normed,
        qkv,
        attention,
        gate_up,
        activated,
        partial,
        logits,
        total: cursor.end,
    }
}

/// The account `Workspaces`: tables and scratch of kernels, and the batch's own description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkspaceLayout {
    /// f32 `[max_model_len, head_dim / 2]`
    pub rope_cos: Region,
    /// f32 `[max_model_len, head_dim / 2]`
    pub rope_sin: Region,
    /// `[n padded to 16, widest input padded to 32]` of a 16-bit weight's type: the input of a
    /// linear layer as the kernel wants it; in integers, where that takes more and they may be asked
    /// for. Empty where inputs are read as they lie, see [`InputForm`].
    pub gemm_input: Region,
    /// f32 `[max_num_seqs, query heads, ATTENTION_SPLITS, head_dim + 2]`: parts of decode
    /// attention with their maximum and sum, see [`card::attention`]
    pub attention: Region,
    /// u32 `[max_num_seqs, ROW_WORDS]`: parameters of rows; as the two that follow of a card alone, see
    /// [`card::sampling`]
    pub sampling_rows: Region,
    /// u32 `[max_num_seqs, max_model_len + 2 BIASES_MAX]`: prompts and outputs, and biases
    pub sampling_tokens: Region,
    /// u64: what all ranks say of all rows, and what this one says to them
    pub sampling_exchange: Region,
    /// `[max_num_seqs, SAMPLING_BYTES_PER_SEQUENCE]`; on a card u64, searches and logits that are kept
    pub sampling: Region,
    /// u64 `[max_num_seqs, chunks of the vocabulary rows, CHUNK_WORDS]` on a card, behind `sampling`, of one
    /// scratch with it; empty on a CPU
    pub sampling_chunks: Region,
    /// u32 `[n]`
    pub token_ids: Region,
    /// u32 `[n]`
    pub positions: Region,
    /// u64 `[n]`: block x block size + offset in the block
    pub slots: Region,
    /// u32 `[max_num_seqs + 1]`: first row of each sequence
    pub query_start: Region,
    /// u32 `[max_num_seqs]`
    pub context_len: Region,
    /// u32 `[max_num_seqs, blocks of max_model_len]`
    pub block_tables: Region,
    total: Bytes,
}

impl WorkspaceLayout {
    /// The account, before it is rounded up to the granule.
    pub fn total(&self) -> Bytes {
        self.total
    }

    /// What sampling on a card has for scratch: `sampling` and, right behind it, `sampling_chunks`.
    pub fn sampling_scratch(&self) -> Region {
        let chunks = self.sampling_chunks;
        Region {
            offset: self.sampling.offset,
            bytes: (chunks.offset + chunks.bytes).saturating_sub(self.sampling.offset),
        }
    }
}

/// Where every table and scratch buffer of a rank of a request lies. `max_model_len` is the context in
/// force ([`crate::Plan::max_model_len`]), not the one asked for.
pub fn workspaces(request: &Request, shard: &Shard, max_model_len: u32) -> WorkspaceLayout {
    let Request {
        shape, limits, kv, ..
    } = request;
    let tokens = u64::from(limits.max_num_batched_tokens);
    let sequences = u64::from(limits.max_num_seqs);
    let head_dim = u64::from(shape.head_dim);
    let query_heads = u64::from(shard.query_head_count());
    let widest = [
        u64::from(shape.hidden),
        query_heads * head_dim,
        padded_mlp_columns(shard),
    ];
    let widest = widest
        .into_iter()
        .fold(0, u64::max)
        .next_multiple_of(PANEL_COLS);
    let table = product(max_model_len.into(), head_dim / 2);
    let part = card::attention::part_numbers(shape.head_dim as usize) as u64;
    let splits = product(sequences, query_heads * ATTENTION_SPLITS).saturating_mul(part);
    let sampling = SamplingBytes::of(request, shard, max_model_len);
    let blocks = crate::kv_cache::blocks_for(max_model_len.into(), kv.block_size);
    let mut cursor = Cursor::default();
    let layout = WorkspaceLayout {
        rope_cos: cursor.place(table, 4),
        rope_sin: cursor.place(table, 4),
        gemm_input: cursor.place(gemm_input_bytes(limits, widest, request.input_form()), 1),
        attention: cursor.place(splits, 4),
        sampling_rows: cursor.place(Bytes(sequences), sampling.row),
        sampling_tokens: cursor.place(Bytes(sequences), sampling.tokens),
        sampling_exchange: cursor.place(Bytes(sequences), sampling.exchange),
        sampling: cursor.place(Bytes(sequences), sampling.scratch),
        sampling_chunks: cursor.place(Bytes(sequences), sampling.chunks),
        token_ids: cursor.place(Bytes(tokens), 4),
        positions: cursor.place(Bytes(tokens), 4),
        slots: cursor.place(Bytes(tokens), 8),
        query_start: cursor.place(Bytes(sequences + 1), 4),
        context_len: cursor.place(Bytes(sequences), 4),
        block_tables: cursor.place(product(sequences, blocks), 4),
        total: Bytes::ZERO,
    };
    WorkspaceLayout {
        total: cursor.end,
        ..layout
    }
}

/// What sampling takes for one sequence.
struct SamplingBytes {
    row: u64,
    tokens: u64,
    exchange: u64,
    scratch: u64,
    /// The part of scratch that follows the vocabulary rows.
    chunks: u64,
}

impl SamplingBytes {
    fn of(request: &Request, shard: &Shard, max_model_len: u32) -> SamplingBytes {
        use card::sampling::{
            LEAST_CHUNK, ROW_WORDS, exchange_words, history_words, saved_logits, scratch_words,
        };
        let (context, ranks) = (max_model_len as usize, request.rank_count() as usize);
        match request.backend {
            Backend::Cpu => SamplingBytes {
                row: 0,
                tokens: 0,
                exchange: 0,
                scratch: SAMPLING_BYTES_PER_SEQUENCE,
                chunks: 0,
            },
            Backend::Cuda => {
                let chunks = shard.vocab_row_count().div_ceil(LEAST_CHUNK) as usize;
                let scratch = |chunks, saved| 8 * scratch_words(1, chunks, saved) as u64;
                let without = scratch(0, saved_logits(context));
                SamplingBytes {
                    row: 4 * ROW_WORDS as u64,
                    tokens: 4 * history_words(context) as u64,
                    exchange: 8 * exchange_words(1, ranks) as u64,
                    scratch: without,
                    chunks: scratch(chunks, saved_logits(context)) - without,
                }
            }
        }
    }
}

/// Bytes of [`WorkspaceLayout::gemm_input`] when the widest input has `width` numbers; a multiple
/// of 64.
pub(crate) fn gemm_input_bytes(limits: &Limits, width: u64, input: InputForm) -> Bytes {
    let tokens = u64::from(limits.max_num_batched_tokens);
    let width = width.next_multiple_of(PANEL_COLS);
    let exact = input.copied.map_or(Bytes::ZERO, |dtype| {
        product(tokens.next_multiple_of(GEMM_INPUT_ROWS), width).saturating_mul(dtype.bytes())
    });
    let integers = input.integers.map_or(Bytes::ZERO, |integers| {
        product(tokens, width / GROUP).saturating_mul(integers.group_bytes())
    });
    exact.max(integers).round_up(TENSOR_ALIGN)
}

/// The account `Comm`: what ranks exchange sums through. Empty on one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommLayout {
    /// f32 `[n, hidden]`: this rank's part of a sum, read by the others
    pub sum: Region,
    total: Bytes,
}

impl CommLayout {
    /// The account, before it is rounded up to the granule.
    pub fn total(&self) -> Bytes {
        self.total
    }
}

/// Where a rank's exchange buffer lies; `ranks` is the tensor-parallel size.
pub fn comm(shape: &ModelShape, limits: &Limits, ranks: u32) -> CommLayout {
    let mut cursor = Cursor::default();
    let rows = if ranks > 1 {
        limits.max_num_batched_tokens
    } else {
        0
    };
    let sum = cursor.place(product(rows.into(), shape.hidden.into()), 4);
    CommLayout {
        sum,
        total: cursor.end,
    }
}

/// The unit in which a backend maps memory: every account is rounded up to it.
pub const fn granule(backend: Backend) -> Bytes {
    match backend {
        Backend::Cpu => Bytes(4 << 10),
        Backend::Cuda => Bytes(2 << 20),
    }
}

/// What a driver takes on each GPU before any tensor: (`Context`, `Graphs`, its part of `Comm`).
/// The CPU has no driver. For CUDA these are allowances, to be replaced by what boot measures:
/// a primary context with modules (~0.5 GiB), captured decode graphs, and one NCCL communicator.
pub const fn driver(backend: Backend, ranks: u32) -> DriverBytes {
    match backend {
        Backend::Cpu => DriverBytes {
            context: Bytes::ZERO,
            graphs: Bytes::ZERO,
            comm: Bytes::ZERO,
        },
        Backend::Cuda => DriverBytes {
            context: Bytes(544 << 20),
            graphs: Bytes(128 << 20),
            comm: if ranks > 1 {
                Bytes(192 << 20)
            } else {
                Bytes::ZERO
            },
        },
    }
}

/// See [`driver`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriverBytes {
    pub context: Bytes,
    pub graphs: Bytes,
    pub comm: Bytes,
}
