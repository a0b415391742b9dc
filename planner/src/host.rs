//! Host bytes that are no rank's: what the process itself needs beside the ranks' budgets, and the
//! numbers that the server holds its clients to so that it needs no more.

use crate::bytes::Bytes;
use crate::kv_cache::bytes_per_head;
use crate::offload;
use crate::request::Request;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Connections of the API port at once; one more takes the place of one that is idle.
pub const CONNECTIONS: u32 = 512;
/// Connections of the ports for the operator and for probes.
pub const ADMIN_CONNECTIONS: u32 = 64;
pub const PROBE_CONNECTIONS: u32 = 32;
/// What the kernel may hold for a connection, in each direction.
pub const SOCKET_BYTES: u32 = 32 << 10;
/// The read buffer of a connection, and so the longest head of a request.
pub const HEAD_BYTES: u32 = 16 << 10;
/// A connection with all it holds beside a body: both directions of its socket full (a client that
/// asks on and reads nothing; the kernel takes twice what it is asked for), its read buffer, what is
/// being written, its task. Half-open with a long head it takes 23 KiB in the process, and a deaf one
/// up to 94 KiB of data in its socket (measured), in what the kernel counts as up to 128.
pub const CONNECTION_BYTES: u64 = 4 * SOCKET_BYTES as u64 + 4 * HEAD_BYTES as u64;

/// Bodies of requests, as bytes and as the values they are parsed into: small ones, which never
/// wait for large ones, and large ones. One that arrives takes its length once, and twice while it is
/// parsed (measured).
pub const SMALL_BODIES_BYTES: u32 = 8 << 20;
pub const LARGE_BODIES_BYTES: u32 = 24 << 20;
/// Texts that wait for their turn to be tokenized.
pub const QUEUED_TEXT_BYTES: u32 = 8 << 20;

/// Answers that are made and not sent yet, all requests together: tokens that nobody has taken, and
/// log-probabilities of answers that are sent as a whole. Room for 100,000 tokens with 20 neighbours
/// (305 bytes in a queue, measured).
const ANSWERS_BYTES: u64 = 32 << 20;
/// What a sequence holds of it before its first token: two pieces of its queue, its request and its
/// place in the engine (measured).
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

/// Binary and libraries, runtime threads, metrics, logs, what allocators keep: 18 MiB at rest, the
/// rest is for what allocators keep after a load (measured, `sidecar/tests/host_costs.rs`, as are
/// all below that say so).
pub const PROCESS_BYTES: u64 = 64 * MIB;
/// A token of the vocabulary, with its merge and its places in hash tables, and what is left of the
/// JSON that it was read from: 712 with tokens of three letters (measured); real ones are longer.
pub const VOCABULARY_ENTRY_BYTES: u64 = KIB;
/// What a rank takes while it reads its weights: a chunk of 2^18 numbers as f32, the same as it is
/// stored, and room to widen it (computed from `forward/load.rs`, not measured).
const LOADING_RANK_BYTES: u64 = 4 * MIB;
/// What threads take that merge adapters into weights while these are read, all ranks together: at most
/// so many at once, each with pieces of 2^16 numbers, as they were, as they are, and 8 bytes for each sum
/// (`sidecar/src/adapters/turns.rs` adds them up).
pub const MERGING_THREADS: usize = 16;
pub const MERGING_BYTES: u64 = 64 * MIB;
/// A rank beside its accounts: stacks that are touched, allocators' pools, queues, lists of a step.
/// 16 threads take 2 MiB after some steps (measured, without optimisation, heads of 64 at most); this is
/// for [`RANK_THREADS`].
pub const RANK_BYTES: u64 = 8 * MIB;
/// Threads of a rank that the reserve is for.
pub const RANK_THREADS: u64 = 64;
/// The kernel's tables: an entry of 8 bytes for each page of 4 KiB, 2 MiB for each GiB (measured;
/// huge pages take none, but the kernel need not have them).
pub const PAGE_TABLE_SHARE: u64 = 512;
/// A KV block: 32 in the pool, 48 in the table of names (24 bytes at 7/16 full), 40 in a sequence's
/// own table. 89 where lists are as full as they can be (measured).
pub const BLOCK_RECORD_BYTES: u64 = 128;
const TOKEN_ID_BYTES: u64 = 4;
/// How often the ids of a running sequence stand somewhere: in a list that doubles when it is full, and,
/// when they are penalised, counted for the sequence and in the two steps under way.
const RUNNING_COPIES: u64 = 2;
const COUNTED_COPIES: u64 = 3;
/// Words by which a list of counts may be longer than it needs to be, and how often one of them can count.
const COUNTS_GROWTH: u64 = 256;
const COUNTS_TIMES: u64 = 1 << 14;

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

/// What a thread has on its stack for a unit of attention on the CPU: of 64 rows and 32 keys the queries,
/// keys, values and two kinds of sums, in f32 (`kernels/src/attention/unit.rs`, which asserts it).
pub const fn attention_bytes(head_dim: u32) -> u64 {
    let widest = match head_dim {
        0..=64 => 64,
        65..=128 => 128,
        _ => 256,
    };
    (3 * 64 + 2 * 32) * 4 * widest + 16 * KIB
}

