//! PEFT adapters, merged into a model's weights while these are read, or kept beside them (`dynamic`).
//!
//! A folder is checked whole against its base before any weight is read: `config` and `fields` decide
//! about every field, `open` about every tensor. What it changes stands behind the seam of
//! [`TensorSource`] (`merged`), so that ranks, wakes and reloads read merged numbers as they read any;
//! of the adapter only headers, magnitudes and biases are held, and the rest is read with the rows
//! that need it.

mod beside;
mod change;
mod config;
mod damaged;
mod dynamic;
mod effect;
mod embeddings;
mod factor;
mod fields;
mod figures;
mod gate;
mod held;
mod keys;
mod merged;
mod open;
mod patterns;
mod places;
mod product;
mod side;
mod sorted;
mod tied;
mod tokens;
mod turns;
#[cfg(test)]
pub(crate) mod spoils;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use plimsoll_crds::v1alpha1::adapters::AdapterScale;
use plimsoll_planner::ModelShape;

use crate::model_error::ModelError;
use crate::weights::TensorSource;
pub use beside::Beside;
pub(crate) use beside::Rows;
use change::Change;
pub use dynamic::Dynamic;
pub(crate) use dynamic::Pair;
pub use figures::Figures;
pub use gate::{Apart, Compared, Gate, LOST_MAX, Validated, Validation, Verdict};
use merged::Merged;
pub(crate) use merged::{EMBEDDING, HEAD};

/// The files of an adapter.
pub(crate) const CONFIG: &str = "adapter_config.json";
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";

/// Most adapters that one model is started with.
pub const ADAPTERS_MAX: usize = 8;

/// A folder that PEFT wrote, and what it is called here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterPath {
    pub name: String,
    pub path: PathBuf,
    /// What its own scale is multiplied by.
    pub scale: AdapterScale,
}

/// An adapter that is a part of a model's weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedAdapter {
    pub at: AdapterPath,
    /// `sha256:<hex>` over its config and all of its tensors.
    pub digest: String,
    /// Tensors of the base that it changes, by name.
    pub changes: Vec<String>,
    /// The largest of its matrices' ranks; 0 where it has none.
    pub rank: usize,
    /// It changes the table of tokens, and nothing else, be it whole or single rows: answers without
    /// tokens that it changes may stay the same.
    pub tokens_alone: bool,
}

/// What an adapter is laid over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base<'a> {
    /// As adapters before this one left it.
    pub(crate) shape: &'a ModelShape,
    pub(crate) tensors: &'a dyn TensorSource,
    /// The model's own shape is tied, whatever adapters made of it.
    pub(crate) was_tied: bool,
    /// Tensors that are no longer the base's.
    pub(crate) changed: &'a HashSet<String>,
}

/// A base with its adapters.
#[derive(Debug)]
pub(crate) struct Together {
    /// As the base's; untied where an adapter changes one side of a tied embedding alone.
    pub(crate) shape: ModelShape,
    pub(crate) tensors: Box<dyn TensorSource>,
    pub(crate) adapters: Vec<MergedAdapter>,
    /// What is odd about them and hinders nothing.
    pub(crate) told: Vec<String>,
    /// What is read of `tensors` passes it.
    pub(crate) gate: Arc<Gate>,
    /// The same adapters unmerged, or why their answers cannot be computed so.
    pub(crate) beside: Result<Beside, String>,
    /// The model's own shape is tied, whatever adapters made of it.
    was_tied: bool,
    /// Tensors that are no longer the base's.
    changed: HashSet<String>,
}

impl Together {
    fn base(&self) -> Base<'_> {
        Base {
            shape: &self.shape,
            tensors: &*self.tensors,
            was_tied: self.was_tied,
            changed: &self.changed,
        }
    }
}

/// Puts adapters before a base, in this order: what the first makes of a tensor is what the next one
/// finds. `base`: what the model's folder is called.
///
/// # Errors
/// [`ModelError::InvalidAdapter`], with the adapter, the file and the field or tensor.
pub(crate) fn merge(
    asked: &[AdapterPath],
    shape: ModelShape,
    tensors: Box<dyn TensorSource>,
    base: &str,
) -> Result<Together, ModelError> {
    if let Some(more) = asked.get(ADAPTERS_MAX) {
        let count = asked.len();
        let message = format!(
            "{count} adapters are given, {ADAPTERS_MAX} at most are merged: merge some into a folder \
             first (plimsoll-sidecar merge)"
        );
        return Err(refused(&more.name, "", message));
    }
    let mut together = Together {
        was_tied: shape.tied,
        shape,
        tensors,
        adapters: Vec::new(),
        told: Vec::new(),
        gate: Arc::default(),
        beside: Ok(Beside::default()),
        changed: HashSet::new(),
    };
    for (number, at) in asked.iter().enumerate() {
        let before = |other: &MergedAdapter| other.at.name == at.name;
        if together.adapters.iter().any(before) {
            return Err(refused(
                &at.name,
                "",
                "is given twice; give each its own name",
            ));
        }
        let opened = open::open(at, together.base(), base)?;
        together.told.extend(opened.told);
        together.told.extend(opened.told_merged);
        let mut names: Vec<String> = opened.changes.keys().cloned().collect();
        names.sort_unstable();
        together.changed.extend(names.iter().cloned());
        let ranks = opened.changes.values().map(Change::rank);
        let rank = ranks.max().unwrap_or_default();
        together.gate.expect(&at.name, rank, &names);
        if let Ok(beside) = &mut together.beside
            && let Err(why) = beside.add(&at.name, &opened.changes)
        {
            together.beside = Err(why);
        }
        let mut changes = opened.changes.iter();
        let tokens_alone = changes.all(|(tensor, change)| {
            let rows = matches!(change, Change::Rows { .. });
            rows || tensor == EMBEDDING || change.adds_nothing()
        });
        together.adapters.push(MergedAdapter {
            at: at.clone(),
            digest: opened.digest,
            changes: names,
            rank,
            tokens_alone,
        });
        together.shape.tied &= !opened.unties;
        together.tensors = Box::new(Merged::new(
            together.tensors,
            (number, &at.name),
            (opened.changes, opened.unties),
            &together.gate,
        ));
    }
    Ok(together)
}

/// A file of an adapter that cannot be read is the adapter's trouble, not the model's.
fn unread(adapter: &str, error: &ModelError) -> ModelError {
    error.of_adapter(adapter)
}

/// `file`: of the adapter's folder, where it is about one.
fn refused(adapter: &str, file: &str, message: impl Into<String>) -> ModelError {
    ModelError::InvalidAdapter {
        adapter: adapter.to_owned(),
        message: match file {
            "" => message.into(),
            file => format!("{file}: {}", message.into()),
        },
    }
}
