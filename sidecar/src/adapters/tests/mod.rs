//! Adapters against PEFT, and against everything that is not one. `tests/fixtures/make_adapters.py`
//! wrote what PEFT makes of each fixture.

mod beside;
mod configs;
pub(crate) mod edited;
mod fields;
mod files;
mod gate;
pub(crate) mod gguf;
mod malformed;
mod merged;
mod modules;
mod scaled;

use plimsoll_crds::v1alpha1::adapters::AdapterScale;
use std::path::{Path, PathBuf};

use super::AdapterPath;
use crate::model::{Model, ModelError, ModelFolder};

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

pub(super) fn at(path: &Path) -> AdapterPath {
    AdapterPath {
        name: "tuned".to_owned(),
        path: path.to_owned(),
        scale: AdapterScale::ONE,
    }
}

pub(super) fn open(base: &str, adapters: &[AdapterPath]) -> Result<Model, ModelError> {
    ModelFolder::open_with(&fixtures().join("models").join(base), adapters)
}
