//! `merge`: a model folder with adapters in its weights, as transformers or any engine loads it.
//!
//! Everything of the base but its weights is copied as it stands: tokenizer, template, generation
//! config. The folder is written under another name beside its place, synced, opened again as `serve`
//! would open it, and only then gets its name: nobody ever sees a part of it.

mod figures;
mod folder;
mod shards;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use plimsoll_crds::v1alpha1::facts::ModelFormat;

use crate::args::MergeArgs;
use crate::model::{Model, ModelError, ModelFolder};
pub use figures::Figures;
use folder::Staging;

/// Why there is no merged folder.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("--model {}: {message}", .path.display())]
    Base { path: PathBuf, message: String },
    #[error("--out {}: {message}", .path.display())]
    Out { path: PathBuf, message: String },
    #[error("{}: {source}", .path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    /// An adapter that is lost in the type of the weights.
    #[error(
        "the adapters change none of {numbers} numbers that they name: in the type of the base's \
         file they are too small to be seen"
    )]
    Nothing { numbers: u64 },
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// Of weights.
    pub files: usize,
    /// Bytes of tensors.
    pub bytes: u64,
    /// The head has a tensor of its own, which it had not.
    pub untied: bool,
    pub figures: Figures,
    /// What is odd and hinders nothing.
    pub told: Vec<String>,
}

/// Writes the folder that `args` asks for.
///
/// # Errors
/// [`MergeError`]; then there is no folder, nor a part of one.
pub fn run(args: &MergeArgs) -> Result<Written, MergeError> {
    let base = ModelFolder::open(&args.model)?;
    if base.facts.format != ModelFormat::HuggingFace {
        return Err(MergeError::Base {
            path: args.model.clone(),
            message: "is GGUF; a Hugging Face folder is written from a Hugging Face folder (serve \
                      takes --adapter with GGUF, too)"
                .to_owned(),
        });
    }
    let model = ModelFolder::open_with(&args.model, &args.adapter)?;
    let untied = base.shape.tied && !model.shape.tied;
    let staging = Staging::beside(&args.out)?;
    let left_out = folder::copy(&args.model, &staging, untied)?;
    let shards = shards::Shards::of(&model, args.shard_size);
    let figures = shards.write(&base, &model, &staging)?;
    if figures.changed == 0 {
        return Err(MergeError::Nothing {
            numbers: figures.numbers,
        });
    }
    check(staging.path(), &model)?;
    staging.publish()?;
    Ok(Written {
        files: shards.files(),
        bytes: shards.bytes(),
        untied,
        figures,
        told: model.told.into_iter().chain(left_out).collect(),
    })
}

/// What was written is the model that was meant.
fn check(path: &Path, meant: &Model) -> Result<(), MergeError> {
    let written = ModelFolder::open(path)?;
    if written.shape == meant.shape && written.params == meant.params {
        return Ok(());
    }
    Err(MergeError::Out {
        path: path.to_owned(),
        message: format!("reads as {:?}, meant was {:?}", written.shape, meant.shape),
    })
}
