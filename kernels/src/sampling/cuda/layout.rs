//! Where everything of a call lies, as call.cuh has it: chunks, scratch, the exchange.

use super::Batch;
use crate::gpu::Card;

/// Words of 4 bytes that a row's parameters take.
pub const ROW_WORDS: usize = 20;
/// Words of 8 bytes that a rank's record of a row takes.
pub const RECORD_WORDS: usize = 26;
/// Words of 8 bytes of a chunk, and of a search.
pub(in crate::sampling) const CHUNK_WORDS: usize = 26;
pub(in crate::sampling) const SEARCH_WORDS: usize = 5;
/// Words of 8 bytes that a row takes in each segment of the exchange: records, then the histograms of
/// digits 0 (641 bins), 1 and 2, and of digits 1 and 2 of a second search.
const SEGMENT_WORDS: [usize; 6] = [RECORD_WORDS, 2 * 641, 2 * 1024, 512, 2 * 1024, 512];

/// Ids that one thread block looks at: as many as keep every multiprocessor busy with four of them.
pub(in crate::sampling) fn chunk(card: &Card, rows: usize, width: u32) -> u32 {
    let wanted = 4 * card.multiprocessors as usize;
    let fills = |chunk: &u32| rows * width.div_ceil(*chunk) as usize >= wanted;
    [8192, 4096, 2048].into_iter().find(fills).unwrap_or(1024)
}

/// Words of 8 bytes of scratch that a batch takes on a shard of `width` ids.
pub fn scratch_words(card: &Card, batch: &Batch, width: u32) -> usize {
    let rows = batch.rows();
    let chunks = width.div_ceil(chunk(card, rows, width)) as usize;
    rows * (chunks * CHUNK_WORDS + SEARCH_WORDS) + batch.saved.div_ceil(2)
}

/// Words of 8 bytes that the exchange of `rows` rows between `ranks` ranks takes.
pub fn exchange_words(rows: usize, ranks: usize) -> usize {
    rows * ranks * SEGMENT_WORDS.iter().sum::<usize>()
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
