//! Host bytes that are no rank's: what the process itself needs beside the ranks' budgets, and the
//! numbers that the server holds its clients to so that it needs no more.

use crate::bytes::Bytes;
use crate::kv_cache::bytes_per_head;
use crate::request::Request;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Connections of the API port at once; one more takes the place of one that is idle.
pub const CONNECTIONS: u32 = 512;
/// What the kernel may hold for a connection, in each direction.
pub const SOCKET_BYTES: u32 = 32 << 10;
/// The read buffer of a connection, and so the longest head of a request.
pub const HEAD_BYTES: u32 = 16 << 10;
/// A connection with all it holds beside a body: one direction of its socket full (the kernel
/// counts twice what it is asked for), its read and write buffers.
const CONNECTION_BYTES: u64 = 2 * SOCKET_BYTES as u64 + 2 * HEAD_BYTES as u64;

/// Bodies of requests, as bytes and as the values they are parsed into: small ones, which never
/// wait for large ones, and large ones.
pub const SMALL_BODIES_BYTES: u32 = 8 << 20;
pub const LARGE_BODIES_BYTES: u32 = 24 << 20;
/// Texts that wait for their turn to be tokenized.
pub const QUEUED_TEXT_BYTES: u32 = 8 << 20;

/// Answers that are made and not sent yet, all requests together: tokens that nobody has taken, and
/// log-probabilities of answers that are sent as a whole.
const ANSWERS_BYTES: u64 = 32 << 20;
/// What a sequence holds of it before its first token: two pieces of its queue.
pub const SEQUENCE_ANSWER_BYTES: u32 = 16 << 10;

/// Bytes that tokenizing takes for each byte of a text: offsets, words and their pieces (measured,
/// see `sidecar/tests/host_bytes.rs`).
pub const TOKENIZING_BYTES: u64 = 180;
/// A text that may be tokenized beside another one; larger ones go one at a time.
pub const SMALL_TEXT_BYTES: u64 = 128 << 10;
/// Bytes of text for each token of the context; real text has about four.
const TEXT_BYTES_PER_TOKEN: u64 = 8;
/// What the kernel holds the process to that renders chats (`sidecar/src/chat/worker.rs`).
const RENDERER_BYTES: u64 = 64 << 20;

/// Sequences that may wait for their first turn.
pub const WAITING_SEQUENCES: u32 = 256;

/// The longest text that is tokenized at all: it must fit the context and the host's memory.
pub fn largest_text(context: u32) -> u64 {
    SMALL_TEXT_BYTES.max(TEXT_BYTES_PER_TOKEN * u64::from(context))
}

/// What answers that are not sent yet may hold, for an engine that runs so many sequences at once.
pub fn answers_bytes(max_num_seqs: u32) -> u64 {
    let sequences = u64::from(max_num_seqs) + u64::from(WAITING_SEQUENCES);
    ANSWERS_BYTES + sequences * u64::from(SEQUENCE_ANSWER_BYTES)
}

/// Host bytes outside the ranks, part by part. The operator's container memory limit is the sum
/// of the budgets plus [`HostReserve::total`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostReserve {
    /// Binary and libraries, runtime threads, metrics, logs, what allocators keep.
    pub process: Bytes,
    /// Vocabulary, merges and their hash tables.
    pub tokenizer: Bytes,
    /// Connections and bodies in flight, texts that wait to be tokenized.
    pub http: Bytes,
    /// Answers that are not sent yet.
    pub answers: Bytes,
    /// What loading needs first and requests need later: the larger of the two.
    pub work: Bytes,
    /// Stacks and message queues of each rank's threads.
    pub ranks: Bytes,
    /// Token ids of sequences that run or wait.
    pub sequences: Bytes,
    /// The kernel's tables for the ranks' memory.
    pub page_tables: Bytes,
    /// What the engine keeps of every KV block.
    pub blocks: Bytes,
}

impl HostReserve {
    pub fn total(&self) -> Bytes {
        let HostReserve {
            process,
            tokenizer,
            http,
            answers,
            work,
            ranks,
            sequences,
            page_tables,
            blocks,
        } = *self;
        process + tokenizer + http + answers + work + ranks + sequences + page_tables + blocks
    }
}

