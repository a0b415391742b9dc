//! Requests that make no sense, refused before anything is computed; and whether one can be met.

use crate::adapters;
use crate::blocks::BlockFormat;
use crate::bytes::Bytes;
use crate::limits;
use crate::message::quantity;
use crate::model::{KvDtype, ModelShape};
use crate::offload;
use crate::refusal::{Reason, Refusal};
use crate::request::{AdapterSlots, Backend, Budget, Request};
use crate::split::Problem;
use crate::stored::{self, BlockCompute, Quantization};

/// Most ranks of one group.
pub const MOST_RANKS: usize = 16;

/// The budgets of a request that makes sense.
///
/// # Errors
/// A refusal that names the field, its value and what it may be.
pub(crate) fn check(request: &Request) -> Result<Vec<Budget>, Box<Refusal>> {
    model(&request.shape)?;
    sizes(request)?;
    let ranks = request.ranks.len();
    if !(1..=MOST_RANKS).contains(&ranks) {
        return Err(invalid(
            "spec.parallelism.tensorParallelSize",
            format!("{ranks} is not between 1 and {MOST_RANKS}"),
        ));
    }
    if !(50..=1000).contains(&request.utilization.0) {
        return Err(invalid(
            "spec.memory.gpuMemoryUtilization",
            format!(
                "{}.{:03} is not between 0.05 and 1",
                request.utilization.0 / 1000,
                request.utilization.0 % 1000
            ),
        ));
    }
    quantization(request)?;
    block_compute(request)?;
    kv_dtype(request)?;
    cpu_offload(request)?;
    (0..ranks).map(|rank| budget(request, rank)).collect()
}

/// Would a plan be found?
pub(crate) fn fits(request: &Request) -> bool {
    check(request).is_ok_and(|budgets| {
        let budgets = budgets.iter().map(|budget| budget.bytes.get()).collect();
        Problem::new(request, budgets).solvable()
    })
}

fn budget(request: &Request, rank: usize) -> Result<Budget, Box<Refusal>> {
    let capacity = request.ranks[rank];
    let field = format!("spec.memory.gpuQuotas[rank={rank}].limit");
    if capacity.quota.is_some_and(|quota| quota.get() == 0) {
        return Err(invalid(
            &field,
            "0 bytes hold nothing; write a size such as 4Gi".to_owned(),
        ));
    }
    request.budget(rank).ok_or_else(|| {
        let detail = "missing, and the device's memory is not known; write a quota for every rank";
        invalid(&field, detail.to_owned())
    })
}

/// Who asks for fewer bits does not get floats without a word.
fn quantization(request: &Request) -> Result<(), Box<Refusal>> {
    let mode = match request.quantization {
        Quantization::Auto | Quantization::None => return Ok(()),
        mode @ (Quantization::Int8 | Quantization::Int4 | Quantization::Int4By128) => mode.label(),
    };
    let rounded = request.kept().rounded;
    if request.backend == Backend::Cpu
        && request.quantization == Quantization::Int4By128
        && !rounded.is_empty()
        && !rounded.has(BlockFormat::Z4By128)
    {
        let shape = &request.shape;
        return Err(invalid(
            "spec.model.quantization.groupSize",
            format!(
                "128: it divides neither the hidden size {}, the intermediate size {} nor the width of \
                 all heads {}; write 32",
                shape.hidden,
                shape.ffn,
                u64::from(shape.query_heads) * u64::from(shape.head_dim),
            ),
        ));
    }
    let why = match request.backend {
        Backend::Cuda => "weights on a card are of a float type".to_owned(),
        Backend::Cpu if rounded.is_empty() => format!(
            "32 columns of a row share a scale, and they divide neither the hidden size {}, the \
             intermediate size {} nor the head size {}",
            request.shape.hidden, request.shape.ffn, request.shape.head_dim
        ),
        Backend::Cpu => return Ok(()),
    };
    Err(invalid(
        "spec.model.quantization.mode",
        format!("{mode}: {why}; write Auto"),
    ))
}

/// Who asks for integers does not get floats without a word.
fn block_compute(request: &Request) -> Result<(), Box<Refusal>> {
    let asked = match request.compute {
        BlockCompute::Auto | BlockCompute::Exact => return Ok(()),
        _ if request.multiplies_blocks() => return Ok(()),
        BlockCompute::Int8 => "Int8",
        BlockCompute::Int16 => "Int16",
    };
    let why = match (request.backend, request.quantization) {
        (Backend::Cuda, _) => "weights on a card are expanded",
        _ if request.shape.blocks.is_empty() => {
            "the model has no weights in 2 to 8 bits that are computed with as they are (mode Int8 makes \
             some)"
        }
        (Backend::Cpu, Quantization::None) => {
            "spec.model.quantization.mode: None expands the weights"
        }
        (
            Backend::Cpu,
            Quantization::Auto | Quantization::Int8 | Quantization::Int4 | Quantization::Int4By128,
        ) => "only the embedding is in blocks, which is looked up and not multiplied",
    };
    Err(invalid(
        "spec.model.quantization.computeDtype",
        format!("{asked}: {why}; write Auto"),
    ))
}

