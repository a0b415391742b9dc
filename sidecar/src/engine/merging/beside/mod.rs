//! The answers of merged weights, held to those of the base with the same adapters unmerged.
//!
//! Rows are proved as they are read (`adapters::Gate`); this sees what became of them after: where they
//! lie, what is multiplied with them, and on which rank. Nothing of it shares sums with the merge or
//! the slots of adapters (`adapters::Beside`).

use plimsoll_kernels::linear::Products;
use plimsoll_planner::{Dtype, KvDtype, Request};

use crate::adapters::{Apart, Compared, Figures, Validated};
use crate::engine::handle::lock;
use crate::engine::probe::Probe;
use crate::engine::ranks::Failure;
use crate::engine::run::Loop;

/// How far answers may be apart, in roundings. Layers add their own to those before them and make both
/// larger; on the fixtures of all types and splits they are apart by 17.5 at most, of an adapter
/// that changes answers by more than their length (`tests/engine_beside.rs`).
const ROUNDINGS: f64 = 32.0;
/// How far from 1 the change of the answers may be along the change that is meant, beside what roundings
/// have of this one direction among as many as the residual stream has. It finds what is less than
/// roundings are together: another scale, a matrix of many. On the fixtures it is off by 0.01 at most, and
/// with 4 bits by 0.23.
const ALONG: f64 = 0.25;
/// The change of the answers, in roundings, from which on its direction is judged.
const LEAST_ROUNDINGS: f64 = 4.0;

/// What the probe was answered with before the merge.
#[derive(Debug)]
pub(in crate::engine) struct Before {
    pub(super) base: Vec<f32>,
    /// With the adapters unmerged, or why not.
    pub(super) beside: Result<Vec<f32>, String>,
}

/// By what share inputs of products, and keys and values, are rounded: the most of any of them.
pub(in crate::engine) fn inputs_rounding(request: &Request, products: Products) -> f64 {
    let float = |dtype: Dtype| match dtype {
        // Sums are f32, too: of thousands of numbers, in two orders.
        Dtype::Float32 => 2.0_f64.powi(-20),
        Dtype::Float16 => 2.0_f64.powi(-12),
        Dtype::BFloat16 => 2.0_f64.powi(-9),
    };
    let inputs = match products {
        Products::Exact => 0.0,
        Products::Int16 => 2.0_f64.powi(-15),
        Products::Int8 => 2.0_f64.powi(-7),
    };
    let cache = match request.kv.dtype {
        KvDtype::Float32 => float(Dtype::Float32),
        KvDtype::Float16 => float(Dtype::Float16),
        KvDtype::BFloat16 => float(Dtype::BFloat16),
        KvDtype::Int8 => 2.0_f64.powi(-7),
    };
    float(request.dtype).max(inputs).max(cache)
}

/// The figures of all that is merged.
fn together(adapters: &[Validated]) -> Figures {
    let mut all = Figures::default();
    adapters.iter().for_each(|of| all.add(&of.figures));
    all
}

impl Loop {
    /// Ranks have the base alone, which answers so.
    pub(super) fn ask_beside(&mut self, base: Vec<f32>) -> Result<Before, Failure> {
        let beside = match &self.shared.model.beside {
            Err(why) => Err(why.clone()),
            Ok(adapters) => {
                let adapters = std::sync::Arc::clone(adapters);
                self.ranks.lay_beside(Some(&adapters))?.map_err(Failure)?;
                let Probe { finite, logits, .. } = self.probe_first()?;
                self.ranks.lay_beside(None)?.map_err(Failure)?;
                match finite {
                    true => Ok(logits),
                    false => Err("unmerged they make no numbers of a probe".to_owned()),
                }
            }
        };
        Ok(Before { base, beside })
    }

    /// The inner error says why the merged weights, which answer so, are not what was meant.
    pub(super) fn hold_beside(&self, before: &Before, logits: &[f32]) -> Result<(), String> {
        let beside = match &before.beside {
            Ok(beside) => beside,
            Err(why) => {
                tracing::info!(
                    why,
                    "merged weights are not compared with unmerged adapters"
                );
                lock(&self.shared.adapters).compared = Compared::Cannot(why.clone());
                return Ok(());
            }
        };
        let all = together(&lock(&self.shared.adapters).adapters);
        let bound = ROUNDINGS * all.rounding().hypot(self.shared.inputs_rounding);
        let width = f64::from(self.shared.model.shape.hidden).sqrt();
        let change = distance(&before.base, beside);
        let noise = bound / (change.max(f64::MIN_POSITIVE) * width);
        // What rounding takes of the weights' change, the answers' may lack: all of it along the change.
        let along_bound = ALONG + all.lost().min(1.0) + noise;
        let apart = Apart {
            share: distance(logits, beside),
            along: along(&before.base, beside, logits),
            most: farthest(logits, beside),
            bound,
            along_bound,
        };
        lock(&self.shared.adapters).compared = Compared::Apart(apart);
        tracing::info!(
            apart_percent = 100.0 * apart.share,
            bound_percent = 100.0 * bound,
            along = apart.along,
            most = apart.most,
            "merged weights answer a probe as base and adapters side by side"
        );
        // A change of few roundings says nothing of a direction: it is told, and not judged.
        let is_lost_in_noise = change <= LEAST_ROUNDINGS / ROUNDINGS * bound;
        let is_along = is_lost_in_noise || (apart.along - 1.0).abs() <= along_bound;
        // What is no number is no less either.
        let is_near = apart.share <= bound && is_along;
        match is_near {
            true => Ok(()),
            false => Err(otherwise(&apart)),
        }
    }
}

fn otherwise(apart: &Apart) -> String {
    let Apart {
        share,
        along,
        most,
        bound,
        along_bound,
    } = apart;
    format!(
        "a probe of fixed tokens is answered otherwise by the merged weights than by the base with the \
         adapters beside it: logits are {:.4}% of their length apart ({:.4}% by rounding), by {most:.3e} at \
         most, and have {along:.3} of the change that is meant (1 +- {along_bound:.3})",
        100.0 * share,
        100.0 * bound,
    )
}

/// Of two answers, as a share of the length of the second.
pub(super) fn distance(is: &[f32], was: &[f32]) -> f64 {
    let squares = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>();
    let pairs = is.iter().zip(was);
    let apart = squares(&mut pairs.map(|(is, was)| f64::from(*is) - f64::from(*was)));
    let length = squares(&mut was.iter().map(|was| f64::from(*was)));
    (apart / length.max(f64::MIN_POSITIVE)).sqrt()
}

/// Of the way from one answer to another, how far a third has come, measured along it.
fn along(from: &[f32], to: &[f32], is: &[f32]) -> f64 {
    let terms = from.iter().zip(to).zip(is);
    let (mut dot, mut length) = (0.0, 0.0);
    for ((from, to), is) in terms {
        let [from, to, is] = [*from, *to, *is].map(f64::from);
        dot += (is - from) * (to - from);
        length += (to - from) * (to - from);
    }
    match length > 0.0 {
        true => dot / length,
        false => 1.0,
    }
}

/// The largest difference of two logits.
fn farthest(is: &[f32], was: &[f32]) -> f64 {
    let pairs = is.iter().zip(was);
    let apart = pairs.map(|(is, was)| (f64::from(*is) - f64::from(*was)).abs());
    apart.fold(0.0, f64::max)
}

#[cfg(test)]
mod tests;
