//! Probabilities as integers: sums of them are exact, so they do not depend on how a vocabulary is
//! cut or in which order it is walked.
//!
//! A token's weight is exp(x - max) in units of 2^-40, with 24 significant bits. A `Key` is the same
//! number as a 29-bit float: it orders tokens and converts to the weight.

/// Orders tokens by probability; 0 means a probability below 2^-40 of the largest, never drawn.
pub(super) type Key = u32;

/// Bits of a key: the thresholds are searched digit by digit.
pub(super) const KEY_BITS: u32 = 29;
const MANTISSA_BITS: u32 = 23;
/// Weight of the most likely token: 2^40.
pub(super) const WEIGHT_ONE: u64 = 1 << FRACTION_BITS;
pub(super) const FRACTION_BITS: u32 = 40;
/// f32 bits of 2^-40, the smallest weight that counts.
const BITS_OF_SMALLEST: u32 = (127 - FRACTION_BITS) << MANTISSA_BITS;

/// The key of exp(difference), difference <= 0 (above 0 counts as 0; not a number as never).
///
/// exp is 2^k 2^f with k whole and |f| <= 1/2; 2^f is a polynomial in f with separate roundings of
/// every product and sum, so that any machine gets the same bits.
#[inline(always)]
pub(super) fn key(difference: f32) -> Key {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves no fraction bits
    let y = if difference > 0.0 {
        0.0
    } else {
        difference * std::f32::consts::LOG2_E
    };
    // Also false for not-a-number.
    let counts = y > -41.0;
    let y = if counts { y } else { 0.0 };
    let shifted = y + ROUND;
    let f = y - (shifted - ROUND);
    let mut p = 1.535_336_2e-4_f32;
    for c in [
        1.339_887_4e-3,
        9.618_437e-3,
        5.550_332_6e-2,
        2.402_264_8e-1,
        6.931_472e-1,
        1.0,
    ] {
        p = p * f + c;
    }
    // The low bits of `shifted` are the whole part; move them into the exponent.
    let bits = p.to_bits().wrapping_add(shifted.to_bits() << MANTISSA_BITS);
    let key = bits.min(1.0f32.to_bits()).saturating_sub(BITS_OF_SMALLEST);
    if counts { key } else { 0 }
}

/// The weight of a key: 0, or 1 ..= [`WEIGHT_ONE`].
#[inline(always)]
pub(super) fn weight(key: Key) -> u64 {
    let bits = key + BITS_OF_SMALLEST;
    let mantissa = u64::from(bits & ((1 << MANTISSA_BITS) - 1) | 1 << MANTISSA_BITS);
    // value = mantissa * 2^(exponent - 127 - 23), in units of 2^-40.
    let weight = (mantissa << 17) >> (127 - (bits >> MANTISSA_BITS));
    if key == 0 { 0 } else { weight }
}

/// The smallest key that weighs at least `least`.
pub(super) fn least_key(least: u64) -> Key {
    let (mut low, mut high) = (0, 1.0f32.to_bits() - BITS_OF_SMALLEST);
    while low < high {
        let middle = low.midpoint(high);
        if weight(middle) >= least {
            high = middle
        } else {
            low = middle + 1
        }
    }
    low
}

/// ln(weight / 2^40): what [`key`] was made from, to 2^-22 or so.
#[expect(
    clippy::cast_precision_loss,
    reason = "weights have 24 significant bits"
)]
pub(super) fn log(weight: u64) -> f64 {
    (weight as f64 / WEIGHT_ONE as f64).ln()
}

/// `fraction` (0 to 1) of `total`, rounded up.
pub(super) fn part_of(total: u64, fraction: f32) -> u64 {
    let part = (u128::from(total) * u128::from(fraction_of(fraction))).div_ceil(1 << 32);
    u64::try_from(part).unwrap_or(u64::MAX)
}

/// `fraction` (0 to 1) in units of 2^-32.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=2^32"
)]
pub(super) fn fraction_of(fraction: f32) -> u64 {
    (f64::from(fraction) * 4_294_967_296.0).clamp(0.0, 4_294_967_296.0) as u64
}

/// A float's place in the order of floats; not-a-number is below all, the two zeros are equal.
pub(super) fn ordered(x: f32) -> u32 {
    if x.is_nan() {
        return 0;
    }
    let bits = (x + 0.0).to_bits(); // -0 + 0 is 0
    if bits >> 31 == 1 {
        !bits
    } else {
        bits | 1 << 31
    }
}

/// The float of a place.
pub(super) fn unordered(place: u32) -> f32 {
    f32::from_bits(if place >> 31 == 1 {
        place & !(1 << 31)
    } else {
        !place
    })
}

/// A token among candidates: larger is better, equal logits go to the lower id.
pub(super) fn candidate(x: f32, id: u32) -> u64 {
    u64::from(ordered(x)) << 32 | u64::from(!id)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the two halves of a candidate"
)]
pub(super) fn candidate_parts(candidate: u64) -> (f32, u32) {
    (unordered((candidate >> 32) as u32), !(candidate as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_exp_to_23_bits() {
        assert_eq!(weight(key(0.0)), WEIGHT_ONE);
        for step in 0..40_000u16 {
            let x = -f32::from(step) * 7e-4;
            let exact = f64::from(x).exp() * WEIGHT_ONE as f64;
            let error = (weight(key(x)) as f64 - exact).abs();
            assert!(error <= exact * 3e-6 + 1.0, "{x}: off by {error}");
        }
        assert_eq!(weight(key(f32::NEG_INFINITY)), 0);
        assert_eq!(weight(key(f32::NAN)), 0);
        assert_eq!(weight(key(-1e30)), 0);
        assert_eq!(weight(key(5.0)), WEIGHT_ONE);
    }

    #[test]
    fn keys_order_as_weights_do() {
        let keys: Vec<Key> = (0..1000u16)
            .map(|step| key(-f32::from(step) * 0.03))
            .collect();
        assert!(keys.is_sorted_by(|a, b| a >= b));
        assert!(keys.iter().all(|key| *key < 1 << KEY_BITS));
        for least in [0, 1, 2, 1000, WEIGHT_ONE / 3, WEIGHT_ONE] {
            let key = least_key(least);
            assert!(
                weight(key) >= least && (key == 0 || weight(key - 1) < least),
                "{least}"
            );
        }
    }

    #[test]
    fn candidates_order_by_logit_then_by_lower_id() {
        let order = [
            (3.5, 9),
            (0.0, 2),
            (0.0, 7),
            (-1.0, 0),
            (f32::NEG_INFINITY, 1),
        ];
        let packed: Vec<u64> = order.iter().map(|(x, id)| candidate(*x, *id)).collect();
        assert!(packed.is_sorted_by(|a, b| a > b));
        assert!(candidate(f32::NAN, 0) < packed[4]);
        assert!(candidate(-0.0, 1) > candidate(0.0, 2));
        assert_eq!(candidate_parts(packed[1]), (0.0, 2));
    }
}
