//! Sixteen lanes in portable Rust: the definition of every operation.

use half::{bf16, f16};

use super::{LANES, Simd, Work};

/// Proof of nothing: every machine has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar;

type Lanes = [f32; LANES];

#[inline(always)]
fn each(lane: impl FnMut(usize) -> f32) -> Lanes {
    std::array::from_fn(lane)
}

/// Runs a kernel in a function of its own, which is compiled for these instructions.
#[inline(never)]
pub(super) fn run(work: impl Work) {
    work.run(Scalar);
}

impl Simd for Scalar {
    type V = Lanes;
    const VECTORS: usize = 4;

    #[inline(always)]
    fn splat(self, value: f32) -> Lanes {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, from: &Lanes) -> Lanes {
        *from
    }

    #[inline(always)]
    fn store(self, v: Lanes, to: &mut Lanes) {
        *to = v;
    }

    #[inline(always)]
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        each(|l| a[l] + b[l])
    }

    #[inline(always)]
    fn sub(self, a: Lanes, b: Lanes) -> Lanes {
        each(|l| a[l] - b[l])
    }

    #[inline(always)]
    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        each(|l| a[l] * b[l])
    }

    #[inline(always)]
    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        each(|l| a[l] / b[l])
    }

    #[inline(always)]
    fn fma(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        each(|l| a[l] * b[l] + c[l])
    }

    #[inline(always)]
    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        each(|l| if a[l] > b[l] { a[l] } else { b[l] })
    }

    #[inline(always)]
    fn min(self, a: Lanes, b: Lanes) -> Lanes {
        each(|l| if a[l] < b[l] { a[l] } else { b[l] })
    }

    #[inline(always)]
    fn round(self, v: Lanes) -> Lanes {
        each(|l| v[l].round_ties_even())
    }

    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "whole numbers in -126..=127"
    )]
    fn pow2(self, n: Lanes) -> Lanes {
        each(|l| f32::from_bits((((n[l] as i32) + 127) << 23).cast_unsigned()))
    }

    #[inline(always)]
    fn select_lt(self, a: Lanes, b: Lanes, yes: Lanes, no: Lanes) -> Lanes {
        each(|l| if a[l] < b[l] { yes[l] } else { no[l] })
    }

    #[inline(always)]
    fn sum(self, mut v: Lanes) -> f32 {
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                v[lane] += v[lane + half];
            }
        }
        v[0]
    }

    #[inline(always)]
    fn largest(self, v: Lanes) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    fn load_bf16(self, from: &[u8; 2 * LANES]) -> Lanes {
        each(|l| bf16::from_le_bytes([from[2 * l], from[2 * l + 1]]).to_f32())
    }

    #[inline(always)]
    fn load_f16(self, from: &[u8; 2 * LANES]) -> Lanes {
        each(|l| f16::from_le_bytes([from[2 * l], from[2 * l + 1]]).to_f32())
    }

    #[inline(always)]
    fn store_bf16(self, v: Lanes, to: &mut [u8; 2 * LANES]) {
        for (to, value) in to.as_chunks_mut::<2>().0.iter_mut().zip(v) {
            *to = bf16::from_f32(value).to_le_bytes();
        }
    }

    #[inline(always)]
    fn store_f16(self, v: Lanes, to: &mut [u8; 2 * LANES]) {
        for (to, value) in to.as_chunks_mut::<2>().0.iter_mut().zip(v) {
            *to = f16::from_f32(value).to_le_bytes();
        }
    }

    #[inline(always)]
    fn split_bf16(self, pairs: Lanes) -> (Lanes, Lanes) {
        let half = |l: usize, shift: u32| f32::from_bits(pairs[l].to_bits() >> shift << 16);
        (each(|l| half(l, 0)), each(|l| half(l, 16)))
    }

    #[inline(always)]
    fn split_f16(self, pairs: Lanes) -> (Lanes, Lanes) {
        let bytes = |l: usize| pairs[l].to_bits().to_le_bytes();
        let half =
            |l: usize, at: usize| f16::from_le_bytes([bytes(l)[at], bytes(l)[at + 1]]).to_f32();
        (each(|l| half(l, 0)), each(|l| half(l, 2)))
    }

    #[inline(always)]
    fn nibble(self, words: Lanes, shift: u32, first: f32) -> Lanes {
        each(|l| {
            let low = (words[l].to_bits() >> shift).to_le_bytes()[0] & 15;
            first + f32::from(low)
        })
    }

    #[inline(always)]
    fn bits(self, words: Lanes, shift: u32, field: u32) -> Lanes {
        #[expect(clippy::cast_precision_loss, reason = "fields are of a few bits")]
        each(|l| (words[l].to_bits() >> shift & field) as f32)
    }

    #[inline(always)]
    fn lookup(self, words: Lanes, shift: u32, table: &[f32; LANES]) -> Lanes {
        each(|l| table[(words[l].to_bits() >> shift & 15) as usize])
    }

    #[inline(always)]
    fn load_i8(self, from: &[u8; LANES]) -> Lanes {
        each(|l| f32::from(from[l].cast_signed()))
    }

    #[inline(always)]
    fn signed_byte<const N: usize>(self, words: Lanes) -> Lanes {
        each(|l| f32::from(words[l].to_bits().to_le_bytes()[N].cast_signed()))
    }

    #[inline(always)]
    fn store_i8(self, v: Lanes, to: &mut [u8; LANES]) {
        // The sum has no bits behind the point, and the integer in its lowest ones.
        const SHIFT: f32 = 12_582_912.0;
        *to = v.map(|lane| (lane + SHIFT).to_bits().to_le_bytes()[0]);
    }

    #[inline(always)]
    fn twice(self, v: Lanes) -> [Lanes; 2] {
        [each(|l| v[l / 2]), each(|l| v[8 + l / 2])]
    }

    #[inline(always)]
    fn unzip(self, a: Lanes, b: Lanes) -> (Lanes, Lanes) {
        let lane = |at: usize| if at < LANES { a[at] } else { b[at - LANES] };
        (each(|l| lane(2 * l)), each(|l| lane(2 * l + 1)))
    }

    #[inline(always)]
    fn transpose(self, rows: &mut [Lanes; LANES]) {
        for r in 0..LANES {
            for c in 0..r {
                (rows[r][c], rows[c][r]) = (rows[c][r], rows[r][c]);
            }
        }
    }

    #[inline(always)]
    fn apart(self, work: impl Work) {
        run(work);
    }

    #[inline(always)]
    fn sum_quads(self, rows: [Lanes; 4]) -> Lanes {
        each(|l| {
            let (row, quad) = (&rows[l % 4], l / 4 * 4);
            (row[quad] + row[quad + 2]) + (row[quad + 1] + row[quad + 3])
        })
    }

    #[inline(always)]
    fn add_quads(self, rows: [Lanes; 4]) -> Lanes {
        each(|l| {
            let (row, lane) = (&rows[l / 4], l % 4);
            (row[lane] + row[lane + 4]) + (row[lane + 8] + row[lane + 12])
        })
    }
}