/// The kernels of a card read floats.
fn kv_dtype(request: &Request) -> Result<(), Box<Refusal>> {
    match (request.backend, request.kv.dtype) {
        (Backend::Cuda, KvDtype::Int8) => Err(invalid(
            "spec.memory.kvCache.dtype",
            "Int8: a card's kernels have no KV cache of integers; write Auto, or use backend CPU"
                .to_owned(),
        )),
        (Backend::Cuda, KvDtype::Float32 | KvDtype::BFloat16 | KvDtype::Float16)
        | (Backend::Cpu, _) => Ok(()),
    }
}

/// An offload that would gain nothing, even on ranks that are alike, is no request that makes sense.
fn cpu_offload(request: &Request) -> Result<(), Box<Refusal>> {
    const FIELD: &str = "spec.memory.cpuOffload";
    let Some(asked) = request.cpu_offload else {
        return Ok(());
    };
    let (layer, least) = offload::least(request);
    let waits = format!(
        "{} layers wait in the rank's own memory",
        offload::RING_SLOTS
    );
    match least {
        Some(least) if asked >= least => Ok(()),
        Some(least) => Err(invalid(
            FIELD,
            format!(
                "{asked} gains nothing: a rank's part of a layer takes {layer}, and {waits}; write \
                 at least {}",
                quantity(least.round_up(Bytes(1 << 20)))
            ),
        )),
        None => Err(invalid(
            FIELD,
            format!(
                "gains nothing for a model of {} layers of {layer}: {waits}; leave it out",
                request.shape.layers
            ),
        )),
    }
}

fn model(shape: &ModelShape) -> Result<(), Box<Refusal>> {
    for (limit, value) in limits::of(shape) {
        between(&format!("model {}", limit.field), value, limit.most)?;
    }
    if let Some(misfit) = stored::misfit(shape) {
        return Err(invalid("model weights", misfit));
    }
    let (query_heads, kv_heads) = (shape.query_heads, shape.kv_heads);
    if !query_heads.is_multiple_of(kv_heads) {
        return Err(invalid(
            "model num_key_value_heads",
            format!("{kv_heads} does not divide num_attention_heads {query_heads}"),
        ));
    }
    Ok(())
}

fn sizes(request: &Request) -> Result<(), Box<Refusal>> {
    let limits = &request.limits;
    between("spec.memory.kvCache.blockSize", request.kv.block_size, 1024)?;
    between("spec.limits.maxNumSeqs", limits.max_num_seqs, 1 << 16)?;
    between(
        "spec.limits.maxNumBatchedTokens",
        limits.max_num_batched_tokens,
        1 << 20,
    )?;
    if let Some(tokens) = limits.max_model_len {
        between("spec.limits.maxModelLen", tokens, limits::CONTEXT.most)?;
        let own = request.shape.context;
        if tokens > own {
            return Err(invalid(
                "spec.limits.maxModelLen",
                format!("{tokens} is more than the model's own context of {own} tokens"),
            ));
        }
    }
    let AdapterSlots { slots, rank } = request.adapters;
    if slots > 0 {
        between("spec.limits.maxAdapters", slots, adapters::SLOTS_MAX)?;
        between("spec.limits.maxAdapterRank", rank, adapters::RANK_MAX)?;
    }
    if request.kv.size.is_some_and(|size| size.get() == 0) {
        return Err(invalid(
            "spec.memory.kvCache.size",
            "0 bytes hold no token".to_owned(),
        ));
    }
    Ok(())
}

fn between(field: &str, value: u32, most: u32) -> Result<(), Box<Refusal>> {
    match (1..=most).contains(&value) {
        true => Ok(()),
        false => Err(invalid(
            field,
            format!("{value} is not between 1 and {most}"),
        )),
    }
}

pub(crate) fn invalid(field: &str, detail: String) -> Box<Refusal> {
    Box::new(Refusal {
        reason: Reason::Invalid {
            field: field.to_owned(),
            detail,
        },
        shards_given: false,
        ranks: Vec::new(),
        remedies: Vec::new(),
    })
}
