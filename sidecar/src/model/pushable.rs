//! What may be sent to a model that is loaded: its own tensors, by name and shape, in any float type.

use std::collections::{BTreeMap, HashMap};

use plimsoll_planner::{BlockFormat, Dtype, Kept, ModelBlocks};

use super::blocks::{orders, place_of};
use super::replacement::not_beside;
use super::{Model, ModelError};
use crate::model_error::shorten;
use crate::weights::encoding::Encoding;
use crate::weights::{TensorInfo, TensorSource, needed};

/// Float types of safetensors that are read.
const TYPES: [&str; 3] = ["F32", "F16", "BF16"];

/// The tensors of a model.
#[derive(Debug)]
pub struct Pushable {
    shapes: HashMap<String, Vec<usize>>,
    needed: Vec<String>,
    /// Places in blocks of the file, and by tensor: no float goes there.
    of_file: ModelBlocks,
    in_blocks: BTreeMap<String, BlockFormat>,
    /// Places in blocks, those included that the file has so.
    rounded: ModelBlocks,
    dtype: Dtype,
    /// That would be lost.
    adapter: Option<String>,
}

impl Pushable {
    /// `kept`: how the engine keeps matrices.
    pub fn of(model: &Model, kept: Kept<'_>) -> Pushable {
        let names = model.tensors.names().into_iter();
        let known = names.filter_map(|name| model.tensors.info(name));
        let known = known.map(|info| (info.name.clone(), info.shape.clone()));
        // What the engine reads has one shape, whatever the file.
        let needed = needed(&model.shape);
        let of_file = kept.of_file(model.shape.layers);
        let place = |(name, _): &(String, _)| Some((name.clone(), place_of(&of_file, name)?));
        Pushable {
            in_blocks: needed.iter().filter_map(place).collect(),
            of_file,
            shapes: known.chain(needed.iter().cloned()).collect(),
            needed: needed.into_iter().map(|(name, _)| name).collect(),
            rounded: kept.all(model.shape.layers),
            dtype: kept.dtype,
            adapter: model.adapters.first().map(|of| of.at.name.clone()),
        }
    }

    /// How a tensor is kept: in the engine's float type, or in blocks that floats are rounded to.
    pub fn kept(&self, name: &str) -> Encoding {
        match place_of(&self.rounded, name) {
            Some(format) => Encoding::Blocks(format),
            None => Encoding::of(self.dtype),
        }
    }

    /// Those without which an update is not whole.
    pub fn needed(&self) -> &[String] {
        &self.needed
    }

    /// A place in blocks takes no others, and no floats: an adapter may not change its tensor only now.
    ///
    /// # Errors
    /// [`ModelError`] with the first tensor that files have otherwise than its place.
    pub fn check_places(&self, files: &dyn TensorSource) -> Result<(), ModelError> {
        let mut places = self.in_blocks.iter();
        match places.find(|(name, format)| files.blocks(name) != Some(**format)) {
            None => self.check_orders(files),
            Some((name, format)) => {
                let why = match self.adapter {
                    Some(_) => {
                        "the adapters change it now, which they did not when the engine started"
                    }
                    None => "these files have it in others, or in what no blocks hold",
                };
                let message = format!(
                    "tensor `{name}`: is kept in blocks of {format}, and {why}: start the engine again"
                );
                Err(ModelError::weights("weights", message))
            }
        }
    }

    /// Lists are weights as others and may change: who has one, and who shares one, may not.
    fn check_orders(&self, files: &dyn TensorSource) -> Result<(), ModelError> {
        let mut layers = (0..).zip(&self.of_file.layers);
        match layers.find(|(at, of)| orders(*at, of, files) != of.orders) {
            None => Ok(()),
            Some((layer, _)) => {
                let message = format!(
                    "layer {layer}: groups of columns (g_idx) are out of order in other matrices, or others \
                     share an order, than when the engine started: start it again"
                );
                Err(ModelError::weights("weights", message))
            }
        }
    }

    /// # Errors
    /// [`ModelError`] with the name, and what of the tensor is another than the model's.
    pub fn check(&self, tensor: &TensorInfo) -> Result<(), ModelError> {
        if let Some(adapter) = &self.adapter {
            return Err(not_beside(adapter));
        }
        let TensorInfo {
            name,
            shape,
            dtype,
            bytes: _,
        } = tensor;
        let refuse = |why: String| {
            let message = format!("tensor `{}`: {why}", shorten(name));
            Err(ModelError::weights("the body", message))
        };
        match self.shapes.get(name) {
            None if name == "lm_head.weight" => refuse(
                "the loaded model has none: its head is its embedding (tie_word_embeddings)".into(),
            ),
            None => refuse("the loaded model has none of that name".into()),
            Some(known) if known != shape => {
                refuse(format!("is {shape:?}, the loaded model's is {known:?}"))
            }
            Some(_) if !TYPES.contains(&dtype.as_str()) => {
                let dtype = shorten(dtype);
                refuse(format!("is {dtype}; taken are {}", TYPES.join(", ")))
            }
            Some(_) => match self.in_blocks.get(name) {
                None => Ok(()),
                Some(format) => refuse(format!(
                    "is kept in the blocks of the file ({format}), which no {dtype} can replace; start \
                     the engine with all weights expanded (--quantization none, or \
                     spec.model.quantization.mode: None)"
                )),
            },
        }
    }
}
