//! compressed-tensors, and FP8 by whomever.

use super::float8::Float8;
use super::grid::{Grid, Zeros, look_at_scales};
use super::integers::{Integers, Layout};
use super::module::Module;
use super::{INT, Numbers};
use crate::model_error::ModelError;

impl Module<'_> {
    /// compressed-tensors: packed into words.
    pub(super) fn words(
        &mut self,
        bits: &[usize],
        groups: &[usize],
    ) -> Result<(&'static str, Numbers), ModelError> {
        const PART: &str = "weight_packed";
        let words = self.part(PART).map_or(0, |info| info.rows_cols().1);
        let fits = |bits: &&usize| (self.cols * **bits).div_ceil(32) == words;
        let Some(&bits) = bits.iter().find(fits) else {
            let why = format!(
                "has {words} words of 32 bits a row, and config.json has {bits:?} bits for its {} inputs",
                self.cols
            );
            return Err(self.refuse(PART, &why));
        };
        let codes = self.integers(PART, (Layout::Compressed, bits), self.cols)?;
        let numbers = self.compressed(codes, Layout::CompressedZeros, groups)?;
        self.shape_is_said()?;
        Ok((INT[usize::from(bits == 8)], numbers))
    }

    /// compressed-tensors: signed bytes.
    pub(super) fn bytes(&mut self, groups: &[usize]) -> Result<Numbers, ModelError> {
        let codes = self.integers("weight", (Layout::Bytes, 8), self.cols)?;
        self.compressed(codes, Layout::Bytes, groups)
    }

    fn compressed(
        &mut self,
        codes: Integers,
        zeros: Layout,
        sizes: &[usize],
    ) -> Result<Numbers, ModelError> {
        const SCALE: &str = "weight_scale";
        let shape = self
            .part(SCALE)
            .map_or_else(Vec::new, |info| info.shape.clone());
        let count = shape
            .last()
            .copied()
            .filter(|_| shape.len() == 2)
            .unwrap_or(1);
        let size = match count {
            1 => self.cols,
            count => {
                let fits = |size: &&usize| self.cols.div_ceil(**size) == count;
                let mut sizes = sizes.iter().filter(fits);
                match (sizes.next(), sizes.next()) {
                    (Some(size), next) if next.is_none_or(|other| other == size) => *size,
                    _ => {
                        let why = format!(
                            "has {count} groups a row, and config.json no group_size of that many for \
                             {} inputs",
                            self.cols
                        );
                        return Err(self.refuse(SCALE, &why));
                    }
                }
            }
        };
        let scales = self.scales(SCALE, &[self.rows, count], false)?;
        let groups = self.groups("weight_g_idx", size, count)?;
        let zeros = match self.part("weight_zero_point") {
            None => Zeros::Middle,
            Some(_) => {
                let bits = codes.bits;
                let integers = self.integers("weight_zero_point", (zeros, bits), count)?;
                Zeros::Read { integers, less: 0 }
            }
        };
        Ok(Numbers::Grid(Grid {
            codes,
            scales,
            zeros,
            groups,
            count,
        }))
    }

    /// `weight_shape` must be the shape that the config gives.
    fn shape_is_said(&mut self) -> Result<(), ModelError> {
        const PART: &str = "weight_shape";
        if self.part(PART).is_none() {
            return Ok(());
        }
        let name = self.take(PART, &["I64"], &[2])?;
        self.parts.pop();
        let mut bytes = vec![0; 16];
        self.files.read_raw(&name, 0..2, 0..8, &mut bytes)?;
        let numbers = bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|word| i64::from_le_bytes(*word));
        let said: Vec<i64> = numbers.collect();
        if said
            .iter()
            .map(|n| usize::try_from(*n).ok())
            .eq([Some(self.rows), Some(self.cols)])
        {
            return Ok(());
        }
        let why = format!(
            "says {said:?}, and config.json asks for [{}, {}]; config and weights are not of the same \
             model",
            self.rows, self.cols
        );
        Err(self.refuse(PART, &why))
    }

    /// Scales of one for all, one for each row, or one for each block.
    pub(super) fn float8(
        &mut self,
        scales: &str,
        blocks: &[[usize; 2]],
    ) -> Result<Numbers, ModelError> {
        let name = self.take("weight", &["F8_E4M3"], &[self.rows, self.cols])?;
        let shape = self
            .part(scales)
            .map_or_else(Vec::new, |info| info.shape.clone());
        let of_blocks =
            |[rows, cols]: [usize; 2]| [self.rows.div_ceil(rows), self.cols.div_ceil(cols)];
        let block = match shape.as_slice() {
            [] | [1] => Some([self.rows, self.cols]),
            [rows, 1] if *rows == self.rows => Some([1, self.cols]),
            shape => blocks
                .iter()
                .copied()
                .find(|block| of_blocks(*block) == shape),
        };
        let Some(block) = block else {
            let why = format!(
                "is {shape:?}: neither one scale nor {}, nor one for each block of config.json ({blocks:?})",
                self.rows
            );
            return Err(self.refuse(scales, &why));
        };
        let scales = self.take(scales, &["F16", "BF16", "F32"], &shape)?;
        look_at_scales(self.files, &scales)?;
        Ok(Numbers::Float8(Float8 {
            name,
            scales,
            block,
            across: self.cols.div_ceil(block[1]),
        }))
    }
}
