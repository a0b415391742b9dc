//! The ops around the products and attention, on the rows of an 8B model: 2,048 tokens of a prefill,
//! 64 rows whose next token is drawn, a GiB of memory.

use std::cell::RefCell;
use std::rc::Rc;

use plimsoll_kernels::gpu::driver::Cuda;
use plimsoll_kernels::gpu::{GpuError, Kind, Memory, TensorMut};
use plimsoll_kernels::kv::KvCache;
use plimsoll_kernels::sampling::{Params, VocabShard};
use plimsoll_kernels::{
    block_copy, checksum, comm, embedding, poison, rms_norm, rope_kv, sampling, silu_mul,
};
use plimsoll_planner::Dtype;

use crate::measure::{Case, Show, copies};
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
        prepare: None,
    }
}

/// As many as a turn needs, when a call goes through `bytes`.
fn turns(
    bytes: usize,
    make: impl Fn() -> Result<Memory, GpuError>,
) -> Result<Vec<Memory>, GpuError> {
    (0..copies(bytes)).map(|_| make()).collect()
}

fn views(memories: &mut [Memory], kind: Kind) -> Vec<TensorMut<'_>> {
    memories
        .iter_mut()
        .map(|memory| memory.view_mut(kind))
        .collect()
}

fn rows(cuda: &Rc<Cuda>, show: &mut Show<'_>) -> Result<(), GpuError> {
    norms(cuda, show)?;
    lookups(cuda, show)?;
    products(cuda, show)?;
    sums(cuda, show)
}

fn norms(cuda: &Rc<Cuda>, show: &mut Show<'_>) -> Result<(), GpuError> {
    let (gpu, cells) = (cuda.gpu(), TOKENS * HIDDEN);
    let bytes = cells * (2 + 4 + 4 + 2);
    let xs = turns(bytes, || values::bf16(&gpu, cells))?;
    let mut streams = turns(bytes, || values::f32(&gpu, cells))?;
    let mut outs = turns(bytes, || gpu.allocate(cells * 2))?;
    let weight = values::f32(&gpu, HIDDEN)?;
    let (streams, outs) = (views(&mut streams, Kind::F32), views(&mut outs, BF16));
    show(&case("rms_norm+residual/2048", bytes, |turn| {
        let turn = turn % xs.len();
        let (x, weight) = (xs[turn].view(BF16), weight.view(Kind::F32));
        let (stream, out) = (&streams[turn], &outs[turn]);
        rms_norm::cuda::run_residual(&gpu, (TOKENS, HIDDEN), x, stream, weight, 1e-5, out)
    }))
}

fn lookups(cuda: &Rc<Cuda>, show: &mut Show<'_>) -> Result<(), GpuError> {
    let (gpu, cells) = (cuda.gpu(), TOKENS * HIDDEN);
    let table = values::bf16(&gpu, VOCABULARY * HIDDEN)?;
    // All ids once; each call looks up those of its turn.
    let ids = values::scattered(&gpu, VOCABULARY)?;
    let bytes = cells * (2 + 4);
    let mut streams = turns(bytes, || gpu.allocate(cells * 4))?;
    let streams = views(&mut streams, Kind::F32);
    show(&case("embedding/2048", bytes, |turn| {
        let table = embedding::cuda::Table {
            data: table.view(BF16),
            first_row: 0,
            rows: VOCABULARY,
            hidden: HIDDEN,
            stride: HIDDEN,
        };
        let first = turn % (VOCABULARY / TOKENS) * TOKENS;
        let ids = ids.view(Kind::U32).part(first, TOKENS);
        let stream = &streams[turn % streams.len()];
        embedding::cuda::run(&gpu, TOKENS, ids, &table, stream)
    }))
}

fn products(cuda: &Rc<Cuda>, show: &mut Show<'_>) -> Result<(), GpuError> {
    let gpu = cuda.gpu();
    let bytes = TOKENS * MLP * 6;
    let gate_up = turns(bytes, || values::bf16(&gpu, TOKENS * 2 * MLP))?;
    let mut products = turns(bytes, || gpu.allocate(TOKENS * MLP * 2))?;
    let products = views(&mut products, BF16);
    let shape = silu_mul::cuda::Shape {
        tokens: TOKENS,
        cols: MLP,
        half: MLP,
    };
    show(&case("silu_mul/2048", bytes, |turn| {
        let turn = turn % products.len();
        silu_mul::cuda::run(&gpu, shape, gate_up[turn].view(BF16), &products[turn])
    }))
}

fn sums(cuda: &Rc<Cuda>, show: &mut Show<'_>) -> Result<(), GpuError> {
    let (gpu, cells) = (cuda.gpu(), TOKENS * HIDDEN);
    let bytes = cells * 2 * (4 + 4);
    let mut of_ranks = [
        turns(bytes, || values::f32(&gpu, cells))?,
        turns(bytes, || values::f32(&gpu, cells))?,
    ];
    let [first, second] = &mut of_ranks;
    let pairs = views(first, Kind::F32)
        .into_iter()
        .zip(views(second, Kind::F32));
    let pairs: Vec<_> = pairs.map(|(a, b)| RefCell::new([a, b])).collect();
    show(&case("all_reduce/2x2048", bytes, |turn| {
        let buffers = &pairs[turn % pairs.len()];
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
    // q and k are read and written in place, v is read; k and v go to the cache.
    let moved = TOKENS
        * 2
        * (row + (QUERY + shape.heads) * shape.head_dim + 2 * shape.heads * shape.head_dim);
    let mut qkvs = turns(moved, || values::bf16(&gpu, TOKENS * row))?;
    let mut caches = turns(moved, || gpu.allocate(shape.bytes()))?;
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
    let (qkvs, caches) = (views(&mut qkvs, BF16), views(&mut caches, BF16));
    show(&case("rope_kv/2048", moved, |turn| {
        let turn = turn % qkvs.len();
        rope_kv::cuda::run(&gpu, &qkvs[turn], &step, &caches[turn], &shape)
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
            bias: [0; 2],
            target: None,
            position: 5,
        };
        let batch = sampling::cuda::Batch::new(&[row; ROWS])?;
        let width = u32::try_from(VOCABULARY).unwrap_or(0);
        let given = values::f32(&gpu, ROWS * VOCABULARY)?;
        let mut logits = gpu.allocate(given.bytes())?;
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
        // As in the engine, the logits were just written, and drawing overwrites them. Counted once:
        // every later look finds them in the second cache.
        show(&Case {
            prepare: Some(Box::new(|| {
                cuda.copy(given.view(Kind::F32), &buffers.logits)
            })),
            ..case(
                &format!("sampling/{name}/64"),
                ROWS * VOCABULARY * 4,
                |_| sampling::cuda::run(&gpu, &batch, shard, &buffers),
            )
        })?;
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
