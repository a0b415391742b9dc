//! The ops around the products and attention, on the rows of an 8B model: 2,048 tokens of a prefill,
//! 64 rows whose next token is drawn, a GiB of memory.

use std::cell::RefCell;
use std::rc::Rc;

use plimsoll_kernels::gpu::driver::Cuda;
use plimsoll_kernels::gpu::{GpuError, Kind};
use plimsoll_kernels::kv::KvCache;
use plimsoll_kernels::sampling::{Params, VocabShard};
use plimsoll_kernels::{
    block_copy, checksum, comm, embedding, poison, rms_norm, rope_kv, sampling, silu_mul,
};
use plimsoll_planner::Dtype;

use crate::measure::{Case, Show};
use crate::values;

const TOKENS: usize = 2048;
const HIDDEN: usize = 4096;
const MLP: usize = 14336;
const VOCABULARY: usize = 128_256;
const BF16: Kind = Kind::Number(Dtype::BFloat16);

pub(crate) fn run(cuda: &Rc<Cuda>, show: &mut Show<'_>) -> Result<(), GpuError> {
    rows(cuda, show)?;
    rotation(cuda, show)?;
    draw(cuda, show)?;
    memory(cuda, show)
}

fn case<'a>(
    name: &str,
    bytes: usize,
    run: impl Fn(usize) -> Result<(), GpuError> + 'a,
) -> Case<'a> {
    Case {
        name: name.to_owned(),
        bytes: bytes as f64,
        operations: 0.0,
        run: Box::new(run),
    }
}

fn rows(cuda: &Rc<Cuda>, show: &mut Show<'_>) -> Result<(), GpuError> {
    let (gpu, cells) = (cuda.gpu(), TOKENS * HIDDEN);
    let x = values::bf16(&gpu, cells)?;
    let weight = values::f32(&gpu, HIDDEN)?;
    let mut stream = values::f32(&gpu, cells)?;
    let mut out = gpu.allocate(cells * 2)?;
    {
        let (stream, out) = (stream.view_mut(Kind::F32), out.view_mut(BF16));
        show(&case(
            "rms_norm+residual/2048",
            cells * (2 + 4 + 4 + 2),
            |_| {
                let (x, weight) = (x.view(BF16), weight.view(Kind::F32));
                rms_norm::cuda::run_residual(&gpu, (TOKENS, HIDDEN), x, &stream, weight, 1e-5, &out)
            },
        ))?;
    }
    let table = values::bf16(&gpu, VOCABULARY * HIDDEN)?;
    let ids = values::scattered(&gpu, TOKENS)?;
    {
        let stream = stream.view_mut(Kind::F32);
        show(&case("embedding/2048", cells * (2 + 4), |_| {
            let table = embedding::cuda::Table {
                data: table.view(BF16),
                first_row: 0,
                rows: VOCABULARY,
                hidden: HIDDEN,
                stride: HIDDEN,
            };
            embedding::cuda::run(&gpu, TOKENS, ids.view(Kind::U32), &table, &stream)
        }))?;
    }
    let gate_up = values::bf16(&gpu, TOKENS * 2 * MLP)?;
    let mut product = gpu.allocate(TOKENS * MLP * 2)?;
    let product = product.view_mut(BF16);
    let shape = silu_mul::cuda::Shape {
        tokens: TOKENS,
        cols: MLP,
        half: MLP,
    };
    show(&case("silu_mul/2048", TOKENS * MLP * 6, |_| {
        silu_mul::cuda::run(&gpu, shape, gate_up.view(BF16), &product)
    }))?;
    let mut other = values::f32(&gpu, cells)?;
    let buffers = RefCell::new([stream.view_mut(Kind::F32), other.view_mut(Kind::F32)]);
    show(&case("all_reduce/2x2048", cells * 2 * (4 + 4), |_| {
        comm::cuda::all_reduce_sum(&gpu, cells, &mut buffers.borrow_mut()[..])
    }))
}

