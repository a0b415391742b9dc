//! A model on disk: where its parts are and what they say, before any weight is read.
//!
//! `ModelFolder::open` reads the config (or GGUF metadata) and every tensor header, checks them
//! against each other and returns a [`Model`]. Of tensor data only the scales and groups of
//! packed weights are read.

pub mod blocks;
mod bounds;
pub(crate) mod config;
pub(crate) mod defaults;
mod facts;
mod folder;
mod generation;
mod gguf_config;
mod gguf_keys;
mod gguf_rope;
pub(crate) mod known;
mod object;
pub mod params;
pub mod pushable;
mod quantization_config;
pub mod replacement;
mod rope_config;
pub mod sampling;
mod special;
mod templates;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll_crds::v1alpha1::facts::{AdapterFacts, ModelFacts, ModelFormat};
use plimsoll_planner::{Dtype, ModelShape};

pub use crate::adapters::{AdapterPath, MergedAdapter};
pub use crate::model_error::ModelError;
pub use params::ModelParams;
pub use pushable::Pushable;
pub use replacement::Replacement;
pub use sampling::{ModelSampling, SamplingDefaults};
pub use templates::ChatTemplates;

use crate::adapters::{self, Beside, Dynamic, Gate, Together};
use crate::digest::Digest;
use crate::tokenizer::{GgufTokenizer, SpecialTokens, Tokenizer, TokenizerSource, token_id};
use crate::weights::file::{display_name, is_there};
use crate::weights::folder::SafetensorsFolder;
use crate::weights::gguf::GgufFile;
use crate::weights::gguf::split::PartName;
use crate::weights::packed::PackedFolder;
use crate::weights::{TensorSource, validate};
use config::{CONFIG, Config};

/// An opened model. Cheap to keep: headers only, and the files held open.
#[derive(Debug)]
pub struct Model {
    /// Where it was opened.
    pub path: PathBuf,
    pub facts: ModelFacts,
    pub shape: ModelShape,
    pub params: ModelParams,
    /// Type of most weights in the file, as facts show it: `BF16`, `Q4_1`.
    pub file_dtype: String,
    /// What `dtype: Auto` means: the file's own float type, BFloat16 for quantised files.
    pub default_dtype: Dtype,
    pub tensors: Box<dyn TensorSource>,
    pub tokenizer_source: TokenizerSource,
    pub chat_templates: Option<ChatTemplates>,
    /// Tokens that end a sequence, ascending.
    pub eos_ids: Vec<u32>,
    pub bos_id: Option<u32>,
    /// The texts of special tokens, as chat templates name them.
    pub special_tokens: SpecialTokens,
    /// What the publisher recommends for requests that leave sampling open.
    pub sampling: ModelSampling,
    /// Where files of the model disagree and one of them counts, for whoever runs it.
    pub told: Vec<String>,
    /// Those that `tensors` have in them.
    pub adapters: Vec<MergedAdapter>,
    /// What is read of `tensors` passes it.
    pub gate: Arc<Gate>,
    /// The same adapters unmerged, or why their answers cannot be computed so.
    pub beside: Result<Arc<Beside>, String>,
    /// `sha256:<hex>` over config and tensor headers, and all of the adapters.
    pub digest: String,
}

impl Model {
    /// Builds the tokenizer and checks it against the vocabulary.
    ///
    /// # Errors
    /// [`ModelError::InvalidTokenizer`] where it is missing, malformed or larger than the
    /// model's vocabulary.
    pub fn tokenizer(&self) -> Result<Tokenizer, ModelError> {
        Tokenizer::load(&self.tokenizer_source, self.shape.vocab)
    }

    /// Opens an adapter that is kept beside the weights. It reads every number of it: not for threads that
    /// must not block.
    ///
    /// # Errors
    /// [`ModelError::InvalidAdapter`], with the adapter, the file and the field or tensor.
    pub fn open_adapter(&self, at: &AdapterPath) -> Result<Dynamic, ModelError> {
        let base = (&self.shape, &*self.tensors);
        Dynamic::open(at, base, &display_name(&self.path))
    }

