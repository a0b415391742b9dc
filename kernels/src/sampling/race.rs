//! The exponential race in two heats: blocks of 64 tokens run for their sums of weights, then the
//! tokens of the winning block run among themselves. A token wins with probability weight / sum,
//! and two heats need two hundred times fewer random numbers than one.

use super::logarithm::minus_ln_1m;
use super::passes::BLOCK;
use super::random::Noise;
use super::threshold::Kept;
use super::weight;

/// A shard's winner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Winner {
    /// The time of its block: the smallest of all shards wins.
    pub(super) time: f64,
    /// Its row of the shard.
    pub(super) row: usize,
}

/// Runs both heats on a shard. `keys` are the shard's; `sums` are its blocks' sums of kept
/// weights; `first_block` is the number of its first block in the vocabulary.
pub(super) fn run(
    keys: &[f32],
    sums: &[u64],
    first_block: u32,
    kept: Kept,
    noise: Noise,
) -> Option<Winner> {
    let (time, block) = heat(sums.iter().copied(), first_block, noise.of_blocks())?;
    let start = block * BLOCK;
    let is_tie = |key: &&f32| key.to_bits() == kept.key;
    // Blocks without a sum have no tie that stays.
    let with_some = keys[..start]
        .chunks(BLOCK)
        .zip(sums)
        .filter(|(_, sum)| **sum > 0);
    let ties_before: usize = with_some
        .map(|(block, _)| block.iter().filter(is_tie).count())
        .sum();
    let mut ties_left = kept.own_ties().saturating_sub(ties_before as u64);
    let weights = keys[start..].iter().take(BLOCK).map(|key| {
        let key = key.to_bits();
        let tie = key == kept.key;
        let stays = key > kept.key || (tie && ties_left > 0);
        ties_left = ties_left.saturating_sub(u64::from(tie));
        if stays { weight::weight(key) } else { 0 }
    });
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a shard has less than 2^32 rows"
    )]
    let first = (first_block as usize * BLOCK + start) as u32;
    let (_, row) = heat(weights, first, noise.of_tokens())?;
    Some(Winner {
        time,
        row: start + row,
    })
}

/// The time and place of the fastest of `weights`; the first runner has number `first`.
fn heat(weights: impl Iterator<Item = u64>, first: u32, noise: Noise) -> Option<(f64, usize)> {
    let mut best: Option<(f64, usize)> = None;
    let mut group = (u32::MAX, [0; 4]);
    for ((place, number), weight) in (0..).zip(first..).zip(weights) {
        if weight == 0 {
            continue;
        }
        if group.0 != number / 4 {
            group = (number / 4, noise.group(number / 4));
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "2^53 and more are rounded, everywhere alike"
        )]
        let weight = weight as f64;
        let uniform = (f64::from(group.1[number as usize % 4]) + 0.5) / 4_294_967_296.0;
        // -ln(1 - u) >= u: most runners cannot win, and need no logarithm.
        if best.is_some_and(|(time, _)| uniform >= time * weight) {
            continue;
        }
        let time = minus_ln_1m(uniform) / weight;
        if best.is_none_or(|(least, _)| time < least) {
            best = Some((time, place));
        }
    }
    best
}
