//! The tensors of an adapter's file by what they are.

use std::collections::BTreeMap;

use super::factor::Factor;
use super::keys::{self, Key, Part};
use super::{WEIGHTS, refused};
use crate::model_error::{ModelError, shorten};

/// See the head of the file.
#[derive(Debug)]
pub(super) struct Sorted {
    /// By module.
    pub(super) parts: BTreeMap<String, BTreeMap<Part, Factor>>,
    /// By the base's tensor.
    pub(super) whole: BTreeMap<String, Factor>,
    /// By module.
    pub(super) tokens: BTreeMap<String, Factor>,
    /// By module.
    pub(super) copies: BTreeMap<String, Factor>,
}

impl Sorted {
    /// # Errors
    /// [`ModelError::InvalidAdapter`] for a name that is no part of an adapter, or there twice.
    pub(super) fn of(adapter: &str, factors: Vec<Factor>) -> Result<Sorted, ModelError> {
        let refuse = |message: String| Err(refused(adapter, WEIGHTS, message));
        let mut sorted = Sorted {
            parts: BTreeMap::new(),
            whole: BTreeMap::new(),
            tokens: BTreeMap::new(),
            copies: BTreeMap::new(),
        };
        for factor in factors {
            let name = factor.info.name.clone();
            let shown = shorten(&name);
            let Key { module, part } = match keys::parse(&name) {
                Ok(key) => key,
                Err(why) => return refuse(format!("`{shown}` {why}")),
            };
            let twice = match part {
                Part::Whole => sorted.whole.insert(module, factor),
                Part::Tokens => sorted.tokens.insert(module, factor),
                Part::BaseCopy => sorted.copies.insert(module, factor),
                Part::A
                | Part::B
                | Part::BiasOfB
                | Part::EmbeddingA
                | Part::EmbeddingB
                | Part::Magnitude => sorted.parts.entry(module).or_default().insert(part, factor),
            };
            if let Some(other) = twice {
                let other = shorten(&other.info.name);
                return refuse(format!("`{other}` and `{shown}` are the same part"));
            }
        }
        Ok(sorted)
    }
}