    fn with(mut self, adapters: &[AdapterPath]) -> Result<Model, ModelError> {
        let called = display_name(&self.path);
        let Together {
            mut shape,
            tensors,
            adapters,
            told,
            gate,
            beside,
            ..
        } = adapters::merge(adapters, self.shape, self.tensors, &called)?;
        shape.blocks = blocks::of(&shape, &*tensors);
        self.told.extend(told);
        let digest = digest_with(&self.digest, &adapters);
        let told_of = |of: &MergedAdapter| AdapterFacts {
            name: of.at.name.clone(),
            digest: of.digest.clone(),
            tensors: u32::try_from(of.changes.len()).unwrap_or(u32::MAX),
        };
        let facts = ModelFacts {
            adapters: adapters.iter().map(told_of).collect(),
            ..facts::facts(&shape, &*tensors, self.facts.format, &digest)
        };
        Ok(Model {
            facts,
            shape,
            tensors,
            adapters,
            gate,
            beside: beside.map(Arc::new),
            digest,
            ..self
        })
    }
}

/// Of a model with its adapters, in their order.
fn digest_with(base: &str, adapters: &[MergedAdapter]) -> String {
    let mut digest = Digest::new();
    digest.update(base.as_bytes());
    for adapter in adapters {
        digest.update(adapter.digest.as_bytes());
    }
    digest.finish()
}

/// A path that holds a model.
#[derive(Debug)]
pub struct ModelFolder;

impl ModelFolder {
    /// Opens a Hugging Face folder, a GGUF file (the first of its parts, where it is split), or a folder
    /// with exactly one of these.
    ///
    /// # Errors
    /// [`ModelError`], with the file and the numbers.
    pub fn open(path: &Path) -> Result<Model, ModelError> {
        ModelFolder::open_with(path, &[])
    }

    /// As [`ModelFolder::open`], with adapters merged into what is read, in this order. All of an
    /// adapter's numbers are read once, to find what is none.
    ///
    /// # Errors
    /// As [`ModelFolder::open`]'s, and those of an adapter that does not fit.
    pub fn open_with(path: &Path, adapters: &[AdapterPath]) -> Result<Model, ModelError> {
        let mut model = match gguf_at(path)? {
            Some(file) => open_gguf(&file)?,
            None => open_folder(path)?,
        };
        path.clone_into(&mut model.path);
        match adapters {
            [] => Ok(model),
            adapters => model.with(adapters),
        }
    }
}

/// The GGUF file that a path means, if it does not mean a Hugging Face folder.
fn gguf_at(path: &Path) -> Result<Option<PathBuf>, ModelError> {
    let metadata = std::fs::metadata(path).map_err(|e| ModelError::io(path, e))?;
    if !metadata.is_dir() {
        return Ok(Some(path.to_owned()));
    }
    let is_folder = [SafetensorsFolder::SINGLE, SafetensorsFolder::INDEX]
        .iter()
        .any(|name| is_there(&path.join(name)));
    let files = gguf_files(path)?;
    if !is_folder && let Some(name) = PartName::of_all(&files)? {
        return name.found(1).map(Some);
    }
    match (is_folder, files.as_slice()) {
        (false, [file]) => Ok(Some(file.clone())),
        (false, [first, second, ..]) => Err(ModelError::NotFound {
            path: path.to_owned(),
            message: format!(
                "holds several .gguf files ({}, {}, …); put the file's name into the path",
                display_name(first),
                display_name(second)
            ),
        }),
        _ => Ok(None),
    }
}

fn gguf_files(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let entries = std::fs::read_dir(folder).map_err(|e| ModelError::io(folder, e))?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "gguf"))
        .collect();
    files.sort();
    Ok(files)
}

fn open_folder(path: &Path) -> Result<Model, ModelError> {
    let folder = folder::open(path)?;
    let mut digest = Digest::new();
    digest.update(&folder.config_bytes);
    let mut told = folder.told;
    let tensors = tensors_of(path, &folder.config, &mut digest, &mut told)?;
    let Config { shape, params, .. } = folder.config;
    let opened = Opened {
        file: CONFIG,
        format: ModelFormat::HuggingFace,
        shape,
        params,
        tensors,
        tokenizer_source: TokenizerSource::File {
            path: folder.tokenizer,
            declared: folder.special.declared,
        },
        chat_templates: folder.chat_templates,
        eos_ids: folder.eos_ids,
        bos_id: folder.bos_id,
        special_tokens: folder.special.names,
        sampling: folder.sampling,
        told,
        digest: digest.finish(),
    };
    opened.check()
}

