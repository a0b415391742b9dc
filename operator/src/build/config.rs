//! `engine.json`: what the engine is told.

use plimsoll_crds::v1alpha1::engine::{
    EngineConfig, EngineKvCache, EngineLimits, PlanStatus, RankConfig,
};
use plimsoll_crds::v1alpha1::{InferenceDeployment, ModelFacts};
use plimsoll_planner::{Bytes, KvLayout, Limits, Request};

use super::model_path;

/// The configuration of a plan, of a revision that has no name yet.
pub(crate) fn engine_config(
    object: &InferenceDeployment,
    model: &ModelFacts,
    request: &Request,
    plan: PlanStatus,
) -> EngineConfig {
    let Request {
        shape: _,
        backend: _,
        dtype,
        kv,
        limits,
        utilization: _,
        ranks,
    } = request;
    let KvLayout {
        dtype: kv_dtype,
        block_size,
        size,
    } = *kv;
    let Limits {
        max_model_len,
        max_num_seqs,
        max_num_batched_tokens,
    } = *limits;
    let rank = |(capacity, rank): (&plimsoll_planner::RankCapacity, u32)| RankConfig {
        rank,
        quota_bytes: capacity.quota.map(Bytes::get),
        total_bytes: capacity.total.map(Bytes::get),
    };
    EngineConfig {
        model_path: model_path(object),
        served_names: served_names(object),
        digest: model.digest.clone(),
        dtype: (*dtype).into(),
        backend: object.spec.backend.resolve(),
        limits: EngineLimits {
            max_model_len,
            max_num_seqs,
            max_num_batched_tokens,
        },
        gpu_memory_utilization: object.spec.memory.gpu_memory_utilization,
        kv_cache: EngineKvCache {
            dtype: kv_dtype.into(),
            block_size,
            size_bytes: size.map(Bytes::get),
        },
        ranks: ranks.iter().zip(0..).map(rank).collect(),
        plan,
        revision: String::new(),
    }
}

/// Names that requests may call the model by; the resource's own if none is written.
pub(crate) fn served_names(object: &InferenceDeployment) -> Vec<String> {
    match object.spec.model.served_names.as_slice() {
        [] => object.metadata.name.iter().cloned().collect(),
        names => names.to_vec(),
    }
}
