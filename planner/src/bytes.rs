//! `Bytes`: a count of bytes that only this crate, or a measurement, can make.
//!
//! Everything that holds memory (arena, ledger, report) accepts nothing else, so a byte figure
//! always comes from one of two places: the planner's formulas or a reading of the machine.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// A count of bytes. Arithmetic saturates: a figure too large to hold never wraps to a small one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub(crate) u64);

impl Bytes {
    pub const ZERO: Bytes = Bytes(0);

    /// A figure read from the machine or written by a user (a quota), not computed from shapes.
    pub const fn measured(bytes: u64) -> Bytes {
        Bytes(bytes)
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    pub const fn saturating_sub(self, other: Bytes) -> Bytes {
        Bytes(self.0.saturating_sub(other.0))
    }

    pub const fn saturating_mul(self, count: u64) -> Bytes {
        Bytes(self.0.saturating_mul(count))
    }

    /// The next multiple of `granularity` (a page, a huge page, a mapping granule).
    pub const fn round_up(self, granularity: Bytes) -> Bytes {
        if granularity.0 <= 1 {
            return self;
        }
        Bytes(self.0.div_ceil(granularity.0).saturating_mul(granularity.0))
    }
}

impl Add for Bytes {
    type Output = Bytes;
    fn add(self, other: Bytes) -> Bytes {
        Bytes(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Bytes {
    fn add_assign(&mut self, other: Bytes) {
        *self = *self + other;
    }
}

impl Sum for Bytes {
    fn sum<I: Iterator<Item = Bytes>>(parts: I) -> Bytes {
        parts.fold(Bytes::ZERO, Add::add)
    }
}

/// Binary units with two decimals: `15.34 GiB`, `300.00 MiB`, `512 B`.
impl fmt::Display for Bytes {
    #[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] = [
            (1 << 40, "TiB"),
            (1 << 30, "GiB"),
            (1 << 20, "MiB"),
            (1 << 10, "KiB"),
        ];
        match UNITS.iter().find(|(size, _)| self.0 >= *size) {
            Some((size, unit)) => write!(f, "{:.2} {unit}", self.0 as f64 / *size as f64),
            None => write!(f, "{} B", self.0),
        }
    }
}