/// Of a rank whose heads are that long: those of 64 are in the measured figure.
const fn rank_bytes(head_dim: u32) -> u64 {
    RANK_BYTES + RANK_THREADS * (attention_bytes(head_dim) - attention_bytes(64))
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
    /// Weights that ranks keep in host memory.
    pub offload: Bytes,
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
            offload,
        } = *self;
        let serving = tokenizer + http + answers + work + sequences;
        process + serving + ranks + page_tables + blocks + offload
    }
}

/// What the process needs beside its ranks, when these have `budgets` bytes together.
///
/// | part | bytes | why |
/// |---|---|---|
/// | process | 64 MiB | [`PROCESS_BYTES`] |
/// | tokenizer | 1 KiB x vocabulary | [`VOCABULARY_ENTRY_BYTES`] |
/// | http | (512 + 64 + 32) x 192 KiB + 40 MiB | connections; bodies of 8 and 24 MiB; 8 MiB of texts that wait |
/// | answers | 32 MiB + 16 KiB x (maxNumSeqs + 256) | [`answers_bytes`] |
/// | work | the larger of: | |
/// | - loading | 4 MiB x ranks + the larger of 1 KiB x vocabulary and 64 MiB | chunks of weights; the parsed JSON of the tokenizer, and then, once that is done with, merges of adapters |
/// | - serving | 180 x (largest text + 128 KiB) + 64 MiB | tokenizing, the process that renders chats |
/// | ranks | (8, 12 or 20 MiB) x ranks | [`RANK_BYTES`]; heads of 64, 128 or 256: [`attention_bytes`] |
/// | sequences | 4 x (256 x context + maxNumSeqs x (context x 2 + counts x 3)) | ids of those that wait, of those that run, and their counts |
/// | page tables | (budgets + offload) / 512 | [`PAGE_TABLE_SHARE`] |
/// | blocks | 128 x blocks | [`BLOCK_RECORD_BYTES`] |
/// | offload | ranks x cpuOffload, or all matrices | `offload::most_host` |
///
/// The context is the asked one or the model's own, and no more than the tokens that `budgets`
/// could hold as KV cache alone; blocks likewise. A sequence's counts are a word for each of its tokens, or of
/// the vocabulary where that is less: sequences share blocks (choices of one request, prefixes), no counts.
pub fn host_reserve(request: &Request, budgets: Bytes) -> HostReserve {
    let shape = &request.shape;
    let block = bytes_per_head(shape, &request.kv).saturating_mul(shape.kv_heads.into());
    let blocks = budgets.get() / block.get().max(1);
    let tokens = blocks.saturating_mul(request.kv.block_size.into());
    let context = request.limits.max_model_len.unwrap_or(shape.context);
    let context = context.min(u32::try_from(tokens).unwrap_or(u32::MAX));
    let tables = Bytes(VOCABULARY_ENTRY_BYTES)
        .saturating_mul(shape.vocab.into())
        .round_up(Bytes(MIB));
    let ranks = u64::from(request.rank_count());
    let loading = Bytes(LOADING_RANK_BYTES * ranks) + tables.max(Bytes(MERGING_BYTES));
    let serving = TOKENIZING_BYTES * (largest_text(context) + SMALL_TEXT_BYTES) + RENDERER_BYTES;
    let waiting_bodies = SMALL_BODIES_BYTES + LARGE_BODIES_BYTES + QUEUED_TEXT_BYTES;
    let connections = u64::from(CONNECTIONS + ADMIN_CONNECTIONS + PROBE_CONNECTIONS);
    let seqs = u64::from(request.limits.max_num_seqs);
    let (waiting, running) = (
        u64::from(WAITING_SEQUENCES) * u64::from(context),
        seqs.saturating_mul(context.into()),
    );
    let context = u64::from(context);
    let words = context.min(u64::from(shape.vocab) + context / COUNTS_TIMES) + COUNTS_GROWTH;
    let counted = seqs.saturating_mul(words * COUNTED_COPIES);
    let kept = running.saturating_mul(RUNNING_COPIES);
    let ids = waiting.saturating_add(kept).saturating_add(counted);
    let offload = offload::most_host(request);
    HostReserve {
        process: Bytes(PROCESS_BYTES),
        tokenizer: tables,
        http: Bytes(connections * CONNECTION_BYTES + u64::from(waiting_bodies)),
        answers: Bytes(answers_bytes(request.limits.max_num_seqs)),
        work: loading.max(Bytes(serving)),
        ranks: Bytes(rank_bytes(shape.head_dim)).saturating_mul(request.rank_count().into()),
        sequences: Bytes(TOKEN_ID_BYTES).saturating_mul(ids),
        page_tables: Bytes((budgets + offload).get().div_ceil(PAGE_TABLE_SHARE)),
        blocks: Bytes(BLOCK_RECORD_BYTES).saturating_mul(blocks),
        offload,
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
