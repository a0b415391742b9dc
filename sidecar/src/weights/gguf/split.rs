//! A model in several GGUF files, as llama.cpp's `gguf-split` cuts it: `NAME-00001-of-00003.gguf` has the
//! metadata, every part some of the tensors and `split.no`, `split.count` and `split.tensors.count`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::metadata::{Found, Metadata};
use crate::model_error::{ModelError, shorten};
use crate::weights::file::{display_name, is_there};

const NO: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";
/// Names have five digits; models of some terabytes have a hundred parts.
const PARTS_MAX: u64 = 999;

/// A file's name as a part's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartName {
    /// Before the numbers, with the folder.
    stem: PathBuf,
    /// From 1 on.
    pub(crate) number: u64,
    pub(crate) of: u64,
}

impl PartName {
    /// None of a file whose name is no part's.
    pub(crate) fn of(path: &Path) -> Option<PartName> {
        let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, of) = name.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        // Those name no file beside this one.
        if matches!(stem, "" | ".") {
            return None;
        }
        let digits = |text: &str| {
            let all = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
            all.then(|| text.parse().ok()).flatten()
        };
        Some(PartName {
            stem: path.with_file_name(stem),
            number: digits(number)?,
            of: digits(of)?,
        })
    }

    /// Where all of its parts would be.
    pub(crate) fn paths(&self) -> impl Iterator<Item = PathBuf> {
        (1..=self.of.min(PARTS_MAX)).map(|number| self.path(number))
    }

    fn path(&self, number: u64) -> PathBuf {
        let stem = display_name(&self.stem);
        self.stem
            .with_file_name(format!("{stem}-{number:05}-of-{:05}.gguf", self.of))
    }

    /// The path of a part.
    ///
    /// # Errors
    /// Where it is missing.
    pub(crate) fn found(&self, number: u64) -> Result<PathBuf, ModelError> {
        let path = self.path(number);
        if is_there(&path) {
            return Ok(path);
        }
        let message = format!(
            "is missing: it is part {number} of {}; fetch it, and put it beside the others",
            self.of
        );
        Err(ModelError::weights(&display_name(&path), message))
    }

    /// The name of all, where files are the parts of one model, and maybe not all.
    ///
    /// # Errors
    /// A file whose number is no part's of its model.
    pub(crate) fn of_all(files: &[PathBuf]) -> Result<Option<PartName>, ModelError> {
        let names: Option<Vec<PartName>> = files.iter().map(|file| PartName::of(file)).collect();
        let Some(names) = names else { return Ok(None) };
        let Some(first) = names.first() else {
            return Ok(None);
        };
        if names
            .iter()
            .any(|name| (&name.stem, name.of) != (&first.stem, first.of))
        {
            return Ok(None);
        }
        match names
            .iter()
            .find(|name| name.number == 0 || name.number > name.of)
        {
            Some(extra) => {
                let message = format!(
                    "its name makes it part {} of {}; take it away",
                    extra.number, extra.of
                );
                Err(ModelError::weights(
                    &display_name(&extra.path(extra.number)),
                    message,
                ))
            }
            None => Ok(Some(first.clone())),
        }
    }
}

/// What the first part says of all.
#[derive(Debug)]
pub(super) struct Split {
    name: PartName,
    pub(super) count: u64,
    /// Of all parts.
    tensors: Option<u64>,
}

