//! For tests only: seeded numbers, and comparisons with a tolerance that names its source.

/// A small seeded generator (SplitMix64): the same numbers on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.word() >> 1).unwrap_or(0) % bound
    }

    /// Uniform in -1..1.
    pub(crate) fn value(&mut self) -> f32 {
        (self.word() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(crate) fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.value()).collect()
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

/// Asserts |got - exact| <= tolerance for every number.
#[track_caller]
pub(crate) fn assert_close(
    got: &[f32],
    exact: &[f64],
    tolerance: impl Fn(usize) -> f64,
    what: &str,
) {
    assert_eq!(got.len(), exact.len(), "{what}");
    for (at, (got, exact)) in got.iter().zip(exact).enumerate() {
        let error = (f64::from(*got) - exact).abs();
        assert!(
            error <= tolerance(at),
            "{what}: cell {at} is {got}, exactly {exact}; off by {error:e}, allowed {:e}",
            tolerance(at)
        );
    }
}
