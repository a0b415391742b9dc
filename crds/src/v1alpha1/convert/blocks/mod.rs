//! Which matrices of a model are stored in blocks: rows of alike layers in facts, one entry per layer in
//! the planner.

mod listed;

use plimsoll_planner::{
    BlockCompute, BlockFormat as PlanFormat, LayerBlocks, ModelBlocks, Quantization,
};

use super::ConvertError;
use crate::v1alpha1::boot::BootQuantization;
use crate::v1alpha1::facts::{BlockFormat, ModelFacts, StoredBlocks, StoredLayers};
use crate::v1alpha1::model::{ComputeDtype, QuantizationMode, QuantizationSpec};

/// Those of a model's facts.
///
/// # Errors
/// When the rows are not of as many layers as the model has, or more of either than any model has; when
/// an order names other rows, or a row says the same matrix twice.
pub(super) fn model_blocks(facts: &ModelFacts) -> Result<ModelBlocks, ConvertError> {
    let Some(StoredBlocks {
        embedding,
        head,
        layers,
        order,
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
    let rows = layers.iter().map(layer_blocks);
    let rows: Vec<LayerBlocks> = rows.collect::<Result<_, _>>()?;
    let layers = match order {
        Some(order) => ordered(layers, &rows, order)?,
        None => {
            let counts = layers.iter().map(|row| row.count as usize);
            let alike = rows.into_iter().zip(counts);
            alike
                .flat_map(|(row, count)| std::iter::repeat_n(row, count))
                .collect()
        }
    };
    Ok(ModelBlocks {
        embedding: embedding.map(Into::into),
        head: head.map(Into::into),
        layers,
    })
}

/// One row.
fn layer_blocks(row: &StoredLayers) -> Result<LayerBlocks, ConvertError> {
    let &StoredLayers {
        count: _,
        qkv,
        query,
        key,
        value,
        output,
        gate_up,
        gate,
        up,
        down,
        listed: _,
    } = row;
    let parts = [query, key, value];
    if qkv.is_some() && parts.iter().any(Option::is_some) {
        return Err(twice("qkv", "query, key or value"));
    }
    if gate_up.is_some() && (gate.is_some() || up.is_some()) {
        return Err(twice("gateUp", "gate or up"));
    }
    let [query, key, value] = parts.map(|part| qkv.or(part).map(Into::into));
    let [gate, up] = [gate, up].map(|part| gate_up.or(part).map(Into::into));
    Ok(LayerBlocks {
        query,
        key,
        value,
        output: output.map(Into::into),
        gate,
        up,
        down: down.map(Into::into),
        orders: listed::orders(row)?,
    })
}

fn twice(all: &str, parts: &str) -> ConvertError {
    ConvertError::Facts(format!("blocks.layers has {all} beside {parts}"))
}

/// Each layer's row, by its letter; every row as often as it counts.
fn ordered(
    counted: &[StoredLayers],
    rows: &[LayerBlocks],
    order: &str,
) -> Result<Vec<LayerBlocks>, ConvertError> {
    let times = |letter: u8| order.bytes().filter(|of| *of == letter).count();
    let whole = counted
        .iter()
        .zip(b'A'..)
        .all(|(row, letter)| u32::try_from(times(letter)) == Ok(row.count));
    let layers = order.bytes().map(|letter| {
        let at = letter.checked_sub(b'A')?;
        rows.get(usize::from(at)).copied()
    });
    match layers.collect() {
        Some(layers) if whole => Ok(layers),
        _ => Err(ConvertError::Facts(
            "blocks.order does not name each row of blocks.layers as often as it counts".to_owned(),
        )),
    }
}

/// Rows of layers that facts may have, letters of their order, and bytes of it all as JSON: facts travel
/// in a termination message.
pub const STORED_ROWS_MAX: usize = 12;
const STORED_ORDER_MAX: usize = 256;
pub const STORED_BYTES_MAX: usize = 1100;

/// The same for facts; None where nothing is in blocks. They may be more than [`fit_facts`].
pub fn stored_blocks(blocks: &ModelBlocks) -> Option<StoredBlocks> {
    if blocks.is_empty() {
        return None;
    }
    let kinds = kinds(blocks);
    let of = |layer: &LayerBlocks| kinds.iter().position(|(kind, _)| kind == layer);
    let places: Vec<usize> = blocks.layers.iter().filter_map(of).collect();
    let letter = |at: &usize| char::from(b'A'.saturating_add(u8::try_from(*at).unwrap_or(u8::MAX)));
    let order = (!places.is_sorted()).then(|| places.iter().map(letter).collect());
    let row = |&(layer, count): &(LayerBlocks, u32)| {
        let LayerBlocks {
            query,
            key,
            value,
            output,
            gate,
            up,
            down,
            orders: _,
        } = layer;
        let (qkv, gate_up) = (layer.fuses_qkv(), layer.fuses_gate_up());
        let when = |is: bool, format: Option<PlanFormat>| format.filter(|_| is).map(Into::into);
        StoredLayers {
            count,
            qkv: when(qkv, query),
            query: when(!qkv, query),
            key: when(!qkv, key),
            value: when(!qkv, value),
            output: when(true, output),
            gate_up: when(gate_up, gate),
            gate: when(!gate_up, gate),
            up: when(!gate_up, up),
            down: when(true, down),
            listed: listed::of(&layer),
        }
    };
    Some(StoredBlocks {
        embedding: blocks.embedding.map(Into::into),
        head: blocks.head.map(Into::into),
        layers: kinds.iter().map(row).collect(),
        order,
    })
}

/// The kinds of layers, each with how many there are, in the order of their first.
fn kinds(blocks: &ModelBlocks) -> Vec<(LayerBlocks, u32)> {
    let mut kinds: Vec<(LayerBlocks, u32)> = Vec::new();
    for layer in &blocks.layers {
        match kinds.iter_mut().find(|(kind, _)| kind == layer) {
            Some((_, count)) => *count += 1,
            None => kinds.push((*layer, 1)),
        }
    }
    kinds
}

/// The same blocks as far as facts can tell of them: of too many kinds of layers, those that fewest are
/// of go without blocks; all of more layers than an order has letters for.
pub fn fit_facts(mut blocks: ModelBlocks) -> ModelBlocks {
    let mut kinds = kinds(&blocks);
    if kinds.len() > 1 && blocks.layers.len() > STORED_ORDER_MAX {
        blocks.layers.clear();
    }
    // One row is for the layers without any.
    kinds.retain(|(kind, _)| *kind != LayerBlocks::default());
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    kinds.truncate(STORED_ROWS_MAX);
    loop {
        let stored = stored_blocks(&blocks);
        let rows = stored.as_ref().map_or(0, |stored| stored.layers.len());
        // Names and counts, which serialise always.
        let bytes = serde_json::to_string(&stored).unwrap_or_default().len();
        if rows <= STORED_ROWS_MAX && bytes <= STORED_BYTES_MAX || kinds.is_empty() {
            return blocks;
        }
        let kept = kinds.len() - 1;
        kinds.truncate(kept);
        for layer in &mut blocks.layers {
            if !kinds.iter().any(|(kind, _)| kind == layer) {
                *layer = LayerBlocks::default();
            }
        }
    }
}

impl From<BlockFormat> for PlanFormat {
    fn from(format: BlockFormat) -> PlanFormat {
        match format {
            BlockFormat::Q4_0 => PlanFormat::Q4_0,
            BlockFormat::Q4_1 => PlanFormat::Q4_1,
            BlockFormat::Q5_0 => PlanFormat::Q5_0,
            BlockFormat::Q5_1 => PlanFormat::Q5_1,
            BlockFormat::Q8_0 => PlanFormat::Q8_0,
            BlockFormat::Iq4Nl => PlanFormat::Iq4Nl,
            BlockFormat::Q2K => PlanFormat::Q2K,
            BlockFormat::Q3K => PlanFormat::Q3K,
            BlockFormat::Q4K => PlanFormat::Q4K,
            BlockFormat::Q5K => PlanFormat::Q5K,
            BlockFormat::Q6K => PlanFormat::Q6K,
            BlockFormat::Iq4Xs => PlanFormat::Iq4Xs,
            BlockFormat::Z4By32 => PlanFormat::Z4By32,
            BlockFormat::Z4By128 => PlanFormat::Z4By128,
            BlockFormat::Z8By32 => PlanFormat::Z8By32,
        }
    }
}

impl From<PlanFormat> for BlockFormat {
    fn from(format: PlanFormat) -> BlockFormat {
        match format {
            PlanFormat::Q4_0 => BlockFormat::Q4_0,
            PlanFormat::Q4_1 => BlockFormat::Q4_1,
            PlanFormat::Q5_0 => BlockFormat::Q5_0,
            PlanFormat::Q5_1 => BlockFormat::Q5_1,
            PlanFormat::Q8_0 => BlockFormat::Q8_0,
            PlanFormat::Iq4Nl => BlockFormat::Iq4Nl,
            PlanFormat::Q2K => BlockFormat::Q2K,
            PlanFormat::Q3K => BlockFormat::Q3K,
            PlanFormat::Q4K => BlockFormat::Q4K,
            PlanFormat::Q5K => BlockFormat::Q5K,
            PlanFormat::Q6K => BlockFormat::Q6K,
            PlanFormat::Iq4Xs => BlockFormat::Iq4Xs,
            PlanFormat::Z4By32 => BlockFormat::Z4By32,
            PlanFormat::Z4By128 => BlockFormat::Z4By128,
            PlanFormat::Z8By32 => BlockFormat::Z8By32,
        }
    }
}

impl From<ComputeDtype> for BlockCompute {
    fn from(compute: ComputeDtype) -> BlockCompute {
        match compute {
            ComputeDtype::Auto => BlockCompute::Auto,
            ComputeDtype::Int8 => BlockCompute::Int8,
            ComputeDtype::Int16 => BlockCompute::Int16,
            ComputeDtype::Exact => BlockCompute::Exact,
        }
    }
}

impl TryFrom<QuantizationSpec> for Quantization {
    type Error = ConvertError;

    fn try_from(spec: QuantizationSpec) -> Result<Quantization, ConvertError> {
        match (spec.mode, spec.group_size) {
            (QuantizationMode::Auto, None) => Ok(Quantization::Auto),
            (QuantizationMode::None, None) => Ok(Quantization::None),
            (QuantizationMode::Int8, None | Some(32)) => Ok(Quantization::Int8),
            (QuantizationMode::Int4, None | Some(32)) => Ok(Quantization::Int4),
            (QuantizationMode::Int4, Some(128)) => Ok(Quantization::Int4By128),
            (mode, Some(size)) => Err(ConvertError::GroupSize { mode, size }),
        }
    }
}

impl From<BootQuantization> for Quantization {
    fn from(boot: BootQuantization) -> Quantization {
        match boot {
            BootQuantization::Auto => Quantization::Auto,
            BootQuantization::None => Quantization::None,
            BootQuantization::Int8 => Quantization::Int8,
            BootQuantization::Int4 => Quantization::Int4,
            BootQuantization::Int4By128 => Quantization::Int4By128,
        }
    }
}

impl From<Quantization> for BootQuantization {
    fn from(plan: Quantization) -> BootQuantization {
        match plan {
            Quantization::Auto => BootQuantization::Auto,
            Quantization::None => BootQuantization::None,
            Quantization::Int8 => BootQuantization::Int8,
            Quantization::Int4 => BootQuantization::Int4,
            Quantization::Int4By128 => BootQuantization::Int4By128,
        }
    }
}
