//! Sixteen f32 lanes under one name for every instruction set, so that an op is written once.
//!
//! A value of a [`Simd`] type is the proof that this machine has its instructions: only
//! [`dispatch`] makes one, after the pool checked the instruction set. A kernel is a [`Work`];
//! its `run` and all that it calls must be `#[inline(always)]`, so that it is compiled once inside
//! each instruction set's own function.

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "AVX2 intrinsics, proved by the token")]
mod avx2;
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "AVX-512 intrinsics, proved by the token")]
mod avx512;
#[expect(
    unsafe_code,
    reason = "calls into functions compiled for more than the baseline"
)]
mod dispatch;
mod exp;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod squares;

#[cfg(test)]
mod tests;

use plimsoll_planner::Dtype;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use dispatch::dispatch;
pub(crate) use scalar::Scalar;

/// Repeats a block with `$i` as a constant, so that arrays of vectors indexed by it are registers
/// from the start: the compiler's own unrolling comes too late for large blocks.
macro_rules! unroll {
    ($i:ident in 0..2 $body:block) => { unroll!(@ $i [0 1] $body) };
    ($i:ident in 0..4 $body:block) => { unroll!(@ $i [0 1 2 3] $body) };
    ($i:ident in 0..8 $body:block) => { unroll!(@ $i [0 1 2 3 4 5 6 7] $body) };
    ($i:ident in 0..12 $body:block) => { unroll!(@ $i [0 1 2 3 4 5 6 7 8 9 10 11] $body) };
    (@ $i:ident [$($n:literal)*] $body:block) => { $({
        const $i: usize = $n;
        $body
    })* };
}
pub(crate) use unroll;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// A kernel, generic over the instruction set.
pub(crate) trait Work {
    /// Must be `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S);
}

/// Sixteen f32 lanes. Products and sums are fused on every instruction set but the scalar one;
/// apart from that all give the same bits.
pub(crate) trait Simd: Copy + Send + Sync {
    type V: Copy;
    /// Vectors that fit into registers; decides how ops block their loops.
    const VECTORS: usize;

