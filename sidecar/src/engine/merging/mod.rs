//! Adapters over their base, and what is held to before anything is served with them.
//!
//! Ranks read the base alone first and answer the probe; then they read over it what adapters change,
//! row by row proved (`adapters::Gate`), and answer once more. So the change of the answers is that of
//! the whole model, with no weights beside those that the plan has.

use std::ops::Range;
use std::sync::Arc;

use plimsoll_planner::{BlockFormat, Dtype, Quantization, Request};

mod beside;

pub(super) use beside::inputs_rounding;
use beside::{Before, distance};

use super::handle::lock;
use super::probe::Probe;
use super::ranks::Failure;
use super::run::Loop;
use crate::adapters::{EMBEDDING, Gate, HEAD, Validated, Validation, Verdict};
use crate::model::{Model, ModelError, Replacement};
use crate::weights::{TensorInfo, TensorSource};

/// What helps where a narrow type loses an adapter: changes alone, nothing that is in force.
pub(super) fn remedies(request: &Request, validation: Validation) -> String {
    let wider = "keep the weights in a wider type (--dtype float32, spec.model.dtype: Float32)";
    let bits = match request.quantization {
        Quantization::Auto | Quantization::None => {
            (request.dtype != Dtype::Float32).then_some(wider)
        }
        Quantization::Int8 => Some(
            "keep the weights in more bits (--quantization auto, spec.model.quantization.mode: Auto)",
        ),
        Quantization::Int4 => Some(
            "keep the weights in more bits (--quantization int8 or auto, \
             spec.model.quantization.mode: Int8 or Auto)",
        ),
        Quantization::Int4By128 => Some(
            "keep the weights in more bits (--quantization int4 without a group size, int8 or auto, \
             spec.model.quantization.mode: Int4 without groupSize, Int8 or Auto)",
        ),
    };
    let beside = "keep it beside the weights (--adapter NAME=FOLDER:dynamic, \
                  spec.adapters[].mode: Dynamic)";
    let report = "or serve it all the same (--adapter-validation report, \
                  spec.adapterValidation.mode: Report)";
    let ways = [
        bits,
        Some("give it a larger scale"),
        Some(beside),
        (validation == Validation::Enforce).then_some(report),
    ];
    let ways: Vec<&str> = ways.into_iter().flatten().collect();
    ways.join(", ")
}

/// A model that is there without its adapters: only what these change is still to be read.
#[derive(Debug)]
struct Over(Arc<Model>);

impl TensorSource for Over {
    fn names(&self) -> Vec<&str> {
        self.0.tensors.names()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.0.tensors.info(name)
    }

    /// A head that an adapter made by untying is read as the embedding, with what those before it
    /// changed there.
    fn is_there(&self, name: &str) -> bool {
        let changes = |name: &str| {
            let mut adapters = self.0.adapters.iter();
            adapters.any(|of| of.changes.iter().any(|changed| changed == name))
        };
        !(changes(name) || name == HEAD && changes(EMBEDDING))
    }

    fn read_block(
        &self,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        self.0.tensors.read_block(name, rows, cols, out)
    }

    fn read_as(
        &self,
        dtype: Dtype,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [u8],
    ) -> Result<(), ModelError> {
        self.0.tensors.read_as(dtype, name, rows, cols, out)
    }

    fn read_rounded(
        &self,
        format: BlockFormat,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [u8],
    ) -> Result<(), ModelError> {
        self.0.tensors.read_rounded(format, name, rows, cols, out)
    }

    fn blocks(&self, name: &str) -> Option<BlockFormat> {
        self.0.tensors.blocks(name)
    }

    fn order(&self, name: &str) -> Option<&[u32]> {
        self.0.tensors.order(name)
    }

    fn read_blocks(
        &self,
        format: BlockFormat,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [u8],
    ) -> Result<(), ModelError> {
        self.0.tensors.read_blocks(format, name, rows, cols, out)
    }
}

