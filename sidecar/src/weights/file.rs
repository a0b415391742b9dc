//! One file of weights: positional reads, no mapping, every offset checked by the file's length.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::model_error::ModelError;

/// An open file that any thread may read.
#[derive(Debug)]
pub(crate) struct WeightFile {
    file: File,
    path: PathBuf,
    /// The file's name, for messages.
    name: String,
    bytes: u64,
}

impl WeightFile {
    pub(crate) fn open(path: &Path) -> Result<WeightFile, ModelError> {
        // Asked before opening: opening a pipe would wait for a writer.
        let metadata = std::fs::metadata(path).map_err(|e| ModelError::io(path, e))?;
        let name = display_name(path);
        if !metadata.is_file() {
            return Err(ModelError::weights(&name, "is not a regular file"));
        }
        let file = File::open(path).map_err(|e| ModelError::io(path, e))?;
        Ok(WeightFile {
            file,
            path: path.to_owned(),
            name,
            bytes: metadata.len(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), ModelError> {
        self.file.read_exact_at(out, offset).map_err(|e| {
            if e.kind() == std::io::ErrorKind::UnexpectedEof {
                let message = format!(
                    "{} bytes at offset {offset} are beyond its end; it was {} bytes when opened",
                    out.len(),
                    self.bytes
                );
                return ModelError::weights(&self.name, message);
            }
            ModelError::Unreadable {
                path: self.path.clone(),
                source: e,
            }
        })
    }
}

/// Whether something has that name, a link to nowhere included: who reads it then says what is
/// wrong, where `Path::exists` would take it for a file that the model does not have.
pub(crate) fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

pub(crate) fn display_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

/// Reads a small file whole.
///
/// # Errors
/// Also where it is larger than `bytes_max`.
pub(crate) fn read_small(path: &Path, bytes_max: u64) -> Result<Vec<u8>, ModelError> {
    let file = WeightFile::open(path)?;
    if file.bytes() > bytes_max {
        let message = format!("is {} bytes, at most {bytes_max} are read", file.bytes());
        return Err(ModelError::config(file.name(), message));
    }
    let mut bytes = vec![0; usize::try_from(file.bytes()).unwrap_or(0)];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// As [`read_small`], as text.
pub(crate) fn read_text(path: &Path, bytes_max: u64) -> Result<String, ModelError> {
    String::from_utf8(read_small(path, bytes_max)?)
        .map_err(|_| ModelError::config(&display_name(path), "is not UTF-8"))
}
