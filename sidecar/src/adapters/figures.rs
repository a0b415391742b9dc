//! How much of an adapter is left in weights as they are kept.

use half::{bf16, f16};

use crate::weights::encoding::Encoding;
use crate::weights::rounding;

/// Numbers that are looked at at once: whole blocks of those that floats are rounded to.
pub(super) const PART: usize = 4 * rounding::GROUP;

/// Of the numbers of the tensors that an adapter changes. A number that several ranks hold counts for
/// each of them, and so does a block of 128 that several have pieces of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    pub numbers: u64,
    /// Those that are not kept as they would be without the adapter.
    pub changed: u64,
    /// Squares of what was added, as it is kept.
    applied: f64,
    /// Squares of what should have been.
    intended: f64,
    /// Squares of what is kept less what should be.
    missed: f64,
    /// The same of weights without the adapter.
    without: f64,
    /// Squares of what should be kept.
    sizes: f64,
    /// Squares of what rounding takes of the numbers before.
    rounded: f64,
    /// Numbers that the file has in blocks, and that are rounded to blocks once more.
    pub requantised: u64,
}

impl Figures {
    /// Counts numbers that are kept in this encoding: as they were, and as the adapter makes them.
    /// `in_blocks`: without it they would stay in the blocks of the file, which are exactly these numbers;
    /// what the second rounding does is then held against the adapter.
    pub(super) fn count(
        &mut self,
        (encoding, in_blocks): (Encoding, bool),
        before: &[f32],
        after: &[f32],
    ) {
        let again = in_blocks && matches!(encoding, Encoding::Blocks(_));
        let square = |one: f32, other: f32| {
            let difference = f64::from(one) - f64::from(other);
            difference * difference
        };
        for (before, after) in before.chunks(PART).zip(after.chunks(PART)) {
            let (mut was, mut is) = ([0.0; PART], [0.0; PART]);
            as_kept(encoding, before, &mut was[..before.len()]);
            as_kept(encoding, after, &mut is[..after.len()]);
            let kept = was.into_iter().zip(is);
            for ((before, after), (rounded, is)) in before.iter().zip(after).zip(kept) {
                let was = if again { *before } else { rounded };
                self.changed += u64::from(was != is);
                self.applied += square(is, was);
                self.intended += square(*after, *before);
                self.missed += square(is, *after);
                self.without += square(was, *after);
                self.sizes += square(*after, 0.0);
                self.rounded += square(rounded, *before);
            }
        }
        let numbers = before.len() as u64;
        self.numbers += numbers;
        self.requantised += if again { numbers } else { 0 };
    }

    pub fn add(&mut self, other: &Figures) {
        let Figures {
            numbers,
            changed,
            applied,
            intended,
            missed,
            without,
            sizes,
            rounded,
            requantised,
        } = other;
        self.numbers += numbers;
        self.changed += changed;
        self.applied += applied;
        self.intended += intended;
        self.missed += missed;
        self.without += without;
        self.sizes += sizes;
        self.rounded += rounded;
        self.requantised += requantised;
    }

    /// Of the numbers, 0 to 1.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a share is shown with a few digits"
    )]
    pub fn changed_share(&self) -> f64 {
        self.changed as f64 / (self.numbers as f64).max(1.0)
    }

    /// The length of what was added to that of what was meant; 1 where nothing was lost, more where
    /// rounding adds. What is less than a rounding of f32 counts as not meant.
    pub fn norm_ratio(&self) -> f64 {
        match self.intended > 0.0 {
            true => (self.applied / self.intended).sqrt(),
            false => 0.0,
        }
    }

    /// How far what is kept is from what was meant and, without the adapter, from what was there: of their
    /// length.
    pub fn rounding(&self) -> f64 {
        ((self.missed + self.rounded) / self.sizes.max(f64::MIN_POSITIVE)).sqrt()
    }

    /// How far what is kept is from what was meant, to how far the weights without the adapter are: 0
    /// where nothing was lost to rounding, 1 where all was, and more where blocks that are rounded again
    /// move farther than the adapter moves them.
    pub fn lost(&self) -> f64 {
        match self.changed > 0 {
            true => (self.missed / self.without).sqrt(),
            false => 1.0,
        }
    }
}

/// Numbers as they are kept, [`PART`] at most; what no block can have is NaN.
///
/// # Panics
/// When they are no whole blocks, or `out` has another length.
pub(super) fn as_kept(encoding: Encoding, numbers: &[f32], out: &mut [f32]) {
    let round = |by: fn(f32) -> f32, out: &mut [f32]| {
        let pairs = out.iter_mut().zip(numbers);
        pairs.for_each(|(out, number)| *out = by(*number));
    };
    match encoding {
        Encoding::F32 => out.copy_from_slice(numbers),
        Encoding::Bf16 => round(|number| bf16::from_f32(number).to_f32(), out),
        Encoding::F16 => round(|number| f16::from_f32(number).to_f32(), out),
        Encoding::Blocks(format) => {
            let mut bytes = [0; 2 * PART];
            let blocks = numbers.len() / encoding.block_numbers();
            let bytes = &mut bytes[..blocks * encoding.block_bytes()];
            match rounding::encode(format, numbers, bytes) {
                Ok(()) => encoding.decode(bytes, 0, out),
                Err(_) => out.fill(f32::NAN),
            }
        }
    }
}
