//! `merge`: a model folder with adapters in its weights, as transformers or any engine loads it.
//!
//! Everything of the base but its weights is copied as it stands: tokenizer, template, generation
//! config. The folder is written under another name beside its place, synced, opened again as `serve`
//! would open it, and only then gets its name: nobody ever sees a part of it.

mod ended;
mod folder;
mod shards;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use plimsoll_crds::v1alpha1::facts::ModelFormat;

use crate::adapters::{Validated, Validation, Verdict};
use crate::args::MergeArgs;
use crate::model::{Model, ModelError, ModelFolder};
use crate::weights::packed;
use ended::Place;
use folder::{Staging, parent};

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
    #[error("what ends a merge cannot be listened for: {source}")]
    Signals { source: std::io::Error },
    /// What was written is not what an adapter means, or hardly anything of it is left.
    #[error("not written: {0}")]
    Refused(String),
}

/// What helps where a narrow type loses an adapter.
const REMEDIES: &str = "merge it into a base whose file has a wider type, give it a larger scale, or \
                        write it all the same (--adapter-validation report)";

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// Of weights.
    pub files: usize,
    /// Bytes of tensors.
    pub bytes: u64,
    /// The head has a tensor of its own, which it had not.
    pub untied: bool,
    /// In their order; none where nothing was measured.
    pub adapters: Vec<Validated>,
    /// What is odd and hinders nothing.
    pub told: Vec<String>,
}

/// Writes the folder that `args` asks for. SIGTERM, SIGINT and SIGHUP end the process, and leave no part
/// of it either.
///
/// # Errors
/// [`MergeError`]; then there is no folder, nor a part of one.
pub fn run(args: &MergeArgs) -> Result<Written, MergeError> {
    let place = Place::default();
    ended::watch(&place).map_err(|source| MergeError::Signals { source })?;
    write(args, &place)
}

fn write(args: &MergeArgs, place: &Place) -> Result<Written, MergeError> {
    outside(&args.model, &args.out)?;
    for adapter in &args.adapter {
        outside(&adapter.path, &args.out)?;
    }
    let base = ModelFolder::open(&args.model)?;
    if base.facts.format != ModelFormat::HuggingFace {
        return Err(MergeError::Base {
            path: args.model.clone(),
            message: "is GGUF; a Hugging Face folder is written from a Hugging Face folder (serve \
                      takes --adapter with GGUF, too)"
                .to_owned(),
        });
    }
    if let Some(packed) = packed::first(&*base.tensors) {
        return Err(MergeError::Base {
            path: args.model.clone(),
            message: format!(
                "is packed ({packed}), and a folder of floats is written from a folder of floats: take \
                 the model that it was made of (serve takes --adapter with packed ones, too)"
            ),
        });
    }
    let model = ModelFolder::open_with(&args.model, &args.adapter)?;
    let untied = base.shape.tied && !model.shape.tied;
    let staging = Staging::beside(&args.out, place)?;
    let left_out = folder::copy(&args.model, &staging, untied)?;
    let shards = shards::Shards::of(&model, args.shard_size);
    let validation = Validation::from(args.adapter_validation);
    if validation != Validation::Off {
        model.gate.begin(false);
    }
    shards.write(&model, &staging)?;
    let mut told = model.told.clone();
    let verdict = (validation != Validation::Off).then(|| model.gate.verdict(REMEDIES));
    let Verdict {
        adapters, wrong, ..
    } = verdict.unwrap_or_default();
    match wrong {
        Some(why) if validation == Validation::Enforce => return Err(MergeError::Refused(why)),
        wrong => told.extend(wrong),
    }
    check(staging.path(), &model)?;
    staging.publish()?;
    Ok(Written {
        files: shards.files(),
        bytes: shards.bytes(),
        untied,
        adapters,
        told: told.into_iter().chain(left_out).collect(),
    })
}

/// What is read stays as it is: a folder is not written into it, whatever links lead there.
fn outside(source: &Path, out: &Path) -> Result<(), MergeError> {
    let Ok(source_is) = source.canonicalize() else {
        // Whoever opens it says why.
        return Ok(());
    };
    let beside = parent(out).canonicalize();
    let places = out.canonicalize().into_iter().chain(beside);
    match places
        .into_iter()
        .any(|place| place.starts_with(&source_is))
    {
        true => Err(MergeError::Out {
            path: out.to_owned(),
            message: format!(
                "lies in {}, which is read; name a folder outside of it",
                source.display()
            ),
        }),
        false => Ok(()),
    }
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
