//! A model's tensors with an adapter in them, computed when they are read.
//!
//! A weight is `W + s * B * A`: products and sums are exact to 53 bits, and the result is rounded to
//! 24, then to the type in which it is kept. An element depends on its row and column alone, not on the
//! piece that is read, so every split of the model has the same numbers.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use plimsoll_planner::{BlockFormat, Dtype};

use super::change::Change;
use super::gate::Gate;
use super::held::Held;
use super::product::{Product, rows_at_once};
use super::side::Seen;
use super::{damaged, refused};
use crate::model_error::ModelError;
use crate::weights::encoding::{Encoding, encode, limit};
use crate::weights::{TensorInfo, TensorSource, check_block, other_type, rounding};

pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(crate) const HEAD: &str = "lm_head.weight";

/// See the head of the file.
#[derive(Debug)]
pub(crate) struct Merged {
    base: Box<dyn TensorSource>,
    adapter: String,
    /// Its number among those that are merged.
    number: usize,
    changes: HashMap<String, Change>,
    /// Where the base has one tensor for both sides, and this has two.
    head: Option<TensorInfo>,
    gate: Arc<Gate>,
}

impl Merged {
    pub(crate) fn new(
        base: Box<dyn TensorSource>,
        (number, adapter): (usize, &str),
        (changes, unties): (HashMap<String, Change>, bool),
        gate: &Arc<Gate>,
    ) -> Merged {
        let embedding = base.info(EMBEDDING).filter(|_| unties);
        let head = embedding.map(|info| TensorInfo {
            name: HEAD.to_owned(),
            ..info.clone()
        });
        Merged {
            base,
            adapter: adapter.to_owned(),
            number,
            changes,
            head,
            gate: Arc::clone(gate),
        }
    }

    /// What becomes of a tensor; None where it is read as the base has it.
    fn change(&self, name: &str) -> Option<&Change> {
        self.changes.get(name).filter(|_| !self.gate.holds_back())
    }

