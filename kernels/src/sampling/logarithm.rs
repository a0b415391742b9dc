//! A logarithm that is the same to the bit on every machine and card: additions, multiplications and
//! divisions of IEEE 754 in one fixed order, none of them fused. A library's own may differ by a unit
//! in the last place from the next one's, which would let two runners of the race change places.

/// `ln(1 + f) = f - f^2/2 + s (f^2/2 + R(s^2))` with `s = f / (2 + f)`: R's minimax coefficients for
/// `f` in `sqrt(1/2) - 1 .. sqrt(2) - 1`, and the natural logarithm of 2 in two parts, of which the
/// first has trailing zeros, so that whole multiples of it are exact. Source: Sun's fdlibm, `e_log.c`.
const LG: [f64; 7] = [
    0.666_666_666_666_673_5,
    0.399_999_999_994_094_2,
    0.285_714_287_436_623_9,
    0.222_221_984_321_497_84,
    0.181_835_721_616_180_5,
    0.153_138_376_992_093_73,
    0.147_981_986_051_165_86,
];
const LN2_HIGH: f64 = 0.693_147_180_369_123_8;
const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;

const ONE: u64 = 0x3ff0_0000_0000_0000;
const ROOT_HALF: u64 = 0x3fe6_a09e_667f_3bcd;

/// `-ln(1 - u)` for `u` of at most 52 bits behind the point, `0 < u < 1`: then `1 - u` is exact, and
/// the result is off by less than one unit in the last place.
pub(super) fn minus_ln_1m(u: f64) -> f64 {
    // 1 - u = 2^power * mantissa, with the mantissa in sqrt(1/2) .. sqrt(2).
    let shifted = (1.0 - u).to_bits() + (ONE - ROOT_HALF);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_wrap,
        reason = "an exponent of 11 bits"
    )]
    let power = ((shifted >> 52) as i64 - 1023) as f64;
    let mantissa = f64::from_bits((shifted & 0x000f_ffff_ffff_ffff) + ROOT_HALF);
    let f = mantissa - 1.0;
    let s = f / (2.0 + f);
    let (z, half) = (s * s, 0.5 * f * f);
    let w = z * z;
    let even = w * (LG[1] + w * (LG[3] + w * LG[5]));
    let odd = z * (LG[0] + w * (LG[2] + w * (LG[4] + w * LG[6])));
    let low = s * (half + (odd + even)) + power * LN2_LOW;
    -(power * LN2_HIGH - ((half - low) - f))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    /// What the race asks for: the middle of one of 2^32 steps.
    fn uniform(word: u32) -> f64 {
        (f64::from(word) + 0.5) / 4_294_967_296.0
    }

    fn check(word: u32) {
        let u = uniform(word);
        let (got, library) = (minus_ln_1m(u), -(-u).ln_1p());
        assert!(
            got.to_bits().abs_diff(library.to_bits()) <= 2,
            "word {word:#x}: {got:e}, the library says {library:e}"
        );
        // The race leaves runners out that this rules out.
        assert!(got >= u, "word {word:#x}: {got:e} is below {u:e}");
    }

    #[test]
    fn it_is_a_logarithm_and_at_least_u() {
        for step in 0..5000 {
            check(step);
            check(u32::MAX - step);
        }
        // Around every power of two that 1 - u passes, and where the mantissa starts anew.
        for shift in 0..32 {
            for near in 0..200 {
                check((1u32 << shift).wrapping_sub(100).wrapping_add(near));
                check(
                    0u32.wrapping_sub(1 << shift)
                        .wrapping_sub(100)
                        .wrapping_add(near),
                );
            }
        }
        let root_half = 1.0 - std::f64::consts::FRAC_1_SQRT_2;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "below 2^32"
        )]
        let middle = (root_half * 4_294_967_296.0) as u32;
        (middle - 1000..middle + 1000).for_each(check);
        let mut random = Random::new(1);
        for _ in 0..200_000 {
            #[expect(clippy::cast_possible_truncation, reason = "below 2^32")]
            check(random.below(1 << 32) as u32);
        }
    }

    /// So that another order of operations shows even where it is as good.
    #[test]
    fn it_is_this_one_to_the_bit() {
        let bits = |word| minus_ln_1m(uniform(word)).to_bits();
        let words = [
            0,
            1,
            0x1234_5678,
            0x4000_0000,
            0x8000_0000,
            0xC0FF_EE00,
            u32::MAX,
        ];
        assert_eq!(
            words.map(bits),
            [
                0x3de0_0000_0004_0000,
                0x3df8_0000_0012_0000,
                0x3fb2_e256_a2b7_efda,
                0x3fd2_6962_115f_863d,
                0x3fe6_2e42_ff1a_39ef,
                0x3ff6_6ebf_c634_8bec,
                0x4036_dfb5_16f2_0bbf,
            ]
        );
    }
}