impl Loop {
    /// After the load: what the base answers, and then the adapters over it. None where the weights that
    /// were read are whole, or there is no probe.
    pub(super) fn merge_adapters(&mut self) -> Result<Option<Before>, Failure> {
        let model = Arc::clone(&self.shared.model);
        if model.adapters.is_empty() || self.shared.validation == Validation::Off {
            return Ok(None);
        }
        let mut before = None;
        if model.gate.holds_back() {
            lock(&self.shared.progress).stage = "MergingAdapters";
            let Probe { logits, finite, .. } = self.probe()?;
            if finite {
                before = Some(self.ask_beside(logits)?);
            }
            model.gate.let_in();
            let over = Arc::new(Replacement {
                path: model.path.clone(),
                tensors: Box::new(Over(Arc::clone(&model))),
                adapters: model.adapters.clone(),
                gate: Arc::clone(&model.gate),
                digest: model.digest.clone(),
            });
            self.ranks.merge(&over)?.map_err(Failure)?;
            self.ranks.adopt(None)?;
        }
        let verdict = model.gate.verdict(&self.shared.remedies);
        describe(&verdict);
        let wrong = verdict.wrong.clone();
        *lock(&self.shared.adapters) = verdict;
        self.judge(wrong).map_err(Failure)?;
        Ok(before)
    }

    /// The change of the answers: of the probe's first logits, as a share of their length; and whether
    /// the same adapters, unmerged, change them so.
    pub(super) fn compare(&self, before: Option<&Before>, logits: &[f32]) -> Result<(), Failure> {
        let Some(before) = before else {
            return Ok(());
        };
        let change = distance(logits, &before.base);
        lock(&self.shared.adapters).answers_change = Some(change);
        tracing::info!(
            answers_changed_percent = 100.0 * change,
            "a probe of fixed tokens is answered with the adapters"
        );
        let stays = change == 0.0 && !self.shared.model.adapters.iter().all(|of| of.tokens_alone);
        let stays = stays.then(|| {
            "a probe of fixed tokens is answered as without, bit for bit, though weights are changed; serve \
             it all the same (--adapter-validation report, spec.adapterValidation.mode: Report) if that is \
             meant"
                .to_owned()
        });
        let Some(why) = self.hold_beside(before, logits).err().or(stays) else {
            return Ok(());
        };
        let names = self.shared.model.adapters.iter();
        let names: Vec<String> = names.map(|of| format!("`{}`", of.at.name)).collect();
        let why = format!("adapter {}: {why}", names.join(", "));
        lock(&self.shared.adapters).wrong.get_or_insert(why.clone());
        self.judge(Some(why)).map_err(Failure)
    }

    /// A replacement is about to be read.
    pub(super) fn watch(&self, gate: &Gate) {
        if self.shared.validation != Validation::Off {
            gate.begin(false);
        }
    }

    /// What a replacement's adapters became, before it is adopted.
    pub(super) fn verdict_of(&self, gate: &Gate) -> Result<Verdict, String> {
        if self.shared.validation == Validation::Off {
            return Ok(Verdict::default());
        }
        let verdict = gate.verdict(&self.shared.remedies);
        describe(&verdict);
        self.judge(verdict.wrong.clone())?;
        Ok(verdict)
    }

    pub(super) fn judge(&self, wrong: Option<String>) -> Result<(), String> {
        match (wrong, self.shared.validation) {
            (Some(why), Validation::Enforce) => Err(why),
            (Some(why), Validation::Report | Validation::Off) => {
                tracing::warn!("{why}");
                Ok(())
            }
            (None, _) => Ok(()),
        }
    }
}

fn describe(verdict: &Verdict) {
    for of in &verdict.adapters {
        let Validated {
            name,
            rank,
            tensors,
            figures,
        } = of;
        tracing::info!(
            name,
            rank,
            tensors,
            numbers = figures.numbers,
            changed_percent = 100.0 * figures.changed_share(),
            norm_ratio = figures.norm_ratio(),
            lost_percent = 100.0 * figures.lost(),
            "adapter merged"
        );
        if figures.requantised > 0 {
            tracing::warn!(
                name,
                numbers = figures.requantised,
                changed_percent = 100.0 * figures.changed_share(),
                lost_percent = 100.0 * figures.lost(),
                "adapter merged into quantised weights, which were rounded again after it: so many of what \
                 it changes are no longer the file's, and rounding takes so much of what it adds"
            );
        }
    }
}

#[cfg(test)]
mod tests;