/// What the process needs beside its ranks, when these have `budgets` bytes together.
///
/// | part | bytes | why |
/// |---|---|---|
/// | process | 64 MiB | binary and libraries ~30, stacks, allocator slack |
/// | tokenizer | 0.75 KiB x vocabulary | tokens, merges and maps |
/// | http | 512 x 96 KiB + 40 MiB | connections; bodies of 8 and 24 MiB; 8 MiB of texts that wait |
/// | answers | 32 MiB + 16 KiB x (maxNumSeqs + 256) | tokens and log-probabilities that are not sent yet; an empty queue each |
/// | work | the larger of: | |
/// | - loading | 64 MiB + 0.75 KiB x vocabulary | two chunks of rows as f32, readahead; the parsed JSON of the tokenizer |
/// | - serving | 180 x (largest text + 128 KiB) + 64 MiB | tokenizing, the process that renders chats |
/// | ranks | 8 MiB x ranks | stacks that are touched, queues |
/// | sequences | (maxNumSeqs + 256) x context x 4 | token ids |
/// | page tables | budgets / 512 | an entry of 8 bytes for each page of 4 KiB |
/// | blocks | 128 x blocks | 32 in the pool, 48 in the table of names (24 bytes at 7/16 full), 40 in a sequence's own table |
///
/// The context is the asked one or the model's own, and no more than the tokens that `budgets`
/// could hold as KV cache alone; blocks likewise.
pub fn host_reserve(request: &Request, budgets: Bytes) -> HostReserve {
    const PAGE_TABLE_SHARE: u64 = 512;
    const BLOCK_RECORD_BYTES: u64 = 128;
    const TOKEN_ID_BYTES: u64 = 4;
    let shape = &request.shape;
    let block = bytes_per_head(shape, &request.kv).saturating_mul(shape.kv_heads.into());
    let blocks = budgets.get() / block.get().max(1);
    let tokens = blocks.saturating_mul(request.kv.block_size.into());
    let context = request.limits.max_model_len.unwrap_or(shape.context);
    let context = context.min(u32::try_from(tokens).unwrap_or(u32::MAX));
    let tables = Bytes(KIB * 3 / 4)
        .saturating_mul(shape.vocab.into())
        .round_up(Bytes(MIB));
    let loading = Bytes(64 * MIB) + tables;
    let serving = TOKENIZING_BYTES * (largest_text(context) + SMALL_TEXT_BYTES) + RENDERER_BYTES;
    let waiting_bodies = SMALL_BODIES_BYTES + LARGE_BODIES_BYTES + QUEUED_TEXT_BYTES;
    let sequences = u64::from(request.limits.max_num_seqs) + u64::from(WAITING_SEQUENCES);
    HostReserve {
        process: Bytes(64 * MIB),
        tokenizer: tables,
        http: Bytes(u64::from(CONNECTIONS) * CONNECTION_BYTES + u64::from(waiting_bodies)),
        answers: Bytes(answers_bytes(request.limits.max_num_seqs)),
        work: loading.max(Bytes(serving)),
        ranks: Bytes(8 * MIB).saturating_mul(request.rank_count().into()),
        sequences: Bytes(TOKEN_ID_BYTES * u64::from(context)).saturating_mul(sequences),
        page_tables: Bytes(budgets.get().div_ceil(PAGE_TABLE_SHARE)),
        blocks: Bytes(BLOCK_RECORD_BYTES).saturating_mul(blocks),
    }
}

/// The most that the ranks may have together when they and the host's reserve share `limit`; zero
/// when the reserve alone is larger.
pub(crate) fn budgets_within(request: &Request, limit: Bytes) -> Bytes {
    let fits = |budgets: u64| {
        let reserve = host_reserve(request, Bytes(budgets)).total().get();
        budgets.saturating_add(reserve) <= limit.get()
    };
    // The reserve grows with the budgets: halve the range in which the largest lies.
    let (mut most, mut beyond) = (0, limit.get().saturating_add(1));
    while most + 1 < beyond {
        let middle = most + (beyond - most) / 2;
        if fits(middle) {
            most = middle;
        } else {
            beyond = middle;
        }
    }
    Bytes(most)
}
