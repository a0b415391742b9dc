//! Which matrices of a model are stored in blocks: rows of alike layers in facts, one entry per layer in
//! the planner.

use plimsoll_planner::{
    BlockCompute, BlockFormat as PlanFormat, LayerBlocks, ModelBlocks, Quantization,
};

use super::ConvertError;
use crate::v1alpha1::facts::{BlockFormat, ModelFacts, StoredBlocks, StoredLayers};
use crate::v1alpha1::model::{ComputeDtype, QuantizationMode};

/// Those of a model's facts.
///
/// # Errors
/// When the rows are not of as many layers as the model has, or more of either than any model has.
pub(super) fn model_blocks(facts: &ModelFacts) -> Result<ModelBlocks, ConvertError> {
    let Some(StoredBlocks {
        embedding,
        head,
        layers,
    }) = &facts.blocks
    else {
        return Ok(ModelBlocks::default());
    };
    let most = plimsoll_planner::limits::LAYERS.most;
    if facts.layers > most || layers.len() > STORED_ROWS_MAX {
        return Err(ConvertError::Facts(format!(
            "blocks.layers has {} rows for {} layers; at most {STORED_ROWS_MAX} for {most}",
            layers.len(),
            facts.layers
        )));
    }
    let counted: u64 = layers.iter().map(|row| u64::from(row.count)).sum();
    if !layers.is_empty() && counted != u64::from(facts.layers) {
        return Err(ConvertError::Facts(format!(
            "blocks.layers has rows of {counted} layers, the model has {}",
            facts.layers
        )));
    }
    let row = |row: &StoredLayers| {
        let &StoredLayers {
            count,
            qkv,
            output,
            gate_up,
            down,
        } = row;
        let layer = LayerBlocks {
            qkv: qkv.map(Into::into),
            output: output.map(Into::into),
            gate_up: gate_up.map(Into::into),
            down: down.map(Into::into),
        };
        std::iter::repeat_n(layer, count as usize)
    };
    Ok(ModelBlocks {
        embedding: embedding.map(Into::into),
        head: head.map(Into::into),
        layers: layers.iter().flat_map(row).collect(),
    })
}

/// Rows of alike layers that facts may have: they travel in a termination message.
pub const STORED_ROWS_MAX: usize = 12;

/// The same for facts; None where nothing is in blocks. There may be more rows than
/// [`STORED_ROWS_MAX`]: such facts are refused.
pub fn stored_blocks(blocks: &ModelBlocks) -> Option<StoredBlocks> {
    if blocks.is_empty() {
        return None;
    }
    let mut rows: Vec<(LayerBlocks, u32)> = Vec::new();
    for layer in &blocks.layers {
        match rows.last_mut() {
            Some((last, count)) if last == layer => *count += 1,
            _ => rows.push((*layer, 1)),
        }
    }
    let row = |(layer, count): (LayerBlocks, u32)| StoredLayers {
        count,
        qkv: layer.qkv.map(Into::into),
        output: layer.output.map(Into::into),
        gate_up: layer.gate_up.map(Into::into),
        down: layer.down.map(Into::into),
    };
    Some(StoredBlocks {
        embedding: blocks.embedding.map(Into::into),
        head: blocks.head.map(Into::into),
        layers: rows.into_iter().map(row).collect(),
    })
}

impl From<BlockFormat> for PlanFormat {
    fn from(format: BlockFormat) -> PlanFormat {
        match format {
            BlockFormat::Q4_0 => PlanFormat::Q4_0,
            BlockFormat::Q4_1 => PlanFormat::Q4_1,
            BlockFormat::Q8_0 => PlanFormat::Q8_0,
        }
    }
}

impl From<PlanFormat> for BlockFormat {
    fn from(format: PlanFormat) -> BlockFormat {
        match format {
            PlanFormat::Q4_0 => BlockFormat::Q4_0,
            PlanFormat::Q4_1 => BlockFormat::Q4_1,
            PlanFormat::Q8_0 => BlockFormat::Q8_0,
        }
    }
}

impl From<ComputeDtype> for BlockCompute {
    fn from(compute: ComputeDtype) -> BlockCompute {
        match compute {
            ComputeDtype::Auto => BlockCompute::Auto,
            ComputeDtype::Int8 => BlockCompute::Int8,
            ComputeDtype::Exact => BlockCompute::Exact,
        }
    }
}

impl From<QuantizationMode> for Quantization {
    fn from(mode: QuantizationMode) -> Quantization {
        match mode {
            QuantizationMode::Auto => Quantization::Auto,
            QuantizationMode::None => Quantization::None,
        }
    }
}