    /// What a tensor is called in the base.
    fn behind<'a>(&self, name: &'a str) -> &'a str {
        match self.head.is_some() && name == HEAD {
            true => EMBEDDING,
            false => name,
        }
    }

    /// Numbers of a tensor that is changed; `base` reads those before.
    fn read_changed(
        change: &Change,
        [rows, cols]: [Range<usize>; 2],
        base: impl Fn(Range<usize>, Range<usize>, &mut [f32]) -> Result<(), ModelError>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        match change {
            Change::Replaced(tensor) => tensor.read(rows, cols, out),
            Change::Rows {
                rows: given,
                tensor,
            } => {
                base(rows.clone(), cols.clone(), out)?;
                for (row, by) in given.range(rows.clone()) {
                    let at = (row - rows.start) * cols.len();
                    let out = &mut out[at..at + cols.len()];
                    tensor.read(*by..by + 1, cols.clone(), out)?;
                }
                Ok(())
            }
            Change::Bias { bias, scale } => {
                base(rows.clone(), cols, out)?;
                for (out, bias) in out.iter_mut().zip(&bias[rows]) {
                    *out = rounded(f64::from(*out) + scale * f64::from(*bias));
                }
                Ok(())
            }
            Change::Embedding { a, b, scale } => {
                let product = Product {
                    a,
                    b,
                    scale: *scale,
                    of_table: true,
                };
                let mut out = out.chunks_exact_mut(cols.len());
                product.each_row(rows, cols, base, |_, sums| round_all(sums, 1.0, out.next()))
            }
            Change::LowRank {
                a,
                b,
                scale,
                magnitude,
            } => {
                let product = Product {
                    a,
                    b,
                    scale: *scale,
                    of_table: false,
                };
                let mut out = out.chunks_exact_mut(cols.len());
                let Some(magnitude) = magnitude else {
                    let done = |_, sums: &[f64]| round_all(sums, 1.0, out.next());
                    return product.each_row(rows, cols, base, done);
                };
                // The length of a row is of all its columns.
                let width = a.info.rows_cols().1;
                product.each_row(rows, 0..width, base, |row, sums| {
                    let length = sums.iter().fold(0.0, |sum, x| sum + x * x).sqrt();
                    let factor = f64::from(magnitude[row]) / length;
                    round_all(&sums[cols.clone()], factor, out.next());
                })
            }
        }
    }

    /// Numbers of a tensor that is changed, as they are kept.
    fn read_encoded(
        &self,
        change: &Change,
        kept: Encoding,
        name: &str,
        [rows, cols]: [Range<usize>; 2],
        out: &mut [u8],
    ) -> Result<(), ModelError> {
        let _turn = self.gate.turns.take();
        let width = cols.len();
        let at_once = rows_at_once(width, change.rank()).min(rows.len().max(1));
        let mut numbers = Held::new(at_once * width);
        let row_bytes = width / kept.block_numbers() * kept.block_bytes();
        check_block(name, self.info(name), &rows, &cols, rows.len() * width)?;
        for (at, out) in out.chunks_mut((at_once * row_bytes).max(1)).enumerate() {
            let first = rows.start + at * at_once;
            let some = first..rows.end.min(first + at_once);
            let numbers = &mut numbers[..some.len() * width];
            self.read_kept(kept, name, some.clone(), cols.clone(), numbers)?;
            self.check(kept, name, first, width, numbers)?;
            match kept {
                Encoding::F32 => encode(Dtype::Float32, numbers, out),
                Encoding::F16 => encode(Dtype::Float16, numbers, out),
                Encoding::Bf16 => encode(Dtype::BFloat16, numbers, out),
                // That each is in a block was looked at.
                Encoding::Blocks(format) => rounding::encode(format, numbers, out)
                    .map_err(|wrong| wrong.refused(format, name, first, width))?,
            }
            #[cfg(test)]
            self.gate.spoil_kept(first, some.len(), out);
            if self.gate.is_open() {
                let place = (first, width);
                self.gate
                    .compare(self.number, name, place, kept, (numbers, out));
            }
        }
        Ok(())
    }

    /// The first number that is none as it is kept ends the read: an adapter may be too large for that, or
    /// the base have none there.
    fn check(
        &self,
        kept: Encoding,
        name: &str,
        first_row: usize,
        cols: usize,
        numbers: &[f32],
    ) -> Result<(), ModelError> {
        let limit = limit(kept);
        if numbers
            .iter()
            .fold(true, |all, number| all & (number.abs() < limit))
        {
            return Ok(());
        }
        let found = numbers
            .iter()
            .enumerate()
            .find(|(_, number)| number.is_nan() || number.abs() >= limit);
        let (at, number) = found.unwrap_or((0, &f32::NAN));
        let row = first_row + at / cols.max(1);
        let (change, names) = (self.changes.get(name), [name, self.behind(name)]);
        damaged::check(&*self.base, change, kept, names, row)?;
        self.gate.no_numbers();
        let message = format!(
            "merged into `{name}` it makes {number} in row {row}, which is no {}; it was \
             trained on another base, or its scale is too large",
            kept.kept_as()
        );
        Err(refused(&self.adapter, "", message))
    }
}

impl TensorSource for Merged {
    fn names(&self) -> Vec<&str> {
        let head = self.head.iter().map(|_| HEAD);
        let names = self.base.names().into_iter();
        names
            .filter(|name| *name != HEAD || self.head.is_none())
            .chain(head)
            .collect()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        match &self.head {
            Some(head) if name == HEAD => Some(head),
            Some(_) | None => self.base.info(name),
        }
    }