    fn splat(self, value: f32) -> Self::V;
    fn load(self, from: &[f32; LANES]) -> Self::V;
    fn store(self, v: Self::V, to: &mut [f32; LANES]);

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// a * b + c
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` where either is not a number.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where either is not a number.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    fn round(self, v: Self::V) -> Self::V;
    /// 2^n for whole n in -126..=127.
    fn pow2(self, n: Self::V) -> Self::V;
    /// `yes` where a < b, otherwise `no`.
    fn select_lt(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// The sum of all lanes: halves are added until one is left.
    fn sum(self, v: Self::V) -> f32;
    /// The largest lane (none may be NaN).
    fn largest(self, v: Self::V) -> f32;

    fn load_bf16(self, from: &[u8; 2 * LANES]) -> Self::V;
    fn load_f16(self, from: &[u8; 2 * LANES]) -> Self::V;
    /// Rounded to nearest even; NaN stays NaN.
    fn store_bf16(self, v: Self::V, to: &mut [u8; 2 * LANES]);
    /// Rounded to nearest even.
    fn store_f16(self, v: Self::V, to: &mut [u8; 2 * LANES]);
    /// Of the bits of sixteen pairs of bf16: the first of each pair, and the second.
    fn split_bf16(self, pairs: Self::V) -> (Self::V, Self::V);
    /// Of the bits of sixteen pairs of f16: the first of each pair, and the second.
    fn split_f16(self, pairs: Self::V) -> (Self::V, Self::V);

    /// Of sixteen words the four bits from `shift` on, as a number: `first` for 0, then one more each.
    fn nibble(self, words: Self::V, shift: u32, first: f32) -> Self::V;
    /// Of sixteen words the bits of `field` from `shift` on, as a number.
    fn bits(self, words: Self::V, shift: u32, field: u32) -> Self::V;
    /// Of sixteen words what the four bits from `shift` on stand for in `table`.
    fn lookup(self, words: Self::V, shift: u32, table: &[f32; LANES]) -> Self::V;
    /// Sixteen bytes with signs.
    fn load_i8(self, from: &[u8; LANES]) -> Self::V;
    /// Of sixteen words byte `N` (0 to 3), a number with a sign.
    fn signed_byte<const N: usize>(self, words: Self::V) -> Self::V;
    /// Numbers within ±127, rounded to the nearest integer, ties to even.
    fn store_i8(self, v: Self::V, to: &mut [u8; LANES]);
    /// The low eight lanes, each twice, and the high eight.
    fn twice(self, v: Self::V) -> [Self::V; 2];
    /// The even lanes of `a` and then of `b`, and the odd ones.
    fn unzip(self, a: Self::V, b: Self::V) -> (Self::V, Self::V);

    /// Row r, lane c goes to row c, lane r.
    fn transpose(self, rows: &mut [Self::V; LANES]);

    /// Runs `work` in a function of its own: code that many callers share is compiled once.
    fn apart(self, work: impl Work);

    /// Of each quad of lanes the sums of four rows: lane 4 q + r is (0 + 2) + (1 + 3) of quad q of row r.
    fn sum_quads(self, rows: [Self::V; 4]) -> Self::V;
    /// Quads of lanes added: quad i is (0 + 1) + (2 + 3) of the quads of row i. After `sum_quads` of
    /// four rows each, lane 4 i + r is the sum of all lanes of row 4 i + r.
    fn add_quads(self, rows: [Self::V; 4]) -> Self::V;

    /// Asks for the cache lines of `bytes`; changes nothing.
    #[inline(always)]
    fn prefetch(self, bytes: &[u8]) {
        let _ = bytes;
    }

    /// The same into the second level of cache: the first can wait for few lines at once, with which a
    /// core reads less than half of what memory gives.
    #[inline(always)]
    fn prefetch_l2(self, bytes: &[u8]) {
        let _ = bytes;
    }

    /// e^x within 2 units in the last place; 0 far below, finite far above, NaN for NaN.
    #[inline(always)]
    fn exp(self, x: Self::V) -> Self::V {
        exp::exp(self, x)
    }

    /// The first `from.len()` (at most 16) lanes, then zeros.
    #[inline(always)]
    fn load_part(self, from: &[f32]) -> Self::V {
        let mut lanes = [0.0; LANES];
        lanes[..from.len()].copy_from_slice(from);
        self.load(&lanes)
    }

    /// The first `to.len()` (at most 16) lanes.
    #[inline(always)]
    fn store_part(self, v: Self::V, to: &mut [f32]) {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        to.copy_from_slice(&lanes[..to.len()]);
    }

    /// Sixteen words of any meaning.
    #[inline(always)]
    fn load_bits(self, from: &[u8; 4 * LANES]) -> Self::V {
        self.load(&floats(from))
    }

    /// Sixteen numbers of `dtype` from the front of `from`.
    #[inline(always)]
    fn load_as(self, dtype: Dtype, from: &[u8]) -> Self::V {
        match dtype {
            Dtype::Float32 => self.load_bits(array(from)),
            Dtype::BFloat16 => self.load_bf16(array(from)),
            Dtype::Float16 => self.load_f16(array(from)),
        }
    }

    /// Sixteen numbers of `dtype` to the front of `to`.
    #[inline(always)]
    fn store_as(self, v: Self::V, dtype: Dtype, to: &mut [u8]) {
        match dtype {
            Dtype::Float32 => {
                let mut lanes = [0.0; LANES];
                self.store(v, &mut lanes);
                let to = &mut to[..4 * LANES];
                for (to, lane) in to.as_chunks_mut::<4>().0.iter_mut().zip(lanes) {
                    *to = lane.to_le_bytes();
                }
            }
            Dtype::BFloat16 => self.store_bf16(v, array_mut(to)),
            Dtype::Float16 => self.store_f16(v, array_mut(to)),
        }
    }
}

/// The front of a slice as an array.
#[inline(always)]
pub(crate) fn array<T, const N: usize>(from: &[T]) -> &[T; N] {
    let Some(array) = from.first_chunk() else {
        short(N, from.len())
    };
    array
}

/// The front of a slice as an array.
#[inline(always)]
pub(crate) fn array_mut<T, const N: usize>(to: &mut [T]) -> &mut [T; N] {
    let len = to.len();
    let Some(array) = to.first_chunk_mut() else {
        short(N, len)
    };
    array
}

#[cold]
#[inline(never)]
fn short(needed: usize, len: usize) -> ! {
    panic!("{len} numbers where {needed} are needed")
}

/// Little-endian f32 from bytes; a plain load.
#[inline(always)]
fn floats(from: &[u8; 4 * LANES]) -> [f32; LANES] {
    let (words, _) = from.as_chunks::<4>();
    std::array::from_fn(|lane| f32::from_le_bytes(words[lane]))
}
