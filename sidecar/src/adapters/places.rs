//! Where the tensors of an adapter go in its base: each has its place, or is refused by name, and so
//! is a place that the config means and no tensor fills.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use plimsoll_planner::ModelShape;

use super::change::Change;
use super::config::AdapterConfig;
use super::factor::Factor;
use super::keys::Part;
use super::merged::{EMBEDDING, HEAD};
use super::sorted::Sorted;
use super::{Base, WEIGHTS, embeddings, refused, tied, tokens};
use crate::model_error::{ModelError, shorten};
use crate::weights::{TensorInfo, needed};

/// Names that a message has room for.
const SHOWN: usize = 3;

pub(super) struct Places<'a> {
    adapter: &'a str,
    config: &'a AdapterConfig,
    /// Besides the config's own.
    scale: f64,
    base: Base<'a>,
    /// Of every tensor that an adapter may change, with both sides of the embedding.
    dims: HashMap<String, Vec<usize>>,
    changes: HashMap<String, Change>,
    told: Vec<String>,
}

/// What [`Places::fill`] comes to.
pub(super) struct Placed {
    pub(super) changes: HashMap<String, Change>,
    /// The base's two sides of the embedding part.
    pub(super) unties: bool,
    pub(super) told: Vec<String>,
}

impl<'a> Places<'a> {
    pub(super) fn of(
        adapter: &'a str,
        (config, scale): (&'a AdapterConfig, f64),
        base: Base<'a>,
    ) -> Places<'a> {
        let untied = ModelShape {
            tied: false,
            ..base.shape.clone()
        };
        Places {
            adapter,
            config,
            scale,
            base,
            dims: needed(&untied).into_iter().collect(),
            changes: HashMap::new(),
            told: Vec::new(),
        }
    }

    /// What becomes of the base's tensors.
    pub(super) fn fill(mut self, factors: Vec<Factor>) -> Result<Placed, ModelError> {
        let sorted = Sorted::of(self.adapter, factors)?;
        self.check_targets(&sorted.parts)?;
        for (module, parts) in sorted.parts {
            self.module(&module, parts)?;
        }
        self.saved(sorted.whole)?;
        let tokens = tokens::change(self.adapter, &self.config.tokens, &self.dims, sorted.tokens)?;
        if let Some(rows) = tokens {
            if self.changes.contains_key(EMBEDDING) {
                return self.refuse("trains the embedding, and single tokens of it");
            }
            self.change(EMBEDDING.to_owned(), rows)?;
        }
        for (module, copy) in sorted.copies {
            self.copy(&module, &copy)?;
        }
        let unties = tied::unties(self.adapter, self.config.ties, self.base, &mut self.changes)?;
        Ok(Placed {
            changes: self.changes,
            unties,
            told: self.told,
        })
    }

    fn refuse<T>(&self, message: impl Into<String>) -> Result<T, ModelError> {
        Err(refused(self.adapter, WEIGHTS, message))
    }

    /// The modules of the file are those that the config means.
    fn check_targets(
        &self,
        parts: &BTreeMap<String, BTreeMap<Part, Factor>>,
    ) -> Result<(), ModelError> {
        let is_module = |module: &str| self.weight_dims(module).is_some();
        let nowhere: Vec<&str> = parts
            .keys()
            .map(String::as_str)
            .filter(|m| !is_module(m))
            .collect();
        if !nowhere.is_empty() {
            let nowhere = several(&nowhere);
            return self.refuse(format!(
                "has matrices for {nowhere}, which the base does not have"
            ));
        }
        let modules = self
            .dims
            .keys()
            .filter_map(|name| name.strip_suffix(".weight"));
        let mut meant: Vec<&str> = modules
            .filter(|module| is_module(module) && self.config.targets.mean(module))
            .collect();
        meant.sort_unstable();
        let is_meant = |module: &&str| meant.binary_search(module).is_ok();
        let more: Vec<&str> = parts
            .keys()
            .map(String::as_str)
            .filter(|m| !is_meant(m))
            .collect();
        if !more.is_empty() {
            let more = several(&more);
            return self.refuse(format!(
                "has matrices for {more}, which the config does not target: PEFT would leave them out"
            ));
        }
        meant.retain(|module| !parts.contains_key(*module));
        match meant.is_empty() {
            true => Ok(()),
            false => {
                let meant = several(&meant);
                self.refuse(format!(
                    "has no matrices for {meant}, which the config targets"
                ))
            }
        }
    }