    fn read_block(
        &self,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        let Some(change) = self.change(name) else {
            return self.base.read_block(self.behind(name), rows, cols, out);
        };
        check_block(name, self.info(name), &rows, &cols, out.len())?;
        if out.is_empty() {
            return Ok(());
        }
        let (first_row, width) = (rows.start, cols.len());
        let base = |rows: Range<usize>, cols: Range<usize>, out: &mut [f32]| {
            self.base.read_block(self.behind(name), rows, cols, out)
        };
        Merged::read_changed(change, [rows, cols], base, out)?;
        self.check(Encoding::F32, name, first_row, width, out)
    }

    /// In pieces, the base's before the product is begun, so that what a thread holds is bounded; what
    /// is read while the gate is open is looked at.
    fn read_kept(
        &self,
        kept: Encoding,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        let Some(change) = self.change(name) else {
            let name = self.behind(name);
            return self.base.read_kept(kept, name, rows, cols, out);
        };
        check_block(name, self.info(name), &rows, &cols, out.len())?;
        let width = cols.len();
        let at_once = rows_at_once(width, change.rank());
        let mut before = Held::new(at_once.min(rows.len()) * width);
        for (at, out) in out.chunks_mut((at_once * width).max(1)).enumerate() {
            let first = rows.start + at * at_once;
            let some = first..rows.end.min(first + at_once);
            let before = &mut before[..out.len()];
            let behind = self.behind(name);
            self.base
                .read_kept(kept, behind, some.clone(), cols.clone(), before)?;
            let before = &*before;
            let base = |rows: Range<usize>, wanted: Range<usize>, out: &mut [f32]| {
                if wanted != cols {
                    return self.base.read_block(behind, rows, wanted, out);
                }
                let from = (rows.start - first) * width;
                out.copy_from_slice(&before[from..from + out.len()]);
                Ok(())
            };
            Merged::read_changed(change, [some.clone(), cols.clone()], base, out)?;
            #[cfg(test)]
            self.gate.spoil(first, width, before, out);
            self.check(Encoding::F32, name, first, width, out)?;
            if !self.gate.is_open() {
                continue;
            }
            let seen = Seen {
                change,
                rows: some,
                cols: cols.clone(),
                in_blocks: self.base.blocks(behind).is_some(),
                before,
                after: out,
            };
            self.gate.look(self.number, name, kept, &seen)?;
        }
        Ok(())
    }

    fn read_as(
        &self,
        dtype: Dtype,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [u8],
    ) -> Result<(), ModelError> {
        match self.change(name) {
            None => self.base.read_as(dtype, self.behind(name), rows, cols, out),
            Some(change) => self.read_encoded(change, Encoding::of(dtype), name, [rows, cols], out),
        }
    }

    fn read_rounded(
        &self,
        format: BlockFormat,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [u8],
    ) -> Result<(), ModelError> {
        match self.change(name) {
            None => {
                let name = self.behind(name);
                self.base.read_rounded(format, name, rows, cols, out)
            }
            Some(change) => {
                self.read_encoded(change, Encoding::Blocks(format), name, [rows, cols], out)
            }
        }
    }

    /// What is changed is expanded.
    fn blocks(&self, name: &str) -> Option<BlockFormat> {
        match self.changes.contains_key(name) {
            true => None,
            false => self.base.blocks(self.behind(name)),
        }
    }

    fn order(&self, name: &str) -> Option<&[u32]> {
        match self.changes.contains_key(name) {
            true => None,
            false => self.base.order(self.behind(name)),
        }
    }

    fn read_blocks(
        &self,
        format: BlockFormat,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [u8],
    ) -> Result<(), ModelError> {
        if self.changes.contains_key(name) {
            return Err(other_type(format, name, self.info(name)));
        }
        self.base
            .read_blocks(format, self.behind(name), rows, cols, out)
    }
}

fn round_all(row: &[f64], factor: f64, out: Option<&mut [f32]>) {
    for (out, number) in out.into_iter().flatten().zip(row) {
        *out = rounded(factor * number);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rounding is what is meant")]
fn rounded(number: f64) -> f32 {
    number as f32
}
