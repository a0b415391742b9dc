//! `boot.json` and `target.json`: what an engine is started with, and what it is told.

use plimsoll_crds::v1alpha1::adapters::AdapterValidationMode;
use plimsoll_crds::v1alpha1::boot::{BootAdapterSlots, BootKvCache, BootSplit, EngineLimits};
use plimsoll_crds::v1alpha1::sleep::SleepSpec;
use plimsoll_crds::v1alpha1::target::{SleepOrder, TargetIdle, TargetSleep};
use plimsoll_crds::v1alpha1::{Boot, InferenceDeployment, ModelFacts, Target, convert};
use plimsoll_planner::{AdapterSlots, Bytes, KvLayout, Limits, Plan, Request};

use super::{dynamic, merged_adapters, model_path};

/// The two documents of an engine.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Documents {
    pub(crate) boot: Boot,
    pub(crate) target: Target,
}

/// What an engine with a split is started with; the revision has no name yet.
pub(crate) fn boot(
    object: &InferenceDeployment,
    model: &ModelFacts,
    request: &Request,
    split: BootSplit,
) -> Boot {
    let Request {
        shape: _,
        backend: _,
        dtype,
        quantization,
        compute: _,
        kv,
        cpu_offload,
        adapters: room,
        limits,
        utilization: _,
        ranks: _,
    } = request;
    let KvLayout {
        dtype: kv_dtype,
        block_size,
        size: _,
    } = *kv;
    let Limits {
        max_model_len,
        max_num_seqs,
        max_num_batched_tokens,
    } = *limits;
    Boot {
        model_path: model_path(object),
        adapters: merged_adapters(object),
        adapter_slots: (*room != AdapterSlots::NONE).then_some(BootAdapterSlots {
            slots: room.slots,
            rank: room.rank,
        }),
        adapter_validation: match object.spec.merged().next().is_none() {
            true => AdapterValidationMode::default(),
            false => object.spec.adapter_validation.mode,
        },
        served_names: served_names(object),
        digest: model.digest.clone(),
        dtype: (*dtype).into(),
        quantization: (*quantization).into(),
        compute_dtype: object.spec.model.quantization.compute_dtype,
        backend: object.spec.backend.resolve(),
        limits: EngineLimits {
            max_model_len,
            max_num_seqs,
            max_num_batched_tokens,
        },
        kv_cache: BootKvCache {
            dtype: kv_dtype.into(),
            block_size,
        },
        cpu_offload_bytes: cpu_offload.map(Bytes::get),
        split,
        revision: String::new(),
    }
}

/// What the engines of a plan are told.
pub(crate) fn target(object: &InferenceDeployment, request: &Request, plan: &Plan) -> Target {
    let made_from = (
        object.metadata.generation.unwrap_or_default(),
        object.spec.memory.gpu_memory_utilization,
    );
    Target {
        adapters: dynamic::adapters(object),
        ..convert::target(request, plan, made_from).with_sleep(&sleep_order(object))
    }
}

/// What engines are told of sleep, whatever they run.
pub(crate) fn sleep_order(object: &InferenceDeployment) -> SleepOrder {
    let sleep = object.spec.sleep.as_ref();
    let asked = sleep.and_then(SleepSpec::asked);
    let idle = |sleep: &SleepSpec| {
        let (after_seconds, level) = (sleep.idle_seconds()?, sleep.level);
        Some(TargetIdle {
            after_seconds,
            level,
        })
    };
    SleepOrder {
        generation: object.metadata.generation.unwrap_or_default(),
        sleep: asked.map(|level| TargetSleep { level }),
        idle: sleep.and_then(idle),
        wake_on_request: sleep.is_some_and(|sleep| sleep.wake_on_request),
    }
}

/// Names that requests may call the model by; the resource's own if none is written.
pub(crate) fn served_names(object: &InferenceDeployment) -> Vec<String> {
    match object.spec.model.served_names.as_slice() {
        [] => object.metadata.name.iter().cloned().collect(),
        names => names.to_vec(),
    }
}
