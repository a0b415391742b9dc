//! What an adapter does to a tensor of its base.

use std::collections::BTreeMap;

use super::factor::Factor;

/// What becomes of a tensor of the base.
#[derive(Debug)]
pub(crate) enum Change {
    /// `W + scale * B * A`, and with a magnitude each row made as long as that says.
    LowRank {
        a: Factor,
        b: Factor,
        scale: f64,
        magnitude: Option<Vec<f32>>,
    },
    /// `E + scale * (B * A)` transposed: A has a column for each row of the table.
    Embedding {
        a: Factor,
        b: Factor,
        scale: f64,
    },
    /// `b + scale * d`
    Bias {
        bias: Vec<f32>,
        scale: f64,
    },
    Replaced(Factor),
    /// These rows, each by one of the tensor's.
    Rows {
        rows: BTreeMap<usize, usize>,
        tensor: Factor,
    },
}

impl Change {
    /// Of its matrices; 0 where it has none.
    pub(super) fn rank(&self) -> usize {
        match self {
            Change::LowRank { a, .. } | Change::Embedding { a, .. } => a.info.rows_cols().0,
            Change::Bias { .. } | Change::Replaced(_) | Change::Rows { .. } => 0,
        }
    }

    /// A product or a bias that is zero: a module that was asked for and not trained.
    pub(super) fn adds_nothing(&self) -> bool {
        match self {
            Change::LowRank {
                a,
                b,
                scale,
                magnitude: None,
            }
            | Change::Embedding { a, b, scale } => *scale == 0.0 || a.is_zero || b.is_zero,
            Change::Bias { bias, scale } => *scale == 0.0 || bias.iter().all(|of| *of == 0.0),
            Change::LowRank {
                magnitude: Some(_), ..
            }
            | Change::Replaced(_)
            | Change::Rows { .. } => false,
        }
    }
}
