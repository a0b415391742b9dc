//! Where everything of a call lies, as call.cuh has it: chunks, scratch, the exchange. Sizes are the
//! planner's table of a card.

use plimsoll_planner::card::sampling::{self, LEAST_CHUNK, SEGMENT_WORDS};
#[cfg(feature = "gpu-tests")]
pub(in crate::sampling) use plimsoll_planner::card::sampling::{CHUNK_WORDS, SEARCH_WORDS};
pub use plimsoll_planner::card::sampling::{RECORD_WORDS, ROW_WORDS, exchange_words};

use super::Batch;
use crate::gpu::Card;

/// Ids that one thread block looks at: as many as keep every multiprocessor busy with four of them.
pub(in crate::sampling) fn chunk(card: &Card, rows: usize, width: u32) -> u32 {
    let wanted = 4 * card.multiprocessors as usize;
    let fills = |chunk: &u32| rows * width.div_ceil(*chunk) as usize >= wanted;
    [8192, 4096, 2048]
        .into_iter()
        .find(fills)
        .unwrap_or(LEAST_CHUNK)
}

/// Words of 8 bytes of scratch that a batch takes on a shard of `width` ids.
pub fn scratch_words(card: &Card, batch: &Batch, width: u32) -> usize {
    let rows = batch.rows();
    let chunks = width.div_ceil(chunk(card, rows, width)) as usize;
    sampling::scratch_words(rows, chunks, batch.saved)
}

/// A part of the exchange that ranks must give each other: `[ranks, words_per_rank]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub first: usize,
    pub words_per_rank: usize,
}

impl Segment {
    pub(super) fn new(number: usize, rows: usize, ranks: usize) -> Segment {
        let before: usize = SEGMENT_WORDS[..number].iter().sum();
        Segment {
            first: before * rows * ranks,
            words_per_rank: SEGMENT_WORDS[number] * rows,
        }
    }
}
