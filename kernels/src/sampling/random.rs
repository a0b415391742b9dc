//! Philox4x32-10: random numbers by counter, so that a number depends on its key and place alone
//! and any shard, thread or device computes the same one.
//!
//! Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The four words at `counter` under `key`.
pub(super) fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let [low0, high0] = halves(MULTIPLIERS[0], counter[0]);
        let [low1, high1] = halves(MULTIPLIERS[1], counter[2]);
        counter = [
            high1 ^ counter[1] ^ key[0],
            low1,
            high0 ^ counter[3] ^ key[1],
            low0,
        ];
        key = [
            key[0].wrapping_add(KEY_STEPS[0]),
            key[1].wrapping_add(KEY_STEPS[1]),
        ];
    }
    counter
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is asked for")]
fn halves(a: u32, b: u32) -> [u32; 2] {
    let product = u64::from(a) * u64::from(b);
    [product as u32, (product >> 32) as u32]
}

/// The noise of one draw: four runners share a counter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noise {
    key: [u32; 2],
    stream: u32,
    position: u32,
    heat: u32,
}

impl Noise {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the seed is cut into two words"
    )]
    pub(super) fn new(seed: u64, stream: u32, position: u32) -> Noise {
        let key = [seed as u32, (seed >> 32) as u32];
        Noise {
            key,
            stream,
            position,
            heat: 0,
        }
    }

    /// Numbers for the heat of tokens.
    pub(super) fn of_tokens(self) -> Noise {
        Noise { heat: 0, ..self }
    }

    /// Numbers for the heat of blocks.
    pub(super) fn of_blocks(self) -> Noise {
        Noise { heat: 1, ..self }
    }

    /// Uniform 32-bit words of runners `4 group .. 4 group + 4`.
    pub(super) fn group(&self, group: u32) -> [u32; 4] {
        philox([group, self.position, self.stream, self.heat], self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of the reference implementation (Random123, `kat_vectors`).
    #[test]
    fn known_answers() {
        let zeros = philox([0; 4], [0; 2]);
        assert_eq!(zeros, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = philox([u32::MAX; 4], [u32::MAX; 2]);
        assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = philox(
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
        );
        assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }
}
