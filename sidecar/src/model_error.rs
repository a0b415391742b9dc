//! Why a model is not accepted. The message is for the person who wrote the resource: it names
//! the file, the field, the numbers and the way out.

use std::io;
use std::path::{Path, PathBuf};

use plimsoll_crds::v1alpha1::Reason;
use rustix::io::Errno;

/// A model folder or GGUF file that cannot be served as it is.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Nothing where the model should be, or a part of it is missing.
    #[error("{}: {message}", .path.display())]
    NotFound { path: PathBuf, message: String },
    /// The file is there but reading it failed.
    #[error("{}: cannot be read: {source}", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// `config.json`, `generation_config.json` or GGUF metadata that contradict themselves.
    #[error("{file}: {message}")]
    InvalidConfig { file: String, message: String },
    /// An architecture, rope type or activation that the engine does not have.
    #[error("{file}: {message}")]
    UnsupportedArchitecture { file: String, message: String },
    /// Weights stored in a way that is not read yet (bitsandbytes, 3 bits).
    #[error("{file}: {message}")]
    UnsupportedQuantization { file: String, message: String },
    /// Headers that lie, tensors that are missing or of another shape than the config says.
    #[error("{file}: {message}")]
    InvalidWeights { file: String, message: String },
    /// A tokenizer that cannot be built or does not match the model.
    #[error("{file}: {message}")]
    InvalidTokenizer { file: String, message: String },
    /// A chat template that does not parse.
    #[error("{file}: {message}")]
    InvalidChatTemplate { file: String, message: String },
    /// An adapter that is not of this base, or of a kind that cannot be merged into it.
    #[error("adapter `{adapter}`: {message}")]
    InvalidAdapter { adapter: String, message: String },
}

const MFILE: i32 = Errno::MFILE.raw_os_error();
const NFILE: i32 = Errno::NFILE.raw_os_error();

/// Of whatever is looked for.
const NO_SUCH_FILE: &str = "no such file";

impl ModelError {
    /// As what is wrong with an adapter, which has a source of its own.
    pub(crate) fn of_adapter(&self, adapter: &str) -> ModelError {
        // Nothing is wrong with it: who has no files left finds none that can be opened.
        if let ModelError::Unreadable { path, source } = self
            && let Some(code @ (MFILE | NFILE)) = source.raw_os_error()
        {
            let (path, source) = (path.clone(), io::Error::from_raw_os_error(code));
            return ModelError::Unreadable { path, source };
        }
        let message = match self {
            ModelError::NotFound { path, message } if message.starts_with(NO_SUCH_FILE) => format!(
                "{}: {NO_SUCH_FILE}; check --adapter {adapter}=FOLDER, or source and path of \
                 spec.adapters[name={adapter}]",
                path.display()
            ),
            error => error.to_string(),
        };
        ModelError::InvalidAdapter {
            adapter: adapter.to_owned(),
            message,
        }
    }

    /// The reason of the `ModelResolved` condition.
    pub fn reason(&self) -> &'static str {
        let reason = match self {
            ModelError::NotFound { .. } => Reason::ModelNotFound,
            ModelError::Unreadable { .. }
            | ModelError::InvalidConfig { .. }
            | ModelError::InvalidWeights { .. }
            | ModelError::InvalidTokenizer { .. }
            | ModelError::InvalidChatTemplate { .. } => Reason::ModelInvalid,
            ModelError::InvalidAdapter { .. } => Reason::AdapterInvalid,
            ModelError::UnsupportedArchitecture { .. } => Reason::UnsupportedArchitecture,
            ModelError::UnsupportedQuantization { .. } => Reason::UnsupportedFormat,
        };
        reason.as_str()
    }

    pub(crate) fn io(path: &Path, source: io::Error) -> ModelError {
        // A link that leads nowhere, or round in a circle; behind any other there is a file.
        let nowhere = source.kind() == io::ErrorKind::NotFound
            || source.raw_os_error() == Some(Errno::LOOP.raw_os_error());
        if nowhere && let Ok(to) = std::fs::read_link(path) {
            return ModelError::NotFound {
                path: path.to_owned(),
                message: format!("is a link to {}: {source}", to.display()),
            };
        }
        if source.kind() == io::ErrorKind::NotFound {
            return ModelError::NotFound {
                path: path.to_owned(),
                message: format!("{NO_SUCH_FILE}; check the model's source and path"),
            };
        }
        ModelError::Unreadable {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn config(file: &str, message: impl Into<String>) -> ModelError {
        ModelError::InvalidConfig {
            file: file.into(),
            message: message.into(),
        }
    }

    pub(crate) fn architecture(file: &str, message: impl Into<String>) -> ModelError {
        ModelError::UnsupportedArchitecture {
            file: file.into(),
            message: message.into(),
        }
    }

    pub(crate) fn quantization(file: &str, message: impl Into<String>) -> ModelError {
        ModelError::UnsupportedQuantization {
            file: file.into(),
            message: message.into(),
        }
    }

    pub(crate) fn weights(file: &str, message: impl Into<String>) -> ModelError {
        ModelError::InvalidWeights {
            file: file.into(),
            message: message.into(),
        }
    }

    pub(crate) fn tokenizer(file: &str, message: impl Into<String>) -> ModelError {
        ModelError::InvalidTokenizer {
            file: file.into(),
            message: message.into(),
        }
    }

    pub(crate) fn template(file: &str, message: impl Into<String>) -> ModelError {
        ModelError::InvalidChatTemplate {
            file: file.into(),
            message: message.into(),
        }
    }
}

/// Text from a foreign file, short enough for a message.
pub(crate) fn shorten(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let clean: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    match clean.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &clean[..end]),
        None => clean,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_a_link_that_leads_somewhere_an_error_is_the_files_own() {
        let folder = crate::weights::testing::TempFolder::new();
        let file = folder.write("file", "x");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(file, &link).unwrap();
        let reason = |errno: Errno| ModelError::io(&link, errno.into()).reason();
        assert_eq!(reason(Errno::ACCESS), "ModelInvalid");
        assert_eq!(reason(Errno::IO), "ModelInvalid");
        assert_eq!(reason(Errno::LOOP), "ModelNotFound");
    }
}
