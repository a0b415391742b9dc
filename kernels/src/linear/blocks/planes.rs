//! Numbers of a few bits: out of a file's bytes in the order of columns, into the words of a panel, and
//! one of them back.

use super::{PANEL_ROWS, WORDS_BYTES};

/// The q of 32 columns of a row: b bits each, column c in bits `b * c..` of its plane.
#[derive(Clone, Copy, Debug)]
pub(super) struct Planes {
    pub(super) low: u128,
    pub(super) high: u128,
}

/// `B` bits of each of 32 bytes, from `shift` on.
pub(super) fn field<const B: u32>(bytes: &[u8], shift: usize) -> u128 {
    let mut all = 0;
    for (at, eight) in bytes.as_chunks::<8>().0.iter().take(4).enumerate() {
        let fields = compact::<B>(u64::from_le_bytes(*eight) >> shift);
        all |= u128::from(fields) << (8 * B as usize * at);
    }
    all
}

/// 16 bytes with columns 0..16 in their low halves, 16..32 in the high ones.
pub(super) fn halves(bytes: &[u8]) -> u128 {
    let mut all = 0;
    for (at, eight) in bytes.as_chunks::<8>().0.iter().take(2).enumerate() {
        let eight = u64::from_le_bytes(*eight);
        all |= u128::from(compact::<4>(eight)) << (32 * at);
        all |= u128::from(compact::<4>(eight >> 4)) << (32 * at + 64);
    }
    all
}

/// The low `B` bits of each byte, side by side.
fn compact<const B: u32>(bytes: u64) -> u64 {
    let field = (1u64 << B) - 1;
    let gap = 8 - B;
    let by_16 = |fields: u64| fields | fields << 16;
    let by_32 = |fields: u64| fields | fields << 32;
    let x = bytes & by_32(by_16(field | field << 8));
    let x = (x | x >> gap) & by_32(by_16((1 << (2 * B)) - 1));
    let x = (x | x >> (2 * gap)) & by_32((1 << (4 * B)) - 1);
    (x | x >> (4 * gap)) & ((1u64 << (8 * B)) - 1)
}

/// Every second field of `bits` of a word.
const fn every_second(bits: usize) -> u32 {
    match bits {
        1 => 0x5555_5555,
        2 => 0x3333_3333,
        _ => 0x0F0F_0F0F,
    }
}

/// Writes the plane of row `lane`; the other rows' numbers stay.
pub(super) fn write(words: &mut [u8], bits: usize, lane: usize, plane: u128) {
    let (mask, shift) = (every_second(bits), lane / 8 * bits);
    for (at, vector) in words.chunks_exact_mut(WORDS_BYTES).enumerate() {
        #[expect(clippy::cast_possible_truncation, reason = "the lowest word is meant")]
        let columns = (plane >> (32 * at)) as u32;
        let (vector, _) = vector.as_chunks_mut::<4>();
        for parity in 0..2 {
            let word = &mut vector[2 * (lane % 8) + parity];
            let others = u32::from_le_bytes(*word) & !(mask << shift);
            let own = (columns >> (parity * bits)) & mask;
            *word = (others | own << shift).to_le_bytes();
        }
    }
}

/// The number of row `lane` in column `col` of 32.
pub(super) fn read(words: &[u8], bits: usize, lane: usize, col: usize) -> u8 {
    debug_assert!(lane < PANEL_ROWS, "row {lane} of a panel");
    let bit = bits * (col / 2 * 2 + lane / 8);
    let byte = bit / 32 * WORDS_BYTES + (2 * (lane % 8) + col % 2) * 4 + bit % 32 / 8;
    (words[byte] >> (bit % 8)) & ((1 << bits) - 1)
}
