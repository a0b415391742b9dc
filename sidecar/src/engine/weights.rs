//! Words for the weights that answers come from, and for their replacement.

use std::path::PathBuf;

use crate::model::{MergedAdapter, Model, Replacement};

/// The weights in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WeightsInForce {
    /// What whoever wrote them calls them; no more than a name to the engine.
    pub version: String,
    /// The files that were read last, and what their weights were called.
    pub path: PathBuf,
    pub source_version: String,
    /// What they are called where nobody names them.
    pub unnamed: String,
    /// They were sent since: no file has them, and a wake reads none.
    pub pushed: bool,
    /// Times that weights were written since the load, to the end or not.
    pub writes: u64,
}

impl WeightsInForce {
    /// As with vLLM.
    pub const DEFAULT_VERSION: &str = "default";
    pub const VERSION_BYTES_MAX: usize = 256;

    /// What no weights but these are called, whatever versions are given twice.
    pub(super) fn key(&self) -> String {
        format!("{} {}", self.writes, self.version)
    }

    /// What the weights that are loaded first are called. Answers show what they come from: adapters,
    /// too, where nobody gave the weights a name.
    pub fn named(asked: String, model: &Model) -> String {
        match asked == WeightsInForce::DEFAULT_VERSION {
            true => WeightsInForce::unnamed(&model.adapters, &model.digest),
            false => asked,
        }
    }

    /// What weights are called with `adapters` in them; `digest`: of all of it.
    pub(crate) fn unnamed(adapters: &[MergedAdapter], digest: &str) -> String {
        const DIGITS: usize = 8;
        let mut version = WeightsInForce::DEFAULT_VERSION.to_owned();
        for MergedAdapter { at, digest, .. } in adapters {
            let digits = digest.trim_start_matches("sha256:");
            let digits: String = digits.chars().take(DIGITS).collect();
            version = format!("{version}+{}@{digits}", at.name);
        }
        // Many long names do not fit: then the model's digest, which covers them all.
        match WeightsInForce::check_version(&version) {
            Ok(()) => version,
            Err(_) => format!("{}@{digest}", WeightsInForce::DEFAULT_VERSION),
        }
    }

    /// What files that are read in place of these are called, where these are called `version`: a name
    /// that somebody gave stays, one that told of the adapters tells of what these are now.
    pub(crate) fn called_after(&self, version: &str, read: &Replacement) -> String {
        match version == self.unnamed {
            true => WeightsInForce::unnamed(&read.adapters, &read.digest),
            false => version.to_owned(),
        }
    }

    /// # Errors
    /// Why a text cannot be a version.
    pub fn check_version(version: &str) -> Result<(), String> {
        let (bytes, most) = (version.len(), WeightsInForce::VERSION_BYTES_MAX);
        if bytes == 0 || bytes > most {
            return Err(format!("has {bytes} bytes, 1 to {most} can be a version"));
        }
        match version.chars().find(|c| c.is_control()) {
            Some(c) => Err(format!("has the character {c:?}")),
            None => Ok(()),
        }
    }
}

/// What an update came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Updated {
    /// What the new weights are called.
    pub version: String,
    /// Requests that were held meanwhile and go on with the new weights.
    pub held: usize,
}

/// What an update left that was sent and came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abandoned {
    /// The weights before it: not a byte was written.
    Unharmed,
    /// No weights, as before it.
    Away,
    /// A mixture, which is not served.
    OutOfService,
}
