//! Changes to a refused request, and the request with one of them made.

use crate::bytes::Bytes;
use crate::model::{Dtype, KvDtype};
use crate::request::{Backend, RankCapacity, Request, Utilization};
use crate::stored::Quantization;

/// One change to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// `spec.limits.maxModelLen` of at most this many tokens
    MaxModelLen { tokens: u32 },
    /// `spec.memory.kvCache.size` of at least this
    KvCacheSize { bytes: Bytes },
    /// `spec.memory.gpuQuotas[rank].limit` of at least this, for one rank
    Quota { rank: u32, bytes: Bytes },
    /// the same, for all ranks in order
    Quotas { bytes: Vec<Bytes> },
    /// `spec.memory.gpuMemoryUtilization` of at least this
    Utilization { utilization: Utilization },
    /// budgets of at least this for all ranks in order: quotas where there are some, and devices
    /// (CPU: the ranks' parts of the container's memory) of which utilization leaves as much
    Budgets { bytes: Vec<Bytes> },
    /// `spec.memory.cpuOffload` of at least this
    CpuOffload { bytes: Bytes },
    /// `spec.model.dtype`
    ModelDtype { dtype: Dtype },
    /// `spec.model.quantization.mode`
    Quantization { mode: Quantization },
    /// `spec.memory.kvCache.dtype`
    KvDtype { dtype: KvDtype },
    /// `spec.limits.maxNumBatchedTokens` of at most this
    BatchedTokens { tokens: u32 },
    /// `spec.limits.maxNumSeqs` of at most this
    Sequences { sequences: u32 },
    /// `spec.limits.maxAdapters` of at most this
    Adapters { slots: u32 },
    /// `spec.limits.maxAdapterRank` of at most this
    AdapterRank { rank: u32 },
    /// `spec.parallelism.tensorParallelSize`
    TensorParallelSize { ranks: u32 },
    /// the engine container's memory limit of at least this (CPU): no part of a [`Request`], see
    /// [`crate::plan_within`]
    MemoryLimit { bytes: Bytes },
    /// all of these together
    All(Vec<Remedy>),
}

impl Remedy {
    /// The request with this change made.
    pub fn apply(&self, request: &Request) -> Request {
        let mut changed = request.clone();
        match self {
            Remedy::MaxModelLen { tokens } => changed.limits.max_model_len = Some(*tokens),
            Remedy::KvCacheSize { bytes } => changed.kv.size = Some(*bytes),
            Remedy::Quota { rank, bytes } => changed.ranks[*rank as usize].quota = Some(*bytes),
            Remedy::Quotas { bytes } => {
                for (rank, bytes) in changed.ranks.iter_mut().zip(bytes) {
                    rank.quota = Some(*bytes);
                }
            }
            Remedy::Utilization { utilization } => changed.utilization = *utilization,
            Remedy::Budgets { bytes } => {
                for (rank, bytes) in changed.ranks.iter_mut().zip(bytes) {
                    rank.quota = rank.quota.map(|quota| quota.max(*bytes));
                    rank.total = rank.total.map(|total| total.max(request.unshare(*bytes)));
                }
            }
            Remedy::All(remedies) => {
                changed = remedies
                    .iter()
                    .fold(changed, |request, remedy| remedy.apply(&request));
            }
            Remedy::CpuOffload { bytes } => changed.cpu_offload = Some(*bytes),
            Remedy::ModelDtype { dtype } => changed.dtype = *dtype,
            Remedy::Quantization { mode } => changed.quantization = *mode,
            Remedy::KvDtype { dtype } => changed.kv.dtype = *dtype,
            Remedy::BatchedTokens { tokens } => changed.limits.max_num_batched_tokens = *tokens,
            Remedy::Sequences { sequences } => changed.limits.max_num_seqs = *sequences,
            Remedy::Adapters { slots } => changed.adapters.slots = *slots,
            Remedy::AdapterRank { rank } => changed.adapters.rank = *rank,
            Remedy::TensorParallelSize { ranks } => {
                changed.ranks = other_size(request, *ranks).unwrap_or_default();
            }
            Remedy::MemoryLimit { .. } => {}
        }
        changed
    }
}

/// The capacities of another tensor-parallel size, where they follow: equal devices, no quotas.
pub(crate) fn other_size(request: &Request, ranks: u32) -> Option<Vec<RankCapacity>> {
    let first = *request.ranks.first()?;
    let equal = request.ranks.iter().all(|rank| *rank == first);
    let total = first.total.filter(|_| equal && first.quota.is_none())?;
    let total = match request.backend {
        Backend::Cuda => total,
        Backend::Cpu => {
            Bytes(total.saturating_mul(request.rank_count().into()).get() / u64::from(ranks))
        }
    };
    Some(vec![
        RankCapacity {
            quota: None,
            total: Some(total)
        };
        ranks as usize
    ])
}
