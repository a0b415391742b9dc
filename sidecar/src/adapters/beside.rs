//! Merged adapters once more, computed beside the base: what the answers of merged weights are held to.
//!
//! Written apart from what it proves: not the merge's sums, nor the kernel's of slots. Factors are read
//! with the products that need them and kept by nobody, so that they need no memory of the plan's: a
//! piece of each, within what a rank may take while it reads weights
//! (`planner::host::LOADING_RANK_BYTES`), since none is read meanwhile.

use std::collections::HashMap;
use std::ops::Range;

use plimsoll_planner::adapters::Projection;

use super::change::Change;
use super::dynamic::{Pair, pair_of};
use super::held::Held;
use crate::model_error::ModelError;

/// Numbers of a factor that are read at once.
const AT_ONCE: usize = 64 << 10;
/// Ranks wait for each other at each sum, and at this size a slow disk is still in time.
const PAIR_BYTES_MAX: u64 = 256 << 20;

/// Plain adapters of matrices in layers, in the order of the merge.
#[derive(Debug, Default)]
pub struct Beside {
    adapters: Vec<HashMap<(u32, Projection), Pair>>,
}

/// Rows of numbers, and where a matrix has its own in each.
#[derive(Debug)]
pub(crate) struct Rows<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) inputs: usize,
    pub(crate) out: &'a mut [f32],
    pub(crate) stride: usize,
    pub(crate) first: usize,
}

impl Beside {
    /// One more.
    ///
    /// # Errors
    /// Why its answers cannot be computed beside a base.
    pub(super) fn add(
        &mut self,
        name: &str,
        changes: &HashMap<String, Change>,
    ) -> Result<(), String> {
        let mut pairs = HashMap::with_capacity(changes.len());
        let mut names: Vec<&String> = changes.keys().collect();
        names.sort_unstable();
        for tensor in names {
            let (place, pair) = pair_of(tensor, &changes[tensor])
                .map_err(|what| format!("adapter `{name}` has {what} ({tensor})"))?;
            let bytes = pair.numbers().saturating_mul(4);
            if bytes > PAIR_BYTES_MAX {
                return Err(format!(
                    "adapter `{name}`: the factors of {tensor} take {bytes} bytes, and {PAIR_BYTES_MAX} \
                     are read in the time of an answer"
                ));
            }
            pairs.insert(place, pair);
        }
        self.adapters.push(pairs);
        Ok(())
    }

    /// out += scale * B (A x), of those columns of A and rows of B that are a rank's.
    ///
    /// # Errors
    /// Where a file fails.
    pub(crate) fn run(
        &self,
        (layer, projection): (u32, Projection),
        (cols, outputs): (&Range<usize>, &Range<usize>),
        rows: &mut Rows<'_>,
    ) -> Result<(), ModelError> {
        for pairs in &self.adapters {
            if let Some(pair) = pairs.get(&(layer, projection))
                && !cols.is_empty()
                && !outputs.is_empty()
            {
                multiply(pair, (cols, outputs), rows)?;
            }
        }
        Ok(())
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "sums of f64 are added to numbers of f32"
)]
fn multiply(
    pair: &Pair,
    (cols, outputs): (&Range<usize>, &Range<usize>),
    rows: &mut Rows<'_>,
) -> Result<(), ModelError> {
    let rank = pair.rank();
    let tokens = rows.x.len() / rows.inputs.max(1);
    let mut products: Held<f64> = Held::new(tokens * rank);
    let at_once = (AT_ONCE / cols.len()).max(1);
    for first in (0..rank).step_by(at_once) {
        let some = first..rank.min(first + at_once);
        let a = Held::from(pair.a(some.clone(), cols.clone())?);
        for (r, a) in some.zip(a.chunks_exact(cols.len())) {
            for (t, x) in rows.x.chunks_exact(rows.inputs).enumerate() {
                products[t * rank + r] = dot(a, x);
            }
        }
    }
    let at_once = (AT_ONCE / rank).max(1);
    for first in outputs.clone().step_by(at_once) {
        let some = first..outputs.end.min(first + at_once);
        let b = Held::from(pair.b_rows(some.clone())?);
        for (o, b) in some.zip(b.chunks_exact(rank)) {
            let column = rows.first + (o - outputs.start);
            let all = products.chunks_exact(rank);
            for (products, out) in all.zip(rows.out.chunks_exact_mut(rows.stride)) {
                let terms = b.iter().zip(products);
                let sum: f64 = terms.map(|(b, product)| f64::from(*b) * product).sum();
                out[column] += (pair.scale() * sum) as f32;
            }
        }
    }
    Ok(())
}

/// Of as many numbers as `a` has: what pads a share is behind them.
fn dot(a: &[f32], x: &[f32]) -> f64 {
    const LANES: usize = 8;
    let mut lanes = [0.0_f64; LANES];
    for (a, x) in a.chunks(LANES).zip(x.chunks(LANES)) {
        for (lane, (a, x)) in lanes.iter_mut().zip(a.iter().zip(x)) {
            *lane += f64::from(*a) * f64::from(*x);
        }
    }
    lanes.iter().sum()
}
