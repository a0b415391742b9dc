//! GPTQ and AWQ.

use super::grid::{Grid, Zeros};
use super::groups::Groups;
use super::integers::Layout;
use super::module::Module;
use super::{Numbers, Scheme};
use crate::model_error::{ModelError, shorten};
use crate::weights::TensorSource;

impl Module<'_> {
    pub(super) fn gptq(
        &mut self,
        bits: usize,
        group: Option<usize>,
        less: u8,
        middles: Option<&mut Middles>,
    ) -> Result<Numbers, ModelError> {
        let size = group.unwrap_or(self.cols).min(self.cols);
        let count = self.cols.div_ceil(size);
        let codes = self.integers("qweight", (Layout::Gptq, bits), self.cols)?;
        let zeros = self.integers("qzeros", (Layout::GptqZeros, bits), count)?;
        let scales = self.scales("scales", &[count, self.rows], true)?;
        let groups = self.groups("g_idx", size, count)?;
        let middle = match middles {
            Some(middles) => middles.look(self, &zeros.name, bits)?,
            None => false,
        };
        Ok(Numbers::Grid(Grid {
            codes,
            scales,
            zeros: match middle {
                true => Zeros::Middle,
                false => Zeros::Read {
                    integers: zeros,
                    less,
                },
            },
            groups,
            count,
        }))
    }

    pub(super) fn awq(&mut self, group: Option<usize>) -> Result<Numbers, ModelError> {
        let size = group.unwrap_or(self.cols).min(self.cols);
        let count = self.cols.div_ceil(size);
        let codes = self.integers("qweight", (Layout::Awq, 4), self.cols)?;
        let integers = self.integers("qzeros", (Layout::Awq, 4), count)?;
        let scales = self.scales("scales", &[count, self.rows], true)?;
        Ok(Numbers::Grid(Grid {
            codes,
            scales,
            zeros: Zeros::Read { integers, less: 0 },
            groups: Groups::Even(size),
            count,
        }))
    }
}

/// What the zero points of symmetric GPTQ weights are, which their config may say wrongly: version 1
/// stores the middle less one, version 2 the middle.
#[derive(Debug, Default)]
pub(super) struct Middles {
    /// The first module of either version.
    found: [Option<String>; 2],
}

impl Middles {
    /// Whether all zero points of a tensor are the middle, whatever the version.
    pub(super) fn look(
        &mut self,
        module: &Module<'_>,
        name: &str,
        bits: usize,
    ) -> Result<bool, ModelError> {
        let files = module.files;
        let info = files.info(name);
        let (rows, words) = info.map_or((0, 0), |info| info.rows_cols());
        let [one, two] = match bits {
            4 => [0x7777_7777, 0x8888_8888],
            _ => [0x7F7F_7F7F, 0x8080_8080_u32],
        };
        let mut bytes = vec![0; rows * words * 4];
        files.read_raw(name, 0..rows, 0..words * 4, &mut bytes)?;
        let all = |zeros: u32| {
            bytes
                .as_chunks::<4>()
                .0
                .iter()
                .all(|word| *word == zeros.to_le_bytes())
        };
        let version = match (all(one), all(two)) {
            (true, _) => 0,
            (_, true) => 1,
            _ => return Ok(false),
        };
        self.found[version].get_or_insert_with(|| name.to_owned());
        if let [Some(one), Some(two)] = &self.found {
            let message = format!(
                "the zero points of `{}` are those of GPTQ version 1, those of `{}` of version 2; a \
                 mixture cannot be told right from wrong: convert the model again",
                shorten(one),
                shorten(two)
            );
            return Err(ModelError::weights("weights", message));
        }
        Ok(true)
    }

    /// Where the data are of another version than the config says.
    pub(super) fn told(&self, scheme: &Scheme, told: &mut Vec<String>) {
        let Scheme::Gptq { version_2, .. } = scheme else {
            return;
        };
        let says = |version_2: bool| if version_2 { "gptq_v2" } else { "gptq" };
        if self.found[usize::from(!version_2)].is_some() {
            told.push(format!(
                "quantization_config says {}, and the zero points are those of {}: they count",
                says(*version_2),
                says(!version_2)
            ));
        }
    }
}
