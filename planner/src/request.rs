//! What a plan is asked for: the model, the limits, and what each rank may use.

use crate::bytes::Bytes;
use crate::model::{Dtype, ModelShape};

/// Where the ranks compute; decides the activation dtype, the granule and the fixed floors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    Cpu,
    Cuda,
}

/// `spec.memory.kvCache`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvLayout {
    pub dtype: Dtype,
    /// Tokens per block.
    pub block_size: u32,
    /// Upper bound on the KV bytes of each rank, if one is asked for.
    pub size: Option<Bytes>,
}

/// `spec.limits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// None: the model's own context, shrunk to fit. Some: refused when it cannot fit.
    pub max_model_len: Option<u32>,
    pub max_num_seqs: u32,
    pub max_num_batched_tokens: u32,
}

impl Limits {
    pub const DEFAULT_MAX_NUM_SEQS: u32 = 64;
    pub const DEFAULT_MAX_NUM_BATCHED_TOKENS: u32 = 2048;
}

/// What one rank may use: budget = min(quota, utilization x total). At least one is present
/// once `request` is made (see `plan::cpu_capacity` for the CPU backend's rule).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RankCapacity {
    /// `spec.memory.gpuQuotas[rank].limit`: bounds everything on that GPU.
    pub quota: Option<Bytes>,
    /// Memory of the device, where known.
    pub total: Option<Bytes>,
}

/// `spec.memory.gpuMemoryUtilization` in thousandths, so that requests stay `Eq` and plans exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Utilization(pub u32);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub shape: ModelShape,
    pub backend: Backend,
    /// dtype of the weights in memory.
    pub dtype: Dtype,
    pub kv: KvLayout,
    pub limits: Limits,
    pub utilization: Utilization,
    /// One per rank; its length is the tensor-parallel size (1 to 16).
    pub ranks: Vec<RankCapacity>,
}
