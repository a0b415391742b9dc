//! One chunk after the other; eight independent lanes keep the multiplier busy.

use std::sync::atomic::{AtomicU64, Ordering};

use super::CHUNK_BYTES;
use crate::pool::Pool;

const LANES: usize = 8;
const ROW_BYTES: usize = LANES * 8;
const PRIME: u64 = 0x9E37_79B1_85EB_CA87;

pub(super) fn run(bytes: &[u8]) -> u64 {
    bytes
        .chunks(CHUNK_BYTES)
        .zip(0..)
        .fold(of_length(bytes.len() as u64), |sum, (chunk, index)| {
            sum.wrapping_add(figure(index, chunk))
        })
}

/// Cuts tensors into pieces of whole chunks, whose figures are added in any order.
pub(super) fn run_all(pool: &Pool, tensors: &[&[u8]]) -> Vec<u64> {
    const PIECE_CHUNKS: usize = 256;
    let lengths = tensors.iter().map(|bytes| bytes.len() as u64);
    let sums: Vec<AtomicU64> = lengths.map(|len| AtomicU64::new(of_length(len))).collect();
    let cut = |(tensor, bytes): (usize, &&'_ [u8])| {
        let pieces = 0..bytes.len().div_ceil(CHUNK_BYTES * PIECE_CHUNKS);
        pieces.map(move |piece| (tensor, piece))
    };
    let pieces: Vec<(usize, usize)> = tensors.iter().enumerate().flat_map(cut).collect();
    pool.run(pieces.len(), |at| {
        let (tensor, piece) = pieces[at];
        let first = piece * PIECE_CHUNKS;
        let chunks = tensors[tensor].chunks(CHUNK_BYTES);
        let chunks = chunks.skip(first).take(PIECE_CHUNKS);
        let figures = (first as u64..).zip(chunks).map(|(at, c)| figure(at, c));
        let sum = figures.fold(0, u64::wrapping_add);
        sums[tensor].fetch_add(sum, Ordering::Relaxed);
    });
    sums.into_iter().map(AtomicU64::into_inner).collect()
}

/// What the sum starts from.
pub(super) fn of_length(bytes: u64) -> u64 {
    spread(!bytes)
}

fn figure(index: u64, chunk: &[u8]) -> u64 {
    let mut lanes: [u64; LANES] = std::array::from_fn(|lane| lane as u64 + 1);
    let (rows, rest) = chunk.as_chunks::<ROW_BYTES>();
    for row in rows {
        enter(&mut lanes, row);
    }
    if !rest.is_empty() {
        let mut row = [0; ROW_BYTES];
        row[..rest.len()].copy_from_slice(rest);
        enter(&mut lanes, &row);
    }
    spread(lanes.into_iter().fold(index, mix))
}

#[inline(always)]
fn enter(lanes: &mut [u64; LANES], row: &[u8; ROW_BYTES]) {
    let (words, _) = row.as_chunks::<8>();
    for (lane, word) in lanes.iter_mut().zip(words) {
        *lane = mix(*lane, u64::from_le_bytes(*word));
    }
}

/// A bijection of `sum` for every word, and of the word for every sum.
fn mix(sum: u64, word: u64) -> u64 {
    (sum ^ word).wrapping_mul(PRIME).rotate_left(31)
}

/// A bijection whose every bit depends on all bits: sums of such figures do not cancel.
fn spread(figure: u64) -> u64 {
    let figure = (figure ^ (figure >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let figure = (figure ^ (figure >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    figure ^ (figure >> 31)
}