    /// `[out, in]` of a module with a matrix.
    fn weight_dims(&self, module: &str) -> Option<[usize; 2]> {
        let dims = self.dims.get(&format!("{module}.weight"))?;
        dims.as_slice().try_into().ok()
    }

    fn module(
        &mut self,
        module: &str,
        mut parts: BTreeMap<Part, Factor>,
    ) -> Result<(), ModelError> {
        let Some([out, inner]) = self.weight_dims(module) else {
            return self.refuse(format!("{module} is not in the base"));
        };
        let weight = format!("{module}.weight");
        let rank = usize::try_from(self.config.rank_of(module)).unwrap_or(usize::MAX);
        let scale = self.scale * self.config.scale_of(module);
        if !scale.is_finite() {
            return self.refuse(format!("{module}: its scale is {scale}"));
        }
        let is_table = weight == EMBEDDING;
        let (a, b) = match is_table {
            true => (Part::EmbeddingA, Part::EmbeddingB),
            false => (Part::A, Part::B),
        };
        let dims = match is_table {
            true => [vec![rank, out], vec![inner, rank]],
            false => [vec![rank, inner], vec![out, rank]],
        };
        let [a, b] = [(a, &dims[0]), (b, &dims[1])]
            .map(|(part, dims)| self.part(&mut parts, module, part, dims));
        let (a, b) = (a?, b?);
        if is_table && (self.config.dora || self.config.lora_bias) {
            let what = if self.config.dora {
                "use_dora"
            } else {
                "lora_bias"
            };
            return self.refuse(format!("{module}: {what} of an embedding is not merged"));
        }
        let magnitude = match self.config.dora {
            true => Some(
                self.part(&mut parts, module, Part::Magnitude, &[out])?
                    .all()?,
            ),
            false => None,
        };
        if self.config.lora_bias {
            let bias = self
                .part(&mut parts, module, Part::BiasOfB, &[out])?
                .all()?;
            let tensor = format!("{module}.bias");
            if !self.dims.contains_key(&tensor) {
                return self.refuse(format!("{module}: lora_bias, and the base has no {tensor}"));
            }
            self.change(tensor, Change::Bias { bias, scale })?;
        }
        if let Some((part, _)) = parts.first_key_value() {
            let part = part.name();
            return self.refuse(format!(
                "{module}.{part} is there, and the config asks for none"
            ));
        }
        let change = match is_table {
            true => Change::Embedding { a, b, scale },
            false => Change::LowRank {
                a,
                b,
                scale,
                magnitude,
            },
        };
        self.change(weight, change)
    }

    fn part(
        &self,
        parts: &mut BTreeMap<Part, Factor>,
        module: &str,
        part: Part,
        dims: &[usize],
    ) -> Result<Factor, ModelError> {
        let name = format!("{module}.{}", part.name());
        let Some(factor) = parts.remove(&part) else {
            return self.refuse(format!("{name} is missing"));
        };
        let shape = &factor.info.shape;
        // A magnitude is a vector, however many dimensions of one it has.
        let same = match dims {
            [one] => {
                factor.info.rows_cols().0.max(factor.info.rows_cols().1) == *one
                    && shape.iter().product::<usize>() == *one
            }
            _ => shape == dims,
        };
        match same {
            true => Ok(factor),
            false => self.refuse(format!(
                "{name} is {shape:?}; the config's rank and the base ask for {dims:?}: it was trained \
                 on another base, or the config is another adapter's"
            )),
        }
    }

    fn change(&mut self, tensor: String, change: Change) -> Result<(), ModelError> {
        // What comes later must not undo what came before, nor measure it.
        let whole = match &change {
            Change::Replaced(_) | Change::Rows { .. } => true,
            Change::LowRank { magnitude, .. } => magnitude.is_some(),
            Change::Embedding { .. } | Change::Bias { .. } => false,
        };
        // A tied head is the embedding, with what was done to that.
        let of = match self.base.shape.tied && tensor == HEAD {
            true => EMBEDDING,
            false => &tensor,
        };
        if whole && self.base.changed.contains(of) {
            return self.refuse(format!(
                "takes the place of {tensor}, which an adapter before it changes; put it first"
            ));
        }
        self.changes.insert(tensor, change);
        Ok(())
    }

