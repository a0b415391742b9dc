//! What ops of a card take beside their inputs and outputs: one table, which plans add up and launchers
//! (`kernels/src/*/cuda`) hold their callers to.

/// Attention: what few rows' keys, cut into spans, leave for each row, query head and span.
pub mod attention {
    /// Numbers of f32 that say how a part's sums are scaled: the largest score, the sum of weights.
    pub const STATS: usize = 2;

    /// Numbers of f32 of one part: a sum for each number of a head, then [`STATS`]. Sums of all parts lie
    /// first, then all their scales.
    pub const fn part_numbers(head_dim: usize) -> usize {
        head_dim + STATS
    }
}

/// Sampling: `kernels/src/sampling/call.cuh` has the same layout.
pub mod sampling {
    use crate::limits;

    /// Words of 4 bytes that a row's parameters take.
    pub const ROW_WORDS: usize = 20;
    /// Words of 8 bytes that a rank's record of a row takes.
    pub const RECORD_WORDS: usize = 26;
    /// Words of 8 bytes of a chunk, and of a search.
    pub const CHUNK_WORDS: usize = 26;
    pub const SEARCH_WORDS: usize = 5;
    /// Words of 8 bytes that a row takes in each segment of the exchange: records, then the histograms of
    /// digits 0 (641 bins), 1 and 2, and of digits 1 and 2 of a second search.
    pub const SEGMENT_WORDS: [usize; 6] = [RECORD_WORDS, 2 * 641, 2 * 1024, 512, 2 * 1024, 512];
    /// The fewest ids of a chunk: what a card with many multiprocessors looks at in one block.
    pub const LEAST_CHUNK: u32 = 1024;
    /// The most ids that a row is given biases of: those of a request, and those that it may not end with
    /// yet (`logit_bias`, `stop_token_ids`, and the model's own).
    pub const BIASES_MAX: usize = limits::LOGIT_BIASES + limits::STOP_IDS + limits::EOS_IDS + 1;

    /// Words of 8 bytes of scratch that `rows` rows take on a shard that is cut into `chunks`, and that keep
    /// `saved` logits while keys take their places: chunks, then searches, then logits.
    pub const fn scratch_words(rows: usize, chunks: usize, saved: usize) -> usize {
        rows * (chunks * CHUNK_WORDS + SEARCH_WORDS) + saved.div_ceil(2)
    }

    /// Words of 8 bytes that the exchange of `rows` rows between `ranks` ranks takes on each of them.
    pub const fn exchange_words(rows: usize, ranks: usize) -> usize {
        let (mut words, mut segment) = (0, 0);
        while segment < SEGMENT_WORDS.len() {
            words += SEGMENT_WORDS[segment];
            segment += 1;
        }
        rows * ranks * words
    }

    /// Words of 4 bytes that a row has of its prompt and output, which penalties look at, and of its
    /// biases, an id and a number each.
    pub const fn history_words(max_model_len: usize) -> usize {
        max_model_len + 2 * BIASES_MAX
    }

    /// The most logits of a row that are kept: one for each token of its history, and for each bias.
    pub const fn saved_logits(max_model_len: usize) -> usize {
        max_model_len + BIASES_MAX
    }
}
