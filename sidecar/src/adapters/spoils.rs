//! Merges that are wrong in one way, to show that the gate finds each.

use std::sync::PoisonError;

use super::Gate;

/// What becomes of each piece that is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Spoils {
    /// What is added is multiplied by this: -1 is a wrong sign, 0 leaves the base.
    Times(f32),
    /// Of square tensors: what is added changes rows and columns over.
    Transposed,
    /// This row is the base's.
    Stale(usize),
    /// What is added to a row goes to the one after it.
    Shifted,
    /// The bytes of this row are another's.
    StaleBytes(usize),
}

impl Gate {
    pub(crate) fn sabotage(&self, how: Spoils) {
        *self.spoils.lock().unwrap_or_else(PoisonError::into_inner) = Some(how);
    }

    fn planned(&self) -> Option<Spoils> {
        *self.spoils.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn spoil(&self, first: usize, width: usize, before: &[f32], after: &mut [f32]) {
        let Some(how) = self.planned() else {
            return;
        };
        let added: Vec<f32> = after.iter().zip(before).map(|(is, was)| is - was).collect();
        let rows = after.len() / width;
        for (at, (number, was)) in after.iter_mut().zip(before).enumerate() {
            let (row, column) = (at / width, at % width);
            *number = match how {
                Spoils::Times(factor) => was + factor * added[at],
                Spoils::Transposed if rows == width => was + added[column * width + row],
                Spoils::Stale(stale) if first + row == stale => *was,
                Spoils::Shifted => was + added[(row + rows - 1) % rows * width + column],
                Spoils::Transposed | Spoils::Stale(_) | Spoils::StaleBytes(_) => *number,
            };
        }
    }

    pub(super) fn spoil_kept(&self, first: usize, rows: usize, bytes: &mut [u8]) {
        let Some(Spoils::StaleBytes(row)) = self.planned() else {
            return;
        };
        if rows > 1 && (first..first + rows).contains(&row) {
            let (row_bytes, at) = (bytes.len() / rows, row - first);
            let other = if at == 0 { 1 } else { at - 1 };
            bytes.copy_within(other * row_bytes..(other + 1) * row_bytes, at * row_bytes);
        }
    }
}