    /// `modules_to_save`: exactly these have whole tensors.
    fn saved(&mut self, whole: BTreeMap<String, Factor>) -> Result<(), ModelError> {
        let names: Vec<String> = self.dims.keys().cloned().collect();
        for name in &self.config.saved {
            if !names.iter().any(|tensor| is_saved(name, tensor)) {
                let name = shorten(name);
                return self.refuse(format!(
                    "modules_to_save names {name}, which the base does not have"
                ));
            }
        }
        let is_meant = |tensor: &str| {
            let mut saved = self.config.saved.iter();
            saved.any(|name| is_saved(name, tensor))
        };
        let missing: Vec<&str> = names.iter().map(String::as_str).collect();
        let missing = missing
            .into_iter()
            .filter(|name| is_meant(name) && !whole.contains_key(*name));
        let mut missing: Vec<&str> = missing.collect();
        missing.sort_unstable();
        if !missing.is_empty() {
            let missing = several(&missing);
            return self.refuse(format!("has no {missing}, which modules_to_save names"));
        }
        for (tensor, factor) in whole {
            let twin = self.config.ties && self.base.shape.tied && tensor == HEAD;
            if !self.dims.contains_key(&tensor) {
                let tensor = shorten(&tensor);
                return self.refuse(format!("has {tensor}, which the base does not have"));
            }
            if !is_meant(&tensor) && !twin {
                match tensor.strip_suffix(".weight") {
                    Some(module) if [EMBEDDING, HEAD].contains(&tensor.as_str()) => {
                        self.copy(module, &factor)?;
                    }
                    Some(_) | None => {
                        return self
                            .refuse(format!("has {tensor}, which modules_to_save does not name"));
                    }
                }
                continue;
            }
            self.check_dims(&tensor, &factor)?;
            self.change(tensor, Change::Replaced(factor))?;
        }
        Ok(())
    }

    fn check_dims(&self, tensor: &str, factor: &Factor) -> Result<(), ModelError> {
        let (is, dims) = (&factor.info.shape, &self.dims[tensor]);
        let hint = match [EMBEDDING, HEAD].contains(&tensor) {
            true => "; a vocabulary that grew in training is not merged, resize the base first",
            false => "",
        };
        match is == dims {
            true => Ok(()),
            false => self.refuse(format!("{tensor} is {is:?}, the base's is {dims:?}{hint}")),
        }
    }

    /// PEFT saves tables of tokens along with their adapters: they must be this base's.
    fn copy(&mut self, module: &str, copy: &Factor) -> Result<(), ModelError> {
        let tensor = format!("{module}.weight");
        if ![EMBEDDING, HEAD].contains(&tensor.as_str()) {
            let name = shorten(&copy.info.name);
            return self.refuse(format!("`{name}`: only embeddings are saved along"));
        }
        self.check_dims(&tensor, copy)?;
        let of = match self.base.shape.tied {
            true => EMBEDDING,
            false => &tensor,
        };
        if self.base.changed.contains(of) {
            return self.refuse(format!(
                "carries a copy of {tensor}, which an adapter before it changes; put it first"
            ));
        }
        let info = self.base.tensors.info(of).filter(|info| !is_float(info));
        if let Some(info) = info {
            let (adapter, dtype) = (self.adapter, &info.dtype);
            self.told.push(format!(
                "adapter `{adapter}` carries a copy of {tensor}, which is {dtype} here and was not \
                 compared with it"
            ));
            return Ok(());
        }
        match embeddings::difference(self.base.tensors, of, copy)? {
            None => Ok(()),
            Some(row) => self.refuse(format!(
                "carries a {tensor} that differs from the base's in row {row}: it was trained on \
                 another base, or trained it without modules_to_save"
            )),
        }
    }
}

/// Of a type whose numbers a copy has bit for bit.
pub(super) fn is_float(info: &TensorInfo) -> bool {
    ["F32", "F16", "BF16"].contains(&info.dtype.as_str())
}

/// A module on the tensor's way ends with the name, as PEFT asks.
fn is_saved(name: &str, tensor: &str) -> bool {
    let ends = tensor.match_indices('.').map(|(at, _)| &tensor[..at]);
    ends.into_iter().any(|module| module.ends_with(name))
}

/// `a, b, c and 11 more`
fn several(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| shorten(name)).collect();
    let mut text = shown.join(", ");
    if names.len() > SHOWN {
        // Writing to a string does not fail.
        let _ = write!(text, " and {} more", names.len() - SHOWN);
    }
    text
}
