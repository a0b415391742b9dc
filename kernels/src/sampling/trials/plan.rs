//! What a plan has for sampling on a card is what the launcher asks of its caller at most.

use plimsoll_planner::card::sampling::BIASES_MAX;
use plimsoll_planner::scratch::workspaces;
use plimsoll_planner::{
    AdapterSlots, Architecture, Backend, BlockCompute, Dtype, KvDtype, KvLayout, Limits,
    ModelBlocks, ModelShape, Quantization, RankCapacity, Request, Shard, Utilization,
};

use crate::gpu::Card;
use crate::gpu::trial::{Bench, Failure, Trial};
use crate::sampling::cuda::{self, Batch, ROW_WORDS};
use crate::sampling::{MAX_LOGPROBS, Params};

pub(super) fn all() -> Vec<Trial> {
    vec![Trial::new(
        "sampling",
        "a plan has room for every batch and little more",
        |bench| {
            for sequences in [1, 7, 64] {
                for ranks in 1..=3 {
                    for (width, context) in [(0, 64), (1000, 300), (49_152, 8192), (128_256, 4096)]
                    {
                        enough(bench, sequences, ranks, (width, context))?;
                    }
                }
            }
            Ok(())
        },
    )]
}

/// Rows that ask for all there is: both searches, penalties over a whole context, biases, candidates.
fn batch(sequences: usize, context: usize) -> Result<Batch, Failure> {
    let params = Params {
        temperature: 0.5,
        top_k: 7,
        top_p: 0.9,
        presence_penalty: 0.1,
        logprobs: Some(MAX_LOGPROBS),
        ..Params::default()
    };
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let row = context + 2 * BIASES_MAX;
    let rows: Vec<cuda::Row<'_>> = (0..sequences)
        .map(|at| {
            let [start, end] = [at * row, at * row + context].map(number);
            cuda::Row {
                params: &params,
                history: [start, start, end],
                bias: [end, number((at + 1) * row)],
                target: None,
                position: 0,
            }
        })
        .collect();
    Ok(Batch::new(&rows)?)
}

fn enough(
    bench: &Bench<'_>,
    sequences: u32,
    ranks: usize,
    (width, context): (u32, u32),
) -> Result<(), Failure> {
    let planned = workspaces(&request(sequences, ranks, width), &shard(width), context);
    let planned = planned.sampling.bytes + planned.sampling_chunks.bytes;
    let batch = batch(sequences as usize, context as usize)?;
    let tokens = sequences as usize * (context as usize + 2 * BIASES_MAX);
    for multiprocessors in [1, 8, 132, 100_000] {
        let card = Card {
            multiprocessors,
            ..bench.gpu.card().clone()
        };
        let taken = 8 * cuda::scratch_words(&card, &batch, width)
            + 8 * cuda::exchange_words(batch.rows(), ranks)
            + 4 * (batch.rows() * ROW_WORDS + tokens);
        let taken = taken as u64;
        let much = multiprocessors == 100_000 && taken * 10 < planned * 9;
        if taken > planned || much {
            return Err(Failure::Wrong(format!(
                "{sequences} rows of {width} ids on {ranks} ranks, contexts of {context}, \
                 {multiprocessors} multiprocessors: {taken} bytes are taken, {planned} planned"
            )));
        }
    }
    Ok(())
}

fn shard(width: u32) -> Shard {
    Shard {
        kv_heads: 0..1,
        query_heads: 0..1,
        mlp_columns: 0..64,
        vocab_rows: 0..width,
    }
}

fn request(sequences: u32, ranks: usize, width: u32) -> Request {
    let shape = ModelShape {
        architecture: Architecture::Llama,
        layers: 1,
        hidden: 64,
        query_heads: 1,
        kv_heads: 1,
        head_dim: 64,
        ffn: 64,
        vocab: width.max(1),
        tied: true,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        context: 8192,
        blocks: ModelBlocks::default(),
    };
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
            max_num_batched_tokens: 64,
        },
        utilization: Utilization(900),
        ranks: vec![capacity; ranks],
    }
}
