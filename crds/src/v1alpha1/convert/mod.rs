//! Between the API's types and the planner's: a spec and a model's facts become a request; a plan
//! becomes status, and the documents that an engine is started with and told.

mod blocks;
mod documents;
mod plan;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use plimsoll_planner::request::Utilization;
use plimsoll_planner::{Bytes, KvLayout, Limits, ModelShape, RankCapacity, Request};

pub use blocks::{STORED_BYTES_MAX, STORED_ROWS_MAX, fit_facts, stored_blocks};
pub use documents::{boot_split, retarget, shards, split_request, target, target_request};
pub use plan::{plan, plan_status};

use super::facts::ModelFacts;
use super::model::QuantizationMode;
use super::quantity::{self, QuantityError};
use super::spec::InferenceDeploymentSpec;

/// Why a document cannot be planned with. Each names the field, what is wrong and the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    #[error("{field}: {source}")]
    Quantity {
        field: String,
        source: QuantityError,
    },
    #[error(
        "spec.memory.gpuQuotas: {rows} rows for spec.parallelism.tensorParallelSize {ranks}; \
         write one row per rank (0 to {last}), or none", last = ranks.saturating_sub(1)
    )]
    QuotaRows { rows: usize, ranks: u32 },
    #[error("{field}: {value} is not between {least} and {most}")]
    OutOfRange {
        field: &'static str,
        value: String,
        least: &'static str,
        most: &'static str,
    },
    #[error(
        "spec.model.quantization.groupSize: {size} with mode {mode:?}; write mode Int4 with 32 or 128, mode \
         Int8 with 32, or leave groupSize out"
    )]
    GroupSize { mode: QuantizationMode, size: u32 },
    #[error("model facts: {0}")]
    Facts(String),
    #[error("plan: {0}")]
    Plan(String),
}

/// The shape of a model, once its facts are found to make sense.
///
/// # Errors
/// A count of zero, KV heads that do not divide the query heads, or figures so large that a
/// product of two would not fit.
pub fn model_shape(facts: &ModelFacts) -> Result<ModelShape, ConvertError> {
    const MOST: u32 = 1 << 26;
    for (name, value) in [
        ("layers", facts.layers),
        ("hiddenSize", facts.hidden_size),
        ("queryHeads", facts.query_heads),
        ("kvHeads", facts.kv_heads),
        ("headDim", facts.head_dim),
        ("intermediateSize", facts.intermediate_size),
        ("vocabularySize", facts.vocabulary_size),
        ("contextLength", facts.context_length),
    ] {
        if value == 0 || value > MOST {
            return Err(ConvertError::Facts(format!(
                "{name} {value} is not between 1 and {MOST}"
            )));
        }
    }
    if !facts.query_heads.is_multiple_of(facts.kv_heads) {
        return Err(ConvertError::Facts(format!(
            "queryHeads {} is not a multiple of kvHeads {}",
            facts.query_heads, facts.kv_heads
        )));
    }
    Ok(ModelShape {
        architecture: facts.architecture.into(),
        layers: facts.layers,
        hidden: facts.hidden_size,
        query_heads: facts.query_heads,
        kv_heads: facts.kv_heads,
        head_dim: facts.head_dim,
        ffn: facts.intermediate_size,
        vocab: facts.vocabulary_size,
        tied: facts.tied,
        qkv_bias: facts.qkv_bias,
        output_bias: facts.output_bias,
        mlp_bias: facts.mlp_bias,
        qk_norm: facts.qk_norm,
        context: facts.context_length,
        blocks: blocks::model_blocks(facts)?,
    })
}

/// What the planner is asked for a spec: quotas as written, device totals not yet known.
///
/// # Errors
/// A quantity that is none, quota rows that do not match the ranks, a number out of its range
/// (the API server's rules refuse these first), or facts that make no sense.
pub fn request(
    spec: &InferenceDeploymentSpec,
    facts: &ModelFacts,
) -> Result<Request, ConvertError> {
    let dtype = spec.model.dtype.resolve(facts.default_dtype).into();
    let size = written(
        "spec.memory.kvCache.size",
        spec.memory.kv_cache.size.as_ref(),
    )?;
    Ok(Request {
        shape: model_shape(facts)?,
        backend: spec.backend.resolve().into(),
        dtype,
        quantization: spec.model.quantization.try_into()?,
        compute: spec.model.quantization.compute_dtype.into(),
        kv: KvLayout {
            dtype: spec.memory.kv_cache.dtype.resolve(dtype),
            block_size: spec.memory.kv_cache.block_size,
            size,
        },
        cpu_offload: written("spec.memory.cpuOffload", spec.memory.cpu_offload.as_ref())?,
        adapters: spec.adapter_slots(),
        limits: Limits {
            max_model_len: spec.limits.max_model_len,
            max_num_seqs: spec.limits.max_num_seqs,
            max_num_batched_tokens: spec.limits.max_num_batched_tokens,
        },
        utilization: utilization(spec.memory.gpu_memory_utilization)?,
        ranks: quotas(spec)?,
    })
}

/// Bytes of a quantity that may be left out.
fn written(field: &str, quantity: Option<&Quantity>) -> Result<Option<Bytes>, ConvertError> {
    quantity
        .map(|size| quantity_bytes(field, &size.0))
        .transpose()
}

/// Bytes of a quantity that the user wrote in `field`.
///
/// # Errors
/// See [`quantity::bytes`].
pub fn quantity_bytes(field: &str, text: &str) -> Result<Bytes, ConvertError> {
    quantity::bytes(text).map_err(|source| ConvertError::Quantity {
        field: field.to_owned(),
        source,
    })
}

fn quotas(spec: &InferenceDeploymentSpec) -> Result<Vec<RankCapacity>, ConvertError> {
    let ranks = spec.parallelism.tensor_parallel_size;
    if ranks == 0 || ranks > 16 {
        return Err(ConvertError::OutOfRange {
            field: "spec.parallelism.tensorParallelSize",
            value: ranks.to_string(),
            least: "1",
            most: "16",
        });
    }
    let rows = &spec.memory.gpu_quotas;
    let mismatch = ConvertError::QuotaRows {
        rows: rows.len(),
        ranks,
    };
    if rows.is_empty() {
        return Ok((0..ranks)
            .map(|_| RankCapacity {
                quota: None,
                total: None,
            })
            .collect());
    }
    if rows.len() != ranks as usize {
        return Err(mismatch);
    }
    (0..ranks)
        .map(|rank| {
            let row = rows
                .iter()
                .find(|row| row.rank == rank)
                .ok_or_else(|| mismatch.clone())?;
            let field = format!("spec.memory.gpuQuotas[rank {rank}].limit");
            Ok(RankCapacity {
                quota: Some(quantity_bytes(&field, &row.limit.0)?),
                total: None,
            })
        })
        .collect()
}

/// A share in thousandths.
fn utilization(share: f64) -> Result<Utilization, ConvertError> {
    if !(0.05..=1.0).contains(&share) {
        return Err(ConvertError::OutOfRange {
            field: "spec.memory.gpuMemoryUtilization",
            value: share.to_string(),
            least: "0.05",
            most: "1",
        });
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 50 and 1000"
    )]
    let thousandths = (share * 1000.0).round() as u32;
    Ok(Utilization(thousandths))
}
