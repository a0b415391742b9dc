//! What a plan is asked for: the model, the limits, and what each rank may use.

use crate::bytes::Bytes;
use crate::model::{Dtype, KvDtype, ModelShape};
use crate::stored::{BlockCompute, InputForm, Kept, Quantization, Rounded};
use crate::tensor::Tensor;

/// Where the ranks compute; decides the activation dtype, the granule and the fixed floors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    Cpu,
    Cuda,
}

/// `spec.memory.kvCache`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvLayout {
    pub dtype: KvDtype,
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

/// Room for adapters that requests choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AdapterSlots {
    /// Adapters at once; 0: none, and the account is empty.
    pub slots: u32,
    /// The largest rank of any of them.
    pub rank: u32,
}

impl AdapterSlots {
    pub const NONE: AdapterSlots = AdapterSlots { slots: 0, rank: 0 };
}

/// What one rank may use: budget = min(quota, utilization x total). At least one is present
/// once `request` is made (see [`crate::cpu_capacity`] for the CPU backend's rule).
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
    /// dtype of the weights in memory, and that in which those in blocks are computed.
    pub dtype: Dtype,
    pub quantization: Quantization,
    pub compute: BlockCompute,
    pub kv: KvLayout,
    /// `spec.memory.cpuOffload`: bytes of weights that each rank may keep in host memory.
    pub cpu_offload: Option<Bytes>,
    /// Room for adapters that are served unmerged.
    pub adapters: AdapterSlots,
    pub limits: Limits,
    pub utilization: Utilization,
    /// One per rank; its length is the tensor-parallel size (1 to 16).
    pub ranks: Vec<RankCapacity>,
}

impl Request {
    /// The tensor-parallel size.
    pub fn rank_count(&self) -> u32 {
        u32::try_from(self.ranks.len()).unwrap_or(u32::MAX)
    }

    /// How its weights lie.
    pub fn kept(&self) -> Kept<'_> {
        self.kept_of(&self.shape)
    }

    /// What the input of its linear layers becomes.
    pub fn input_form(&self) -> InputForm {
        let integers = self.compute.integers(self.dtype);
        let on_cpu = InputForm {
            integers: integers.filter(|_| self.multiplies_blocks()),
            ..InputForm::from(self.dtype)
        };
        match self.backend {
            Backend::Cpu => on_cpu,
            Backend::Cuda => InputForm {
                copied: None,
                integers: None,
            },
        }
    }

    /// Whether any matrix that is multiplied is in blocks: an embedding is only looked up, unless it is
    /// the head, too.
    pub fn multiplies_blocks(&self) -> bool {
        let kept = self.kept();
        let head = match self.shape.tied {
            true => Tensor::Embedding,
            false => Tensor::Head,
        };
        let layers = (0..self.shape.layers).flat_map(|layer| kept.layer(layer).all());
        let mut all = layers.chain([kept.format(head)]);
        all.any(|format| format.is_some())
    }

    /// Matrices that would stay in their bits on one rank: columns in an order of their own are not cut.
    pub fn listed_and_cut(&self) -> usize {
        let kept = self.kept();
        let count = |kept: Kept<'_>| -> usize {
            let blocks = kept.of_file(self.shape.layers);
            let all = (0..self.shape.layers).flat_map(|layer| blocks.layer(layer).all());
            all.flatten().count()
        };
        count(Kept { cut: false, ..kept }) - count(kept)
    }

    /// How those of a part of its model do.
    pub(crate) fn kept_of<'a>(&self, shape: &'a ModelShape) -> Kept<'a> {
        // Those on a card are of a float type.
        let stays = match (self.backend, self.quantization) {
            (Backend::Cpu, Quantization::None) | (Backend::Cuda, _) => false,
            (Backend::Cpu, _) => !shape.blocks.is_empty(),
        };
        let rounded = match self.backend {
            Backend::Cpu => Rounded::of(shape, self.quantization),
            Backend::Cuda => Rounded::default(),
        };
        Kept {
            dtype: self.dtype,
            blocks: stays.then_some(&shape.blocks),
            rounded,
            cut: self.rank_count() > 1,
        }
    }

    /// The smallest device whose share under `utilization` is at least `bytes`.
    pub(crate) fn unshare(&self, bytes: Bytes) -> Bytes {
        let total = (u128::from(bytes.get()) * 1000).div_ceil(self.utilization.0.max(1).into());
        Bytes(u64::try_from(total).unwrap_or(u64::MAX))
    }

    /// Bytes that a rank may use and what decides them; `None` when neither a quota nor the
    /// device's total is known.
    pub fn budget(&self, rank: usize) -> Option<Budget> {
        let RankCapacity { quota, total } = *self.ranks.get(rank)?;
        let quota = quota.map(|bytes| Budget {
            bytes,
            bound: Bound::Quota,
        });
        let share = total.map(|total| Budget {
            bytes: share(total, self.utilization),
            bound: Bound::Utilization { total },
        });
        match (quota, share) {
            (Some(quota), Some(share)) if share.bytes < quota.bytes => Some(share),
            (quota, share) => quota.or(share),
        }
    }
}

/// What one rank may use, and why no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub bytes: Bytes,
    pub bound: Bound,
}

/// Which of the two bounds of a budget is the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// `spec.memory.gpuQuotas[rank].limit`
    Quota,
    /// `spec.memory.gpuMemoryUtilization` of the device's total
    Utilization { total: Bytes },
}

/// A share of `total`, rounded down.
fn share(total: Bytes, utilization: Utilization) -> Bytes {
    let share = u128::from(total.get()) * u128::from(utilization.0) / 1000;
    Bytes(u64::try_from(share).unwrap_or(u64::MAX))
}