impl Split {
    /// None of a file that is a whole model.
    ///
    /// # Errors
    /// A file that is another part than the first, or whose name and numbers contradict each other.
    pub(super) fn of(path: &Path, metadata: &Metadata) -> Result<Option<Split>, ModelError> {
        let refuse = |message: String| Err(ModelError::weights(&metadata.file, message));
        let name = PartName::of(path);
        let count = metadata.integer(COUNT)?.unwrap_or(1);
        let number = metadata.integer(NO)?.unwrap_or(0).saturating_add(1);
        let (name, count) = match (name, count) {
            (None, 0 | 1) => return Ok(None),
            (Some(name), 0 | 1) if name.of <= 1 => return Ok(None),
            (Some(name), 0 | 1) => {
                return refuse(format!(
                    "its name makes it part {} of {}, and `{COUNT}` in it says that it is whole: give it \
                     its own name, or fetch the parts again",
                    name.number, name.of
                ));
            }
            (None, _) => {
                return refuse(format!(
                    "is part {number} of {count} (`{COUNT}`); the others are found by their names: call \
                     it NAME-{number:05}-of-{count:05}.gguf, beside them"
                ));
            }
            (Some(name), _) => (name, count),
        };
        if (name.number, name.of) != (number, count) {
            return refuse(format!(
                "its name makes it part {} of {}, and `{NO}` and `{COUNT}` in it part {number} of \
                 {count}: fetch it again under its own name",
                name.number, name.of
            ));
        }
        if number != 1 {
            return refuse(format!(
                "is part {number} of {count}; write the path of the first, {}",
                display_name(&name.path(1))
            ));
        }
        if count > PARTS_MAX {
            return refuse(format!("`{COUNT}` is {count}, at most {PARTS_MAX}"));
        }
        let beyond = name.path(count + 1);
        if is_there(&beyond) {
            let message = format!(
                "its name makes it part {} of {count}; take it away",
                count + 1
            );
            return Err(ModelError::weights(&display_name(&beyond), message));
        }
        let tensors = metadata.integer(TENSORS)?;
        Ok(Some(Split {
            name,
            count,
            tensors,
        }))
    }

    /// The path of a part, from 1 on.
    ///
    /// # Errors
    /// Where it is missing.
    pub(super) fn part(&self, number: u64) -> Result<PathBuf, ModelError> {
        self.name.found(number)
    }

    /// Whether a part says of itself what the first says of it, and of its model nothing else.
    ///
    /// # Errors
    /// With what differs.
    pub(super) fn check(
        &self,
        number: u64,
        first: &Metadata,
        part: &Metadata,
    ) -> Result<(), ModelError> {
        let refuse = |message: String| Err(ModelError::weights(&part.file, message));
        for (key, wanted) in [
            (NO, Some(number - 1)),
            (COUNT, Some(self.count)),
            (TENSORS, self.tensors),
        ] {
            let has = part.integer(key)?;
            if has != wanted {
                let shown = |of: Option<u64>| of.map_or("missing".to_owned(), |of| of.to_string());
                return refuse(format!(
                    "`{key}` is {}, where part {number} of {} has {}: it is another model's, or its \
                     parts are of two cuts; fetch all of them again",
                    shown(has),
                    first.file,
                    shown(wanted)
                ));
            }
        }
        let differs = |key: &&str| {
            let known: Option<Found> = first.found(key);
            ![NO, COUNT, TENSORS].contains(key) && known.is_some() && known != part.found(key)
        };
        match part.keys().find(differs) {
            None => Ok(()),
            Some(key) => refuse(format!(
                "`{}` in it is not that of {}: it is another model's part; fetch all of them again",
                shorten(key),
                first.file
            )),
        }
    }

    /// Whether all tensors are there, each once.
    ///
    /// # Errors
    /// With the tensor that is there twice, or both counts.
    pub(super) fn check_tensors<'a>(
        &self,
        first: &Metadata,
        tensors: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<(), ModelError> {
        let (mut seen, mut count) = (HashSet::new(), 0);
        for (file, tensor) in tensors {
            count += 1;
            if !seen.insert(tensor) {
                let message = format!(
                    "tensor `{}` is in a part before it, too: the parts are of two cuts; fetch all of \
                     them again",
                    shorten(tensor)
                );
                return Err(ModelError::weights(file, message));
            }
        }
        match self.tensors {
            Some(all) if all != count => {
                let message = format!(
                    "`{TENSORS}` is {all}, and its {} parts have {count}: fetch all of them again",
                    self.count
                );
                Err(ModelError::weights(&first.file, message))
            }
            Some(_) | None => Ok(()),
        }
    }
}
