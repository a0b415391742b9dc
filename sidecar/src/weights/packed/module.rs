//! One module while its matrix is put together: its parts are taken by name, and their types and shapes
//! checked.

use super::grid::{Scales, look_at_scales};
use super::groups::Groups;
use super::integers::{Integers, Layout};
use crate::model_error::{ModelError, shorten};
use crate::weights::folder::SafetensorsFolder;
use crate::weights::{TensorInfo, TensorSource};

const WORD: &str = "I32";

/// One module while its matrix is put together.
pub(super) struct Module<'a> {
    pub(super) files: &'a SafetensorsFolder,
    pub(super) name: &'a str,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) parts: Vec<String>,
}

impl Module<'_> {
    pub(super) fn full(&self, part: &str) -> String {
        format!("{}.{part}", self.name)
    }

    pub(super) fn part(&self, part: &str) -> Option<&TensorInfo> {
        self.files.info(&self.full(part))
    }

    pub(super) fn refuse(&self, part: &str, why: &str) -> ModelError {
        let name = shorten(&self.full(part)).clone();
        ModelError::weights("weights", format!("tensor `{name}` {why}"))
    }

    /// A part that must be there, in one of these types and shapes.
    pub(super) fn take(
        &mut self,
        part: &str,
        dtypes: &[&str],
        shape: &[usize],
    ) -> Result<String, ModelError> {
        let name = self.full(part);
        let Some(info) = self.files.info(&name) else {
            return Err(self.refuse(
                part,
                "is missing, and the module is packed; fetch the files again",
            ));
        };
        if info.shape != shape || !dtypes.contains(&info.dtype.as_str()) {
            let why = format!(
                "is {} {:?}, and a packed matrix of {} x {} has {} {shape:?} there",
                info.dtype,
                info.shape,
                self.rows,
                self.cols,
                dtypes.join(" or ")
            );
            return Err(self.refuse(part, &why));
        }
        self.parts.push(name.clone());
        Ok(name)
    }

    pub(super) fn integers(
        &mut self,
        part: &str,
        (layout, bits): (Layout, usize),
        cols: usize,
    ) -> Result<Integers, ModelError> {
        let integers = Integers {
            name: self.full(part),
            layout,
            bits,
        };
        let Some(shape) = integers.shape(self.rows, cols) else {
            let why = format!(
                "cannot be: {} x {cols} integers of {bits} bits do not fill whole words of 32 bits",
                self.rows
            );
            return Err(self.refuse(part, &why));
        };
        let dtype = if layout == Layout::Bytes { "I8" } else { WORD };
        self.take(part, &[dtype], &shape)?;
        Ok(integers)
    }

    pub(super) fn scales(
        &mut self,
        part: &str,
        shape: &[usize],
        transposed: bool,
    ) -> Result<Scales, ModelError> {
        let name = self.take(part, &["F16", "BF16", "F32"], shape)?;
        let halves = look_at_scales(self.files, &name)?;
        Ok(Scales {
            name,
            transposed,
            halves,
        })
    }

    /// A part that the config says every packed matrix has.
    pub(super) fn listed(&self, part: &str, is_said: bool) -> Result<(), ModelError> {
        match self.part(part) {
            None if is_said => Err(self.refuse(
                part,
                "is missing, and config.json says that packed matrices have it; fetch the files again",
            )),
            _ => Ok(()),
        }
    }

    /// Groups of inputs: so many of `size`, or as a tensor lists them.
    pub(super) fn groups(
        &mut self,
        part: &str,
        size: usize,
        count: usize,
    ) -> Result<Groups, ModelError> {
        if self.part(part).is_none() {
            return Ok(Groups::Even(size));
        }
        let name = self.take(part, &[WORD], &[self.cols])?;
        let mut bytes = vec![0; self.cols * 4];
        self.files.read_raw(&name, 0..self.cols, 0..4, &mut bytes)?;
        let listed: Vec<u32> = bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|word| u32::from_le_bytes(*word))
            .collect();
        let mut members = vec![0usize; count];
        for (col, group) in listed.iter().enumerate() {
            let Some(members) = members.get_mut(*group as usize) else {
                let why = format!("puts input {col} into group {group}, and there are {count}");
                return Err(self.refuse(part, &why));
            };
            *members += 1;
        }
        let even = |group: usize| size.min(self.cols - group * size);
        if let Some(group) = (0..count).find(|group| members[*group] != even(*group)) {
            let why = format!(
                "puts {} inputs into group {group}, which has {}",
                members[group],
                even(group)
            );
            return Err(self.refuse(part, &why));
        }
        let in_order = listed
            .iter()
            .enumerate()
            .all(|(col, group)| col / size == *group as usize);
        Ok(match in_order {
            true => Groups::Even(size),
            false => Groups::given(&listed, size),
        })
    }
}
