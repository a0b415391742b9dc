//! checksum: a 64-bit figure of a tensor's bytes, to tell whether they are what they were.
//!
//! Not cryptographic. Every bit and its place count; the figure does not depend on the machine.

/// Independent lanes keep the multiplier busy.
const LANES: usize = 8;
const PRIME: u64 = 0x9E37_79B1_85EB_CA87;

/// The checksum of `bytes`.
pub fn run(bytes: &[u8]) -> u64 {
    let mut lanes: [u64; LANES] = std::array::from_fn(|lane| lane as u64 + 1);
    let (rows, rest) = bytes.as_chunks::<{ LANES * 8 }>();
    for row in rows {
        let (words, _) = row.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = mix(*lane, u64::from_le_bytes(*word));
        }
    }
    let mut sum = bytes.len() as u64;
    for lane in lanes {
        sum = mix(sum, lane);
    }
    for byte in rest {
        sum = mix(sum, u64::from(*byte));
    }
    sum ^ (sum >> 29)
}

/// A bijection of `sum` for every word, so that no single change can be lost.
fn mix(sum: u64, word: u64) -> u64 {
    (sum ^ word).wrapping_mul(PRIME).rotate_left(31)
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::testing::Random;

    #[test]
    fn one_flipped_bit_anywhere_changes_it() {
        let mut random = Random::new(3);
        for len in [0, 1, 7, 8, 63, 64, 65, 1000] {
            let bytes: Vec<u8> = (0..len).map(|_| random.word().to_le_bytes()[0]).collect();
            let before = run(&bytes);
            for bit in 0..len * 8 {
                let mut changed = bytes.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(run(&changed), before, "bit {bit} of {len} bytes");
            }
        }
    }

    #[test]
    fn order_and_length_count() {
        assert_ne!(run(&[0; 64]), run(&[0; 65]));
        assert_ne!(run(&[1, 2]), run(&[2, 1]));
        let mut words = [0u8; 128];
        words[0] = 1;
        let first = run(&words);
        words.rotate_right(64);
        assert_ne!(run(&words), first);
    }
}
