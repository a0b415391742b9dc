//! Adapters that stay beside the weights: both factors of each matrix, for whoever asks for them.
//!
//! Checked whole against the base, as those that are merged; what cannot be computed beside the
//! weights is refused by name, with the way out. Files stay open, so that a folder which is deleted or
//! moved while its adapter serves is still read by a wake.

use std::collections::HashSet;
use std::ops::Range;

use plimsoll_planner::ModelShape;
use plimsoll_planner::adapters::Projection;

use super::change::Change;
use super::factor::Factor;
use super::{AdapterPath, Base, open, refused};
use crate::model_error::ModelError;
use crate::weights::TensorSource;

/// The names of matrices in a layer.
const MODULES: [(Projection, &str); 7] = [
    (Projection::Query, "self_attn.q_proj"),
    (Projection::Key, "self_attn.k_proj"),
    (Projection::Value, "self_attn.v_proj"),
    (Projection::Output, "self_attn.o_proj"),
    (Projection::Gate, "mlp.gate_proj"),
    (Projection::Up, "mlp.up_proj"),
    (Projection::Down, "mlp.down_proj"),
];

/// An adapter that fits a model and can be computed beside it.
#[derive(Debug)]
pub struct Dynamic {
    pub at: AdapterPath,
    /// `sha256:<hex>` over its config and all of its tensors.
    pub digest: String,
    /// The largest of its matrices' ranks.
    pub rank: u32,
    /// Matrices that it changes.
    pub matrices: usize,
    /// What is odd about it and hinders nothing.
    pub told: Vec<String>,
    /// By layer, and there in the order of [`Projection::ALL`].
    factors: Vec<Option<Pair>>,
}

/// Both factors of a matrix.
#[derive(Debug)]
pub(crate) struct Pair {
    a: Factor,
    b: Factor,
    scale: f64,
}

impl Dynamic {
    /// Opens a folder for a base that is `called` so. It reads every number of the adapter.
    ///
    /// # Errors
    /// [`ModelError::InvalidAdapter`], with the adapter, the file and the field or tensor.
    pub(crate) fn open(
        at: &AdapterPath,
        (shape, tensors): (&ModelShape, &dyn TensorSource),
        called: &str,
    ) -> Result<Dynamic, ModelError> {
        let none = HashSet::new();
        let base = Base {
            shape,
            tensors,
            was_tied: shape.tied,
            changed: &none,
        };
        let opened = open::open(at, base, called)?;
        let layers = shape.layers as usize;
        let mut factors: Vec<Option<Pair>> = Vec::new();
        factors.resize_with(layers * Projection::ALL.len(), || None);
        let mut changes: Vec<(String, Change)> = opened.changes.into_iter().collect();
        changes.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        let matrices = changes.len();
        for (tensor, change) in changes {
            let ((layer, projection), pair) = pair_of(&tensor, &change).map_err(|what| {
                let message = format!(
                    "{tensor}: {what} is not served unmerged: q, k, v, o, gate, up and down of a plain \
                     LoRA are; merge it at the start (--adapter {name}=FOLDER:merge), or into a folder \
                     (plimsoll-sidecar merge)",
                    name = at.name
                );
                refused(&at.name, "", message)
            })?;
            // The base has the tensor, so it has the layer.
            factors[layer as usize * Projection::ALL.len() + projection as usize] = Some(pair);
        }
        let ranks = factors.iter().flatten().map(Pair::rank);
        let rank = ranks.max().unwrap_or_default();
        Ok(Dynamic {
            at: at.clone(),
            digest: opened.digest,
            rank: u32::try_from(rank).unwrap_or(u32::MAX),
            matrices,
            told: opened.told,
            factors,
        })
    }

    /// Of each matrix, in the order of a slot; 0 where it is not changed.
    pub(crate) fn ranks(&self) -> Vec<u32> {
        let rank = |pair: &Option<Pair>| pair.as_ref().map_or(0, Pair::rank);
        let ranks = self.factors.iter().map(rank);
        ranks
            .map(|rank| u32::try_from(rank).unwrap_or(u32::MAX))
            .collect()
    }

    /// The factors of a matrix, if it is changed.
    pub(crate) fn pair(&self, layer: u32, projection: Projection) -> Option<&Pair> {
        let at = layer as usize * Projection::ALL.len() + projection as usize;
        self.factors.get(at)?.as_ref()
    }
}

impl Pair {
    pub(crate) fn rank(&self) -> usize {
        self.a.info.rows_cols().0
    }

    /// Of both factors.
    pub(super) fn numbers(&self) -> u64 {
        let of = |factor: &Factor| {
            let (rows, cols) = factor.info.rows_cols();
            rows as u64 * cols as u64
        };
        of(&self.a) + of(&self.b)
    }

    pub(super) fn scale(&self) -> f64 {
        self.scale
    }

    /// Some rows of B as they are, all of the rank in each.
    ///
    /// # Errors
    /// Where the file fails.
    pub(super) fn b_rows(&self, outputs: Range<usize>) -> Result<Vec<f32>, ModelError> {
        self.b.block(outputs, 0..self.rank())
    }

    /// Rows and columns of A, row after row.
    ///
    /// # Errors
    /// Where the file fails.
    pub(crate) fn a(&self, rows: Range<usize>, cols: Range<usize>) -> Result<Vec<f32>, ModelError> {
        self.a.block(rows, cols)
    }

    /// Some outputs of B, rank after rank, times the scale: rounded once.
    ///
    /// # Errors
    /// Where the file fails.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "rounded to f32, as is stated"
    )]
    pub(crate) fn b(&self, outputs: Range<usize>) -> Result<Vec<f32>, ModelError> {
        let mut b = self.b.transposed(0..self.rank(), outputs)?;
        for number in &mut b {
            *number = (f64::from(*number) * self.scale) as f32;
        }
        Ok(b)
    }
}

/// Both factors of a change that can be computed beside the base, and of which matrix they are.
///
/// # Errors
/// What it is instead.
pub(super) fn pair_of(
    tensor: &str,
    change: &Change,
) -> Result<((u32, Projection), Pair), &'static str> {
    match (place(tensor), change) {
        (
            Some(place),
            Change::LowRank {
                a,
                b,
                scale,
                magnitude: None,
            },
        ) => {
            let (a, b, scale) = (a.clone(), b.clone(), *scale);
            Ok((place, Pair { a, b, scale }))
        }
        (_, Change::LowRank { magnitude, .. }) => Err(match magnitude {
            Some(_) => "use_dora",
            None => "a matrix outside of the layers",
        }),
        (_, Change::Embedding { .. }) => Err("an adapter of the embedding"),
        (_, Change::Bias { .. }) => Err("lora_bias"),
        (_, Change::Replaced(_)) => Err("modules_to_save"),
        (_, Change::Rows { .. }) => Err("trainable_token_indices"),
    }
}

/// The layer and matrix that a tensor is.
fn place(tensor: &str) -> Option<(u32, Projection)> {
    let rest = tensor
        .strip_prefix("model.layers.")?
        .strip_suffix(".weight")?;
    let (layer, module) = rest.split_once('.')?;
    let (projection, _) = MODULES.iter().find(|(_, name)| *name == module)?;
    Some((layer.parse().ok()?, *projection))
}
