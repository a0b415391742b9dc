//! A request of a card, drawn: small, of every kind that its kernels take.
#![expect(clippy::cast_possible_truncation, reason = "test sizes are small")]

use std::ops::Range;

use plimsoll_planner::scratch::{self, ActivationLayout, CommLayout, WorkspaceLayout};
use plimsoll_planner::weights::{self, WeightLayout};
use plimsoll_planner::{
    AdapterSlots, Architecture, Backend, BlockCompute, Dtype, KvDtype, KvLayout, Limits,
    ModelBlocks, ModelShape, Quantization, RankCapacity, Request, Shard, Utilization,
};

use crate::gpu::trial::{self, DTYPES};
use crate::testing::Random;

/// A request, a cut of it, and the context in force.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) request: Request,
    pub(super) shards: Vec<Shard>,
    pub(super) context: u32,
}

/// Sizes of the largest step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) dtype: Dtype,
    pub(super) hidden: usize,
    pub(super) rows: usize,
    pub(super) sequences: usize,
    pub(super) query: usize,
    pub(super) vocabulary: usize,
}

impl Planned {
    pub(super) fn draw(seed: usize) -> Planned {
        let mut random = trial::random(seed);
        let mut of = |choices: &[u32]| choices[random.below(choices.len())];
        let dtype = DTYPES[seed % DTYPES.len()];
        let ranks = of(&[1, 2, 3]);
        let head_dim = match dtype {
            Dtype::Float32 => of(&[8, 24, 64]),
            Dtype::BFloat16 | Dtype::Float16 => of(&[64, 80]),
        };
        let kv_heads = of(&[1, 2, 3]);
        let sequences = of(&[1, 3, 5]);
        let shape = ModelShape {
            hidden: of(&[40, 64, 136]),
            query_heads: kv_heads * of(&[1, 2, 4]),
            kv_heads,
            head_dim,
            ffn: of(&[8, 64, 200]),
            vocab: of(&[50, 192, 1100, 2500]),
            tied: of(&[0, 1]) == 1,
            context: 1024,
            ..smallest()
        };
        let rows = sequences + of(&[0, 9, 26]);
        let context = of(&[40, 300, 600]).max(rows);
        let cut = |units: u32, random: &mut Random| cut(units, ranks, random);
        let heads = cut(kv_heads, &mut random);
        let columns = cut(shape.ffn.div_ceil(64), &mut random);
        let vocabulary = cut(shape.vocab.div_ceil(64), &mut random);
        let group = shape.group();
        let part = |of: &Range<u32>, unit: u32, most: u32| {
            (of.start * unit).min(most)..(of.end * unit).min(most)
        };
        let shard = |rank: usize| Shard {
            kv_heads: heads[rank].clone(),
            query_heads: part(&heads[rank], group, shape.query_heads),
            mlp_columns: part(&columns[rank], 64, shape.ffn),
            vocab_rows: part(&vocabulary[rank], 64, shape.vocab),
        };
        let shards = (0..ranks as usize).map(shard).collect();
        let mut request = request(shape, (sequences, rows), ranks as usize);
        (request.dtype, request.kv.dtype) = (dtype, of_cache(dtype));
        Planned {
            request,
            shards,
            context,
        }
    }

    pub(super) fn sizes(&self, rank: usize) -> Sizes {
        let (Request { shape, limits, .. }, shard) = (&self.request, &self.shards[rank]);
        let size = |count: u32| count as usize;
        Sizes {
            dtype: self.request.dtype,
            hidden: size(shape.hidden),
            rows: size(limits.max_num_batched_tokens),
            sequences: size(limits.max_num_seqs),
            query: size(shard.query_head_count()),
            vocabulary: size(shard.vocab_row_count()),
        }
    }

    pub(super) fn activations(&self, rank: usize) -> ActivationLayout {
        scratch::activations(&self.request, &self.shards[rank])
    }

    pub(super) fn workspaces(&self, rank: usize) -> WorkspaceLayout {
        scratch::workspaces(&self.request, &self.shards[rank], self.context)
    }

    pub(super) fn comm(&self) -> CommLayout {
        let Request { shape, limits, .. } = &self.request;
        scratch::comm(shape, limits, self.request.rank_count())
    }

    pub(super) fn weights(&self, rank: usize) -> WeightLayout {
        let kept = self.request.kept();
        weights::layout(&self.request.shape, &self.shards[rank], kept, rank as u32)
    }
}

/// `units` in as many pieces as there are ranks; some may have none.
fn cut(units: u32, ranks: u32, random: &mut Random) -> Vec<Range<u32>> {
    let mut ends: Vec<u32> = (1..ranks)
        .map(|_| random.below(units as usize + 1) as u32)
        .collect();
    ends.sort_unstable();
    ends.push(units);
    let mut start = 0;
    let piece = |end| {
        let piece = start..end;
        start = end;
        piece
    };
    ends.into_iter().map(piece).collect()
}

fn of_cache(dtype: Dtype) -> KvDtype {
    match dtype {
        Dtype::Float32 => KvDtype::Float32,
        Dtype::BFloat16 => KvDtype::BFloat16,
        Dtype::Float16 => KvDtype::Float16,
    }
}

pub(super) fn smallest() -> ModelShape {
    ModelShape {
        architecture: Architecture::Llama,
        layers: 1,
        hidden: 64,
        query_heads: 1,
        kv_heads: 1,
        head_dim: 64,
        ffn: 64,
        vocab: 64,
        tied: true,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        context: 8192,
        blocks: ModelBlocks::default(),
    }
}

/// On a card, of so many sequences and rows of a step.
pub(super) fn request(shape: ModelShape, (sequences, rows): (u32, u32), ranks: usize) -> Request {
    let capacity = RankCapacity {
        quota: None,
        total: None,
    };
    Request {
        shape,
        backend: Backend::Cuda,
        dtype: Dtype::BFloat16,
        quantization: Quantization::Auto,
        compute: BlockCompute::Auto,
        kv: KvLayout {
            dtype: KvDtype::BFloat16,
            block_size: 16,
            size: None,
        },
        cpu_offload: None,
        adapters: AdapterSlots::NONE,
        limits: Limits {
            max_model_len: None,
            max_num_seqs: sequences,
            max_num_batched_tokens: rows,
        },
        utilization: Utilization(900),
        ranks: vec![capacity; ranks],
    }
}
