//! Paged attention of one layer of an 8B model: 32 query and 8 KV heads of 128, blocks of 16 in
//! scattered order.

use std::rc::Rc;

use plimsoll_kernels::attention::{Heads, cuda};
use plimsoll_kernels::gpu::driver::Cuda;
use plimsoll_kernels::gpu::{GpuError, Kind, Memory};
use plimsoll_kernels::kv::KvCache;
use plimsoll_planner::Dtype;

use crate::measure::{Case, Show, copies};
use crate::values;

const QUERY: usize = 32;
const KV: usize = 8;
const DIM: usize = 128;
const BLOCK: usize = 16;
const BF16: Kind = Kind::Number(Dtype::BFloat16);

pub(crate) fn run(cuda: &Rc<Cuda>, show: &mut Show<'_>) -> Result<(), GpuError> {
    for (sequences, context) in [(64, 4096), (16, 16384), (1, 32768)] {
        one(
            cuda,
            &format!("decode/{sequences}x{context}"),
            (sequences, 1, context),
            show,
        )?;
    }
    for tokens in [2048, 8192] {
        one(
            cuda,
            &format!("prefill/{tokens}"),
            (1, tokens, tokens),
            show,
        )?;
    }
    Ok(())
}

fn one(
    cuda: &Rc<Cuda>,
    name: &str,
    (sequences, rows, context): (usize, usize, usize),
    show: &mut Show<'_>,
) -> Result<(), GpuError> {
    let gpu = cuda.gpu();
    let (tokens, blocks) = (sequences * rows, context / BLOCK);
    let shape = KvCache {
        dtype: Dtype::BFloat16,
        blocks: sequences * blocks,
        block_size: BLOCK,
        layers: 1,
        heads: KV,
        head_dim: DIM,
    };
    let heads = Heads {
        query: QUERY,
        layer: 0,
        scale: 1.0 / (DIM as f32).sqrt(),
        sliding_window: None,
    };
    let extent = cuda::Extent {
        sequences,
        tokens,
        most_rows: rows,
        most_context: context,
    };
    let stride = (QUERY + 2 * KV) * DIM;
    let queries = values::bf16(&gpu, tokens * stride)?;
    // What many rows see is worked on for longer than it takes to read.
    let caches = if rows == 1 { copies(shape.bytes()) } else { 1 };
    let caches: Vec<Memory> = (0..caches)
        .map(|_| values::bf16(&gpu, shape.bytes() / 2))
        .collect::<Result<_, _>>()?;
    let tables = values::scattered(&gpu, sequences * blocks)?;
    let word = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let starts: Vec<u32> = (0..=sequences).map(|s| word(s * rows)).collect();
    let starts = values::put(&gpu, &starts)?;
    let contexts = values::put(&gpu, &vec![word(context); sequences])?;
    let mut out = gpu.allocate(tokens * QUERY * DIM * 2)?;
    let needed = cuda::scratch(gpu.card(), &heads, &shape, &extent)?;
    let mut scratch = gpu.allocate(needed * 4)?;
    let out = out.view_mut(BF16);
    let scratch = std::cell::RefCell::new(scratch.view_mut(Kind::F32));
    let batch = cuda::Batch {
        query_start: starts.view(Kind::U32),
        context_len: contexts.view(Kind::U32),
        block_tables: tables.view(Kind::U32),
        table_stride: blocks,
        extent,
    };
    // Row i of a sequence sees context - rows + i + 1 keys.
    let seen = (rows * context - rows * (rows - 1) / 2) as f64 * sequences as f64;
    show(&Case {
        name: name.to_owned(),
        bytes: (sequences * context * KV * DIM * 2 * 2 + tokens * QUERY * DIM * 2 * 2) as f64,
        operations: 4.0 * seen * (QUERY * DIM) as f64,
        run: Box::new(|turn| {
            let queries = cuda::Queries {
                data: queries.view(BF16),
                stride,
            };
            let cache = (caches[turn % caches.len()].view(BF16), &shape);
            cuda::run(
                &gpu,
                queries,
                &heads,
                &batch,
                cache,
                &out,
                &mut scratch.borrow_mut(),
            )
        }),
        prepare: None,
    })
}
