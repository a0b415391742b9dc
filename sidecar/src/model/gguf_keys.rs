//! The metadata of a GGUF file that its architecture's name stands before: `llama.block_count`.

use super::bounds::Named;
use crate::model_error::ModelError;
use crate::weights::gguf::metadata::Metadata;

pub(super) struct Keys<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) prefix: &'static str,
}

impl Keys<'_> {
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<Named>, ModelError> {
        let field = self.key(name);
        Ok(self
            .metadata
            .integer(&field)?
            .map(|number| Named { field, number }))
    }

    pub(super) fn needed(&self, name: &str) -> Result<Named, ModelError> {
        self.number(name)?
            .ok_or_else(|| self.metadata.missing(&self.key(name)))
    }

    pub(super) fn float(&self, name: &str) -> Result<Option<f64>, ModelError> {
        self.metadata.float(&self.key(name))
    }
}