/// The tensors of a folder with this config, packed or not. `digest` gets their headers, `told` what
/// whoever runs the model should know.
fn tensors_of(
    path: &Path,
    config: &Config,
    digest: &mut Digest,
    told: &mut Vec<String>,
) -> Result<Box<dyn TensorSource>, ModelError> {
    let files = SafetensorsFolder::open(path, &mut |header| digest.update(header))?;
    Ok(match &config.packed {
        None => Box::new(files),
        Some(scheme) => Box::new(PackedFolder::open(files, scheme, &config.shape, told)?),
    })
}

fn open_gguf(path: &Path) -> Result<Model, ModelError> {
    let mut digest = Digest::new();
    let GgufFile {
        mut metadata,
        mut tensors,
    } = GgufFile::open(path, &mut |header| digest.update(header))?;
    let (shape, params) = gguf_config::parse(&metadata, &tensors)?;
    // Files of this architecture interleave the halves of q and k, others do not.
    if shape.architecture == plimsoll_planner::Architecture::Llama {
        tensors.interleave_q_and_k(shape.head_dim as usize);
    }
    let tokenizer = GgufTokenizer::from_metadata(&mut metadata)?;
    let id = |name: &str| {
        token_id(
            &metadata,
            &format!("tokenizer.ggml.{name}_token_id"),
            shape.vocab as usize,
        )
    };
    let (bos_id, eos_id) = (id("bos")?, id("eos")?);
    let eos_ids = [eos_id, id("eot")?, id("eom")?].into_iter().flatten();
    let eos_ids = eos_ids.chain(tokenizer.ends()).collect();
    let sampling = gguf_config::sampling(&metadata, shape.vocab);
    let special_tokens = tokenizer.special_tokens(&metadata, bos_id, eos_id);
    let opened = Opened {
        file: &metadata.file,
        format: ModelFormat::Gguf,
        shape,
        params,
        tensors: Box::new(tensors),
        chat_templates: templates::of_gguf(&metadata)?,
        eos_ids,
        bos_id,
        sampling,
        told: Vec::new(),
        special_tokens,
        tokenizer_source: TokenizerSource::Gguf(Arc::new(tokenizer)),
        digest: digest.finish(),
    };
    opened.check()
}

/// What either format yields, before the parts are checked against each other.
struct Opened<'a> {
    /// That has the token ids, for messages.
    file: &'a str,
    format: ModelFormat,
    shape: ModelShape,
    params: ModelParams,
    tensors: Box<dyn TensorSource>,
    tokenizer_source: TokenizerSource,
    chat_templates: Option<ChatTemplates>,
    eos_ids: Vec<u32>,
    bos_id: Option<u32>,
    special_tokens: SpecialTokens,
    sampling: ModelSampling,
    told: Vec<String>,
    digest: String,
}

impl Opened<'_> {
    fn check(mut self) -> Result<Model, ModelError> {
        validate(&self.shape, &*self.tensors)?;
        self.shape.blocks = blocks::of(&self.shape, &*self.tensors);
        self.told
            .extend(blocks::expanded(&self.shape, &*self.tensors));
        let mut eos_ids = self.eos_ids;
        eos_ids.sort_unstable();
        eos_ids.dedup();
        let vocab = self.shape.vocab;
        if let Some(id) = eos_ids.iter().chain(&self.bos_id).find(|id| **id >= vocab) {
            let message =
                format!("bos or eos token id {id} is outside of the vocabulary of {vocab}");
            return Err(ModelError::config(self.file, message));
        }
        let facts = facts::facts(&self.shape, &*self.tensors, self.format, &self.digest);
        Ok(Model {
            path: PathBuf::new(),
            file_dtype: facts.file_dtype.clone(),
            default_dtype: facts::default_dtype(&facts.file_dtype),
            facts,
            shape: self.shape,
            params: self.params,
            tensors: self.tensors,
            tokenizer_source: self.tokenizer_source,
            chat_templates: self.chat_templates,
            eos_ids,
            bos_id: self.bos_id,
            special_tokens: self.special_tokens,
            sampling: self.sampling,
            told: self.told,
            adapters: Vec::new(),
            gate: Arc::default(),
            beside: Ok(Arc::default()),
            digest: self.digest,
        })
    }
}
