//! The folder that is written: its small files, and how it comes into being all at once.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::MergeError;
use super::ended::{self, Place};
use crate::weights::file::display_name;

const CONFIG: &str = "config.json";
/// Folders of small files that belong to a model.
const FOLDERS: [&str; 1] = ["additional_chat_templates"];
/// Endings of weights, in any format: those of the base must not lie beside the merged ones.
const WEIGHTS: [&str; 10] = [
    "safetensors",
    "bin",
    "pt",
    "pth",
    "ckpt",
    "gguf",
    "h5",
    "msgpack",
    "onnx",
    "index.json",
];
/// transformers would put an adapter that it finds here into the model once more.
const LEFT_OUT: [&str; 1] = ["adapter_config.json"];
/// Tokenizers are the largest of the small files, with some tens of megabytes.
const SMALL_BYTES_MAX: u64 = 1 << 28;

/// A folder beside the place that it will have; removed unless it got there.
#[derive(Debug)]
pub(super) struct Staging {
    path: PathBuf,
    out: PathBuf,
    place: Place,
    published: bool,
    /// For as long as it is written.
    _claimed: File,
}

impl Staging {
    /// `place` knows of it until it has its name or is gone.
    pub(super) fn beside(out: &Path, place: &Place) -> Result<Staging, MergeError> {
        let refuse = |message: &str| MergeError::Out {
            path: out.to_owned(),
            message: message.to_owned(),
        };
        if out.symlink_metadata().is_ok() {
            return Err(refuse("is there already; name a folder that is not"));
        }
        let Some(name) = out.file_name() else {
            return Err(refuse("has no name"));
        };
        let parent = parent(out);
        ended::sweep(parent, name);
        let mut hidden = OsStr::new(".").to_owned();
        hidden.push(name);
        hidden.push(format!(".{}.partial", std::process::id()));
        let path = out.with_file_name(hidden);
        let mut held = place.hold();
        fs::create_dir(&path).map_err(|source| match source.kind() {
            // In a container every process has the number of the one before it.
            ErrorKind::AlreadyExists => refuse(&format!(
                "{} is there: a merge that writes this folder now, or one that was ended on its way; \
                 remove it if none is under way",
                path.display()
            )),
            ErrorKind::NotFound | ErrorKind::NotADirectory => refuse(&format!(
                "{} is no folder that is there; make it first, or name another place",
                parent.display()
            )),
            _ => refuse(&format!("{}: {source}", path.display())),
        })?;
        let claimed = ended::claim(&path).map_err(|source| MergeError::File {
            path: path.clone(),
            source,
        })?;
        *held = Some(path.clone());
        Ok(Staging {
            path,
            out: out.to_owned(),
            place: place.clone(),
            published: false,
            _claimed: claimed,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file and has it on the disk.
    pub(super) fn write(
        &self,
        name: &str,
        write: impl FnOnce(&mut File) -> Result<(), MergeError>,
    ) -> Result<(), MergeError> {
        let path = self.path.join(name);
        let of = |source| MergeError::File {
            path: path.clone(),
            source,
        };
        let mut file = File::create_new(&path).map_err(of)?;
        write(&mut file)?;
        file.sync_all().map_err(of)
    }

    /// Gives the folder its name.
    pub(super) fn publish(mut self) -> Result<(), MergeError> {
        sync(&self.path)?;
        let place = self.place.clone();
        let mut held = place.hold();
        fs::rename(&self.path, &self.out).map_err(|source| MergeError::Out {
            path: self.out.clone(),
            message: source.to_string(),
        })?;
        self.published = true;
        *held = None;
        drop(held);
        sync(parent(&self.out))
    }
}

/// The folder that a path lies in.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published {
            let mut held = self.place.hold();
            // What is left behind is hidden, and says what it is.
            let _ = fs::remove_dir_all(&self.path);
            *held = None;
        }
    }
}

/// A folder's names are on the disk.
fn sync(folder: &Path) -> Result<(), MergeError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|source| MergeError::File {
        path: folder.to_owned(),
        source,
    })
}

/// Copies what is not weights; the config says whether the head has a tensor of its own. Tells what
/// was left out that may belong to the model.
pub(super) fn copy(base: &Path, to: &Staging, untied: bool) -> Result<Vec<String>, MergeError> {
    let mut told = Vec::new();
    for (name, path) in small_files(base, &mut told)? {
        let bytes = read(&path)?;
        let bytes = match untied && name == CONFIG {
            true => untie(&path, &bytes)?,
            false => bytes,
        };
        put(to, &name, &bytes)?;
    }
    for folder in FOLDERS {
        let from = base.join(folder);
        if !from.is_dir() {
            continue;
        }
        let into = to.path().join(folder);
        fs::create_dir(&into).map_err(|source| MergeError::File { path: into, source })?;
        for (name, path) in small_files(&from, &mut told)? {
            put(to, &format!("{folder}/{name}"), &read(&path)?)?;
        }
        sync(&to.path().join(folder))?;
    }
    Ok(told)
}

fn put(to: &Staging, name: &str, bytes: &[u8]) -> Result<(), MergeError> {
    let path = to.path().join(name);
    to.write(name, |file| {
        file.write_all(bytes)
            .map_err(|source| MergeError::File { path, source })
    })
}

fn read(path: &Path) -> Result<Vec<u8>, MergeError> {
    fs::read(path).map_err(|source| MergeError::File {
        path: path.to_owned(),
        source,
    })
}

/// Names and paths of a folder's files, links followed, in order.
fn small_files(
    folder: &Path,
    told: &mut Vec<String>,
) -> Result<Vec<(String, PathBuf)>, MergeError> {
    let failed = |source| MergeError::File {
        path: folder.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let shown = display_name(&path);
        let is_weights = WEIGHTS
            .iter()
            .any(|end| shown.ends_with(&format!(".{end}")));
        if is_weights || shown.starts_with('.') || LEFT_OUT.contains(&&*shown) {
            continue;
        }
        let why = match (
            path.file_name().and_then(OsStr::to_str),
            fs::metadata(&path),
        ) {
            (_, Ok(of)) if !of.is_file() => continue,
            (None, _) => "its name is not UTF-8".to_owned(),
            (_, Err(error)) => error.to_string(),
            (_, Ok(of)) if of.len() > SMALL_BYTES_MAX => {
                format!("it has {} bytes, more than {SMALL_BYTES_MAX}", of.len())
            }
            (Some(name), Ok(_)) => {
                files.push((name.to_owned(), path));
                continue;
            }
        };
        told.push(format!(
            "{} was not copied: {why}; copy it yourself if the model needs it",
            path.display()
        ));
    }
    files.sort();
    told.sort();
    Ok(files)
}

/// Without this a reader would put the embedding where the head was written.
fn untie(path: &Path, config: &[u8]) -> Result<Vec<u8>, MergeError> {
    let invalid = |error: serde_json::Error| MergeError::File {
        path: path.to_owned(),
        source: error.into(),
    };
    let mut fields: Map<String, Value> = serde_json::from_slice(config).map_err(invalid)?;
    fields.insert("tie_word_embeddings".to_owned(), Value::Bool(false));
    let mut bytes = serde_json::to_vec_pretty(&fields).map_err(invalid)?;
    bytes.push(b'\n');
    Ok(bytes)
}
