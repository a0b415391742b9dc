//! Other weights for a model that is loaded: the same tensors with other numbers.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll_planner::ModelShape;

use super::config::{self, CONFIG, CONFIG_BYTES_MAX};
use super::{
    AdapterPath, MergedAdapter, Model, ModelError, digest_with, gguf_at, open_gguf, tensors_of,
};
use crate::adapters::{self, Gate, Together};
use crate::digest::Digest;
use crate::model_error::shorten;
use crate::weights::TensorSource;
use crate::weights::file::{display_name, read_small};

/// Tensors that fit where a loaded model's are.
#[derive(Debug)]
pub struct Replacement {
    /// Where they lie.
    pub path: PathBuf,
    pub tensors: Box<dyn TensorSource>,
    /// Those that `tensors` have in them, as their files are now.
    pub adapters: Vec<MergedAdapter>,
    /// What is read of `tensors` passes it.
    pub gate: Arc<Gate>,
    /// As [`Model`]'s, of these files.
    pub digest: String,
}

impl Replacement {
    /// Opens a folder with `config.json` and safetensors (however sharded), or a GGUF file, and checks
    /// that shape, numbers, and every tensor's name, shape and type are those of `loaded`. Tokenizer
    /// and templates are not looked at. No tensor data is touched, but the scales and
    /// groups of packed weights, and that of adapters: those of `loaded` are merged into its own files
    /// once more, and into no others.
    ///
    /// # Errors
    /// [`ModelError`] with the file, and the first field or tensor that is not the same.
    pub fn open(path: &Path, loaded: &Model) -> Result<Replacement, ModelError> {
        let (file, shape, params, tensors, digest) = match gguf_at(path)? {
            Some(file) => {
                let model = open_gguf(&file)?;
                (
                    display_name(&file),
                    model.shape,
                    model.params,
                    model.tensors,
                    model.digest,
                )
            }
            None => {
                let bytes = read_small(&path.join(CONFIG), CONFIG_BYTES_MAX)?;
                let config = config::parse(&bytes)?;
                let mut digest = Digest::new();
                digest.update(&bytes);
                let mut told = Vec::new();
                let tensors = tensors_of(path, &config, &mut digest, &mut told)?;
                told.iter().for_each(|line| tracing::info!("{line}"));
                let file = CONFIG.to_owned();
                (file, config.shape, config.params, tensors, digest.finish())
            }
        };
        let asked: Vec<AdapterPath> = loaded.adapters.iter().map(|of| of.at.clone()).collect();
        if let [first, ..] = asked.as_slice()
            && path != loaded.path
        {
            return Err(not_beside(&first.name));
        }
        let Together {
            shape,
            tensors,
            adapters,
            gate,
            ..
        } = adapters::merge(&asked, shape, tensors, &display_name(path))?;
        // Types are compared tensor by tensor.
        let blocks = loaded.shape.blocks.clone();
        same_fields(&file, &loaded.shape, &ModelShape { blocks, ..shape })?;
        same_fields(&file, &loaded.params, &params)?;
        same_tensors(&*loaded.tensors, &*tensors)?;
        Ok(Replacement {
            path: path.to_owned(),
            tensors,
            gate,
            digest: match adapters.as_slice() {
                [] => digest,
                adapters => digest_with(&digest, adapters),
            },
            adapters,
        })
    }
}

/// Weights that come without the adapter that is merged into those that are loaded.
pub(super) fn not_beside(adapter: &str) -> ModelError {
    let message = "is merged into what is loaded, and other weights would be served without it: merge \
                   it into them (plimsoll-sidecar merge), and start on the result without --adapter";
    ModelError::InvalidAdapter {
        adapter: adapter.to_owned(),
        message: message.to_owned(),
    }
}

/// The first line in which they differ names the field.
fn same_fields<T: Debug + PartialEq>(file: &str, loaded: &T, other: &T) -> Result<(), ModelError> {
    if loaded == other {
        return Ok(());
    }
    let (loaded, other) = (format!("{loaded:#?}"), format!("{other:#?}"));
    let differing = loaded.lines().zip(other.lines()).find(|(a, b)| a != b);
    let (loaded, other) = differing.unwrap_or(("another", "one"));
    let trim = |line: &str| line.trim().trim_end_matches(',').to_owned();
    let message = format!(
        "has {}, the loaded model has {}: only weights can be replaced while the engine runs",
        trim(other),
        trim(loaded)
    );
    Err(ModelError::config(file, message))
}

fn same_tensors(loaded: &dyn TensorSource, other: &dyn TensorSource) -> Result<(), ModelError> {
    let refuse = |name: &str, why: String| {
        let message = format!("tensor `{}`: {why}", shorten(name));
        Err(ModelError::weights("weights", message))
    };
    for name in loaded.names() {
        let (Some(was), Some(is)) = (loaded.info(name), other.info(name)) else {
            return refuse(name, "is missing; the loaded model has it".to_owned());
        };
        if was.shape != is.shape {
            let why = format!("is {:?}, the loaded model's is {:?}", is.shape, was.shape);
            return refuse(name, why);
        }
        if was.dtype != is.dtype {
            let why = format!("is {}, the loaded model's is {}", is.dtype, was.dtype);
            return refuse(name, why);
        }
    }
    match other
        .names()
        .into_iter()
        .find(|name| loaded.info(name).is_none())
    {
        Some(name) => refuse(name, "the loaded model has none of that name".to_owned()),
        None => Ok(()),
    }
}