fn rotation(cuda: &Rc<Cuda>, show: &mut Show<'_>) -> Result<(), GpuError> {
    const QUERY: usize = 32;
    let gpu = cuda.gpu();
    let shape = KvCache {
        dtype: Dtype::BFloat16,
        blocks: TOKENS / 16,
        block_size: 16,
        layers: 1,
        heads: 8,
        head_dim: 128,
    };
    let row = (QUERY + 2 * shape.heads) * shape.head_dim;
    let mut qkv = values::bf16(&gpu, TOKENS * row)?;
    let mut cache = gpu.allocate(shape.bytes())?;
    let tables = values::f32(&gpu, TOKENS * shape.head_dim / 2)?;
    let positions: Vec<u32> = (0..2048).collect();
    let slots: Vec<u64> = (0..2048).collect();
    let (positions, slots) = (values::put(&gpu, &positions)?, values::put(&gpu, &slots)?);
    let step = rope_kv::cuda::Step {
        tokens: TOKENS,
        query_heads: QUERY,
        layer: 0,
        norm: None,
        cos: tables.view(Kind::F32),
        sin: tables.view(Kind::F32),
        positions: positions.view(Kind::U32),
        slots: slots.view(Kind::U64),
        last_position: 2047,
        last_slot: 2047,
    };
    let (qkv, cache) = (qkv.view_mut(BF16), cache.view_mut(BF16));
    // q and k are read and written in place, v is read; k and v go to the cache.
    let moved = TOKENS
        * 2
        * (row + (QUERY + shape.heads) * shape.head_dim + 2 * shape.heads * shape.head_dim);
    show(&case("rope_kv/2048", moved, |_| {
        rope_kv::cuda::run(&gpu, &qkv, &step, &cache, &shape)
    }))
}

fn draw(cuda: &Rc<Cuda>, show: &mut Show<'_>) -> Result<(), GpuError> {
    const ROWS: usize = 64;
    let gpu = cuda.gpu();
    let greedy = Params::default();
    let drawn = Params {
        temperature: 0.7,
        top_p: 0.9,
        seed: 7,
        ..greedy
    };
    for (name, params) in [("greedy", greedy), ("top_p", drawn)] {
        let row = sampling::cuda::Row {
            params: &params,
            history: [0; 3],
            position: 5,
        };
        let batch = sampling::cuda::Batch::new(&[row; ROWS])?;
        let width = u32::try_from(VOCABULARY).unwrap_or(0);
        let mut logits = values::f32(&gpu, ROWS * VOCABULARY)?;
        let words = values::put(&gpu, batch.words())?;
        let tokens = gpu.allocate(0)?;
        let mut scratch =
            gpu.allocate(sampling::cuda::scratch_words(gpu.card(), &batch, width) * 8)?;
        let mut exchange = gpu.allocate(sampling::cuda::exchange_words(ROWS, 1) * 8)?;
        let buffers = sampling::cuda::Buffers {
            logits: logits.view_mut(Kind::F32),
            rows: words.view(Kind::U32),
            tokens: tokens.view(Kind::U32),
            scratch: scratch.view_mut(Kind::U64),
            exchange: exchange.view_mut(Kind::U64),
        };
        let shard = VocabShard {
            first: 0,
            rows: width,
        };
        // The logits once: every later look finds them in the second cache.
        show(&case(
            &format!("sampling/{name}/64"),
            ROWS * VOCABULARY * 4,
            |_| sampling::cuda::run(&gpu, &batch, shard, &buffers),
        ))?;
    }
    Ok(())
}

fn memory(cuda: &Rc<Cuda>, show: &mut Show<'_>) -> Result<(), GpuError> {
    const BYTES: usize = 1 << 30;
    let gpu = cuda.gpu();
    let mut memory = values::bf16(&gpu, BYTES / 2)?;
    let mut sum = gpu.allocate(8)?;
    {
        let sum = sum.view_mut(Kind::U64);
        show(&case("checksum/1GiB", BYTES, |_| {
            checksum::cuda::run(&gpu, memory.view(Kind::U8), &sum)
        }))?;
    }
    let shape = KvCache {
        dtype: Dtype::BFloat16,
        blocks: BYTES / (2 << 20),
        block_size: 16,
        layers: 32,
        heads: 8,
        head_dim: 128,
    };
    let half = u32::try_from(shape.blocks / 2).unwrap_or(0);
    let pairs: Vec<(u32, u32)> = (0..half).map(|block| (block, block + half)).collect();
    {
        let cache = memory.view_mut(BF16);
        show(&case("block_copy/256x2MiB", shape.bytes(), |_| {
            block_copy::cuda::run(&gpu, &shape, &pairs, &cache)
        }))?;
    }
    let memory = memory.view_mut(Kind::U8);
    show(&case("poison/1GiB", BYTES, |_| {
        poison::cuda::run(&gpu, &memory)
    }))
}
