//! Bytes of the accounts that hold no model, reckoned from what ops read and write (the heads of
//! `kernels/src/*/*.cu` and of the CPU's ops), not from the planner's layouts.

use plimsoll_planner::{Backend, Dtype, Integers, Request, Shard};

pub(crate) fn granule(backend: Backend) -> u64 {
    match backend {
        Backend::Cpu => 4096,
        Backend::Cuda => 2 << 20,
    }
}

/// A context, graphs, and between several ranks a communicator.
pub(crate) fn driver(backend: Backend, ranks: u64) -> u64 {
    match (backend, ranks) {
        (Backend::Cpu, _) => 0,
        (Backend::Cuda, 1) => 672 << 20,
        (Backend::Cuda, _) => 864 << 20,
    }
}

/// Every buffer begins on a cache line.
fn lines(buffers: impl IntoIterator<Item = u64>) -> u64 {
    let line = |bytes: u64| bytes.div_ceil(64) * 64;
    buffers.into_iter().map(line).sum()
}

/// Query heads, KV heads, MLP columns of two halves that each are panels of 16, vocabulary rows.
fn shares(shard: &Shard) -> [u64; 4] {
    let columns = u64::from(shard.mlp_columns.end - shard.mlp_columns.start);
    [
        (shard.query_heads.end - shard.query_heads.start).into(),
        (shard.kv_heads.end - shard.kv_heads.start).into(),
        columns.div_ceil(16) * 16,
        (shard.vocab_rows.end - shard.vocab_rows.start).into(),
    ]
}

pub(crate) fn activations(request: &Request, shard: &Shard) -> u64 {
    let [query, kv, columns, vocabulary] = shares(shard);
    let [hidden, head] = [request.shape.hidden, request.shape.head_dim].map(u64::from);
    let rows = u64::from(request.limits.max_num_batched_tokens);
    let number = match (request.backend, request.dtype) {
        (Backend::Cuda, Dtype::BFloat16 | Dtype::Float16) => 2,
        (Backend::Cuda, Dtype::Float32) | (Backend::Cpu, _) => 4,
    };
    let of_rows = |width: u64| rows * width * number;
    lines([
        // The embedding, what a norm leaves, a part of a sum; and the stream that they are added to.
        of_rows(hidden),
        of_rows(hidden),
        of_rows(hidden),
        rows * hidden * 4,
        of_rows(query * head + 2 * kv * head),
        of_rows(query * head),
        of_rows(columns + columns),
        of_rows(columns),
        u64::from(request.limits.max_num_seqs) * vocabulary * 4,
    ])
}

pub(crate) fn workspaces(request: &Request, shard: &Shard, context: u32) -> u64 {
    let [query, _, columns, vocabulary] = shares(shard);
    let [hidden, head] = [request.shape.hidden, request.shape.head_dim].map(u64::from);
    let rows = u64::from(request.limits.max_num_batched_tokens);
    let sequences = u64::from(request.limits.max_num_seqs);
    let (context, ranks) = (u64::from(context), request.ranks.len() as u64);
    let angles = context * (head / 2) * 4;
    let widest = hidden.max(query * head).max(columns);
    let tables = sequences * context.div_ceil(request.kv.block_size.into()) * 4;
    let batch = [4, 4, 8].map(|bytes| rows * bytes);
    let of_op = match request.backend {
        Backend::Cpu => vec![copied(request, widest), sequences * 32 * 1024],
        Backend::Cuda => {
            // sampling/call.cuh: Row, Chunk, Search, and the segments that `words_of` has.
            let biases = 1024 + 256 + 64 + 1;
            let segments = 26 + 2 * 641 + 2 * 1024 + 512 + 2 * 1024 + 512;
            let kept = (context + biases).div_ceil(2);
            vec![
                sequences * 20 * 4,
                sequences * (context + 2 * biases) * 4,
                sequences * ranks * segments * 8,
                sequences * (5 + kept) * 8,
                sequences * vocabulary.div_ceil(1024) * 26 * 8,
            ]
        }
    };
    // Of 16 spans of each row: the values' sums, the largest score, the sum of weights.
    let parts = sequences * query * 16 * (head + 2) * 4;
    let per_sequence = [(sequences + 1) * 4, sequences * 4, tables];
    lines([angles, angles, parts]) + lines(of_op) + lines(batch) + lines(per_sequence)
}

/// The input of a matrix on a CPU as its kernels want it: whole tiles of 16 bits, or integers of which 32
/// share a scale.
fn copied(request: &Request, widest: u64) -> u64 {
    let rows = u64::from(request.limits.max_num_batched_tokens);
    let groups = widest.div_ceil(32);
    let exact = match request.dtype {
        Dtype::Float32 => 0,
        Dtype::BFloat16 | Dtype::Float16 => rows.div_ceil(16) * 16 * groups * 32 * 2,
    };
    let integers = match request.input_form().integers {
        None => 0,
        Some(Integers::Int8) => rows * groups * 44,
        Some(Integers::Int16) => rows * groups * 76,
    };
    exact.max(integers)
}

pub(crate) fn comm(request: &Request) -> u64 {
    let rows = u64::from(request.limits.max_num_batched_tokens);
    match request.ranks.len() {
        1 => 0,
        _ => lines([rows * u64::from(request.shape.hidden) * 4]),
    }
}
