//! Host bytes that are no rank's: what the process itself needs beside the ranks' budgets.

use crate::bytes::Bytes;
use crate::model::ModelShape;

/// Host bytes outside the ranks, part by part. The operator's container memory limit is the sum
/// of the budgets plus [`HostReserve::total`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostReserve {
    /// Binary and libraries, runtime threads, page tables, metrics, logs.
    pub process: Bytes,
    /// Vocabulary, merges and their hash tables, and the JSON they are parsed from at start.
    pub tokenizer: Bytes,
    /// Connections, request bodies, streams in flight.
    pub http: Bytes,
    /// Rows of weights between file and arena, and the page cache that reading needs to be fast.
    pub loading: Bytes,
    /// Stacks and message queues of each rank's threads.
    pub ranks: Bytes,
}

impl HostReserve {
    pub fn total(&self) -> Bytes {
        self.process + self.tokenizer + self.http + self.loading + self.ranks
    }
}

/// What the process needs beside its ranks.
///
/// | part | bytes | why |
/// |---|---|---|
/// | process | 64 MiB | binary and libraries ~30, allocator slack, 2 MiB of page tables per GiB mapped |
/// | tokenizer | 1.5 KiB x vocabulary | tokens, merges and maps ~0.7 KiB each, the parsed JSON while loading |
/// | http | 32 MiB | 256 connections of 64 KiB and their bodies |
/// | loading | 64 MiB | two chunks of rows as f32, and readahead |
/// | ranks | 8 MiB x ranks | stacks that are touched, queues |
pub fn host_reserve(shape: &ModelShape, ranks: u32) -> HostReserve {
    HostReserve {
        process: Bytes(64 << 20),
        tokenizer: Bytes(1536)
            .saturating_mul(shape.vocab.into())
            .round_up(Bytes(1 << 20)),
        http: Bytes(32 << 20),
        loading: Bytes(64 << 20),
        ranks: Bytes(8 << 20).saturating_mul(ranks.into()),
    }
}
