//! What the launcher of attention refuses: sizes, types and tensors that no kernel takes.

use plimsoll_planner::Dtype;

use super::Heads;
use super::case::{Case, Given};
use super::cuda::{self, Extent};
use super::trials::{OnCard, case, extent};
use crate::gpu::trial::{Bench, Failure, Trial, refused};
use crate::gpu::{GpuError, Kind};
use crate::kv::KvCache;

const BF16: Dtype = Dtype::BFloat16;
const F16: Dtype = Dtype::Float16;
const F32: Dtype = Dtype::Float32;

pub(crate) fn all() -> Vec<Trial> {
    vec![
        Trial::new("attention", "what no kernel takes is refused", refusals),
        Trial::new("attention", "the largest sizes are counted", largest),
    ]
}

/// A call that is right but for what `change` makes of it.
fn call(
    bench: &Bench<'_>,
    change: impl FnOnce(&mut Case, &mut Extent, &mut usize),
) -> Result<(), GpuError> {
    let given = Given {
        dtype: BF16,
        kv_heads: 2,
        group: 2,
        head_dim: 64,
        block_size: 16,
        window: None,
    };
    let sequences = [(2, 20), (1, 5)];
    let mut case = case(&given, &sequences, 1);
    let laid = case.lay(&case.whole(), 8);
    let (mut extent, mut stride) = (extent(&sequences), laid.stride);
    let row = case.row();
    let batch = OnCard::put(bench, &case, &laid)?;
    let mut out = bench.room(BF16, laid.tokens * row)?;
    let mut scratch = bench.room(F32, 0)?;
    change(&mut case, &mut extent, &mut stride);
    batch.run(
        bench,
        &case,
        (extent, stride),
        &out.view_mut(Kind::Number(BF16)),
        &mut scratch.view_mut(Kind::F32),
    )
}

fn refusals(bench: &Bench<'_>) -> Result<(), Failure> {
    type Change = fn(&mut Case, &mut Extent, &mut usize);
    let unsupported = |error: &GpuError| matches!(error, GpuError::Unsupported { .. });
    let shape = |error: &GpuError| matches!(error, GpuError::Shape { .. });
    let dtype = |error: &GpuError| matches!(error, GpuError::Dtype { .. });
    call(bench, |_, _, _| ())?;
    let changes: [(&str, Change); 20] = [
        ("heads of 72", |case, _, _| case.shape.head_dim = 72),
        ("heads of 32 in 16 bits", |case, _, _| {
            case.shape.head_dim = 32
        }),
        ("5 heads on 2", |case, _, _| case.heads.query = 5),
        ("4 heads on none", |case, _, _| case.shape.heads = 0),
        ("layer 2 of 2", |case, _, _| case.heads.layer = 2),
        ("a window of nothing", |case, _, _| {
            case.heads.sliding_window = Some(0)
        }),
        ("blocks of nothing", |case, _, _| case.shape.block_size = 0),
        ("a table shorter than the context", |case, extent, _| {
            extent.most_context = case.stride * 16 + 1;
        }),
        ("more rows than the context", |_, extent, _| {
            extent.most_rows = 21
        }),
        ("more tokens than rows", |_, extent, _| extent.tokens = 5),
        ("70,000 sequences", |_, extent, _| extent.sequences = 70_000),
        ("a cache of 2^32 rows", |case, _, _| {
            case.shape.blocks = 1 << 25
        }),
        ("queries closer than their rows", |_, _, stride| {
            *stride = 248
        }),
        ("queries between two chunks", |_, _, stride| *stride += 4),
        // Sizes whose products do not fit a word.
        ("no layers", |case, _, _| {
            (case.shape.layers, case.heads.layer) = (0, 0);
        }),
        ("2^63 layers", |case, _, _| case.shape.layers = 1 << 63),
        ("2^63 layers of no heads", |case, extent, _| {
            (case.shape.layers, case.shape.heads, case.heads.query) = (1 << 63, 0, 0);
            (extent.tokens, extent.most_rows) = (0, 0);
        }),
        ("blocks of 2^63", |case, _, _| {
            case.shape.block_size = 1 << 63
        }),
        ("2^62 heads of no rows", |case, extent, _| {
            case.heads.query = 1 << 62;
            (extent.tokens, extent.most_rows) = (0, 0);
        }),
        ("queries 2^63 apart", |_, _, stride| *stride = 1 << 63),
    ];
    for (what, change) in changes {
        refused(what, call(bench, change), unsupported)?;
    }
    let changes: [(&str, Change); 7] = [
        ("a cache that ends early", |case, _, _| {
            case.shape.blocks += 1
        }),
        ("queries that end early", |_, _, stride| *stride += 256),
        ("tables that end early", |case, _, _| case.stride += 8),
        ("starts that end early", |_, extent, _| {
            extent.sequences += 1
        }),
        ("tokens times stride of 2^75", |case, extent, stride| {
            (extent.sequences, extent.tokens) = (65_535, 65_535 << 28);
            (extent.most_rows, extent.most_context) = (1 << 28, 1 << 28);
            (case.stride, *stride) = (1 << 26, 1 << 31);
        }),
        ("a scale of 0", |case, _, _| case.heads.scale = 0.0),
        ("a scale that is no number", |case, _, _| {
            case.heads.scale = f32::NAN
        }),
    ];
    for (what, change) in changes {
        refused(what, call(bench, change), shape)?;
    }
    let f16 = |case: &mut Case, _: &mut Extent, _: &mut usize| case.shape.dtype = F16;
    refused("bf16 queries on a cache in f16", call(bench, f16), dtype)?;
    Ok(())
}

/// The most of everything that is not refused: no product of these sizes may overflow.
fn largest(bench: &Bench<'_>) -> Result<(), Failure> {
    let (most, context) = (65_535, 1 << 30);
    // (query heads, KV heads, rows of a sequence): decoding, a prefill, a prefill of many heads.
    for (query, kv_heads, most_rows) in
        [(64 * most, most, 1), (1, 1, context), (most, most, 1 << 15)]
    {
        let heads = Heads {
            query,
            layer: 0,
            scale: 1.0,
            sliding_window: None,
        };
        let shape = KvCache {
            dtype: BF16,
            blocks: 1,
            block_size: (1 << 30) / kv_heads,
            layers: 1,
            heads: kv_heads,
            head_dim: 256,
        };
        let extent = Extent {
            sequences: most,
            tokens: most * most_rows,
            most_rows,
            most_context: context,
        };
        cuda::scratch(bench.gpu.card(), &heads, &shape, &extent)?;
    }
    Ok(())
}
