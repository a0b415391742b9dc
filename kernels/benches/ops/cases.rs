//! The ops on the shapes of SmolLM2-135M (30 layers, so that weights come from memory as they do
//! in use), and one layer's products of an 8B model.

use std::time::Instant;

use plimsoll_kernels::attention::{self, Batch, Heads, Queries};
use plimsoll_kernels::device::{Buffer, Cpu, Device, Pages};
use plimsoll_kernels::kv::KvCache;
use plimsoll_kernels::linear::{self, Input, LinearShape, Weight};
use plimsoll_kernels::pool::Pool;
use plimsoll_kernels::rope::{self, RopeParams, RopeScaling, RopeTables};
use plimsoll_kernels::{rms_norm, rope_kv, silu_mul};
use plimsoll_planner::{Bytes, Dtype, KvDtype};

use crate::{Peak, Row, best};

const LAYERS: usize = 30;
const HIDDEN: usize = 576;
const FFN: usize = 1536;
const QUERY_HEADS: usize = 9;
const KV_HEADS: usize = 3;
const HEAD_DIM: usize = 64;
const QKV: usize = (QUERY_HEADS + 2 * KV_HEADS) * HEAD_DIM;

pub(crate) type Report<'a> = &'a mut dyn FnMut(Row);

pub(crate) fn run(pool: &Pool, filter: &str, report: Report<'_>) {
    let mut wanted = |row: Row| report(row);
    for (name, case) in [
        ("pool", pool_latency as fn(&Pool, Report<'_>)),
        ("linear", linear_layers),
        ("blocks", crate::blocks::run),
        ("head", linear_head),
        ("large", linear_large),
        ("attention", attention_cases),
        ("rms_norm", norms),
        ("silu_mul", silus),
        ("rope_kv", ropes),
        ("sampling", crate::sampling::run),
        ("comm", crate::comm::run),
        ("memory", crate::memory::run),
    ] {
        if name.contains(filter) {
            case(pool, &mut wanted);
        }
    }
}

fn pool_latency(pool: &Pool, report: Report<'_>) {
    const RUNS: usize = 1000;
    let chunks = pool.threads() * 4;
    let seconds = best(|| (0..RUNS).for_each(|_| pool.run(chunks, |_| ()))) / RUNS as f64;
    let name = "pool, an empty op while hot".to_owned();
    report(Row {
        name,
        seconds,
        bytes: 0.0,
        operations: 0.0,
        peak: Peak::F32,
    });
}

/// `copies` weights of one shape, one after the other.
struct Weights {
    shape: LinearShape,
    copies: usize,
    buffer: Buffer,
}

impl Weights {
    fn new(rows: usize, cols: usize, dtype: Dtype, copies: usize) -> Weights {
        let shape = LinearShape::dense(rows, cols, dtype);
        let bytes = Bytes::measured((shape.packed_bytes() * copies) as u64);
        let mut buffer = Cpu.reserve(bytes, Pages::Huge).expect("address space");
        buffer.commit_all().expect("memory");
        // Bits of about 0.5 in every type: no subnormals, no infinities.
        buffer.as_mut_slice::<u8>().fill(0x38);
        Weights {
            shape,
            copies,
            buffer,
        }
    }

    fn get(&self, copy: usize) -> Weight<'_> {
        let bytes = self.shape.packed_bytes();
        let packed = self.buffer.range::<u8>(copy % self.copies * bytes, bytes);
        Weight {
            shape: self.shape,
            packed,
            bias: None,
        }
    }
}

/// Times all copies in turn.
fn products(pool: &Pool, name: &str, weights: &[Weights], tokens: usize, report: Report<'_>) {
    let widest = weights
        .iter()
        .map(|w| w.shape.cols.max(w.shape.rows))
        .max()
        .unwrap_or(0);
    let buffer = |bytes: usize| {
        let bytes = Bytes::measured(bytes as u64);
        let mut buffer = Cpu.reserve(bytes, Pages::Huge).expect("address space");
        buffer.commit_all().expect("memory");
        buffer
    };
    let (mut x, mut out) = (buffer(tokens * widest * 4), buffer(tokens * widest * 4));
    let mut scratch = buffer(tokens.next_multiple_of(16) * widest.next_multiple_of(64) * 2);
    let (x, out) = (x.as_mut_slice::<f32>(), out.as_mut_slice::<f32>());
    x.fill(0.5);
    let scratch = scratch.as_mut_slice::<u8>();
    let seconds = best(|| {
        for copy in 0..weights[0].copies {
            for weight in weights {
                let LinearShape { rows, cols, .. } = weight.shape;
                let x = Input::dense(x, tokens, cols);
                linear::run(
                    pool,
                    x,
                    &weight.get(copy),
                    &mut out[..tokens * rows],
                    scratch,
                );
            }
        }
    });
    let dtype = weights[0].shape.dtype;
    let bytes: usize = weights
        .iter()
        .map(|w| w.shape.packed_bytes() * w.copies)
        .sum();
    let cells: usize = weights
        .iter()
        .map(|w| w.shape.rows * w.shape.cols * w.copies)
        .sum();
    report(Row {
        name: format!("{name} {dtype}, {tokens} tokens"),
        seconds,
        bytes: bytes as f64,
        operations: (cells * 2 * tokens) as f64,
        peak: Peak::of(dtype),
    });
}

fn linear_layers(pool: &Pool, report: Report<'_>) {
    for dtype in [Dtype::BFloat16, Dtype::Float16, Dtype::Float32] {
        let weights = [
            Weights::new(QKV, HIDDEN, dtype, LAYERS),
            Weights::new(HIDDEN, HIDDEN, dtype, LAYERS),
            Weights::new(2 * FFN, HIDDEN, dtype, LAYERS),
            Weights::new(HIDDEN, FFN, dtype, LAYERS),
        ];
        for tokens in [1, 16, 512] {
            products(pool, "linear, 30 layers of 135M", &weights, tokens, report);
        }
    }
}

fn linear_head(pool: &Pool, report: Report<'_>) {
    let weights = [Weights::new(49_152, HIDDEN, Dtype::BFloat16, 1)];
    for tokens in [1, 16] {
        products(pool, "head of 135M", &weights, tokens, report);
    }
}

fn linear_large(pool: &Pool, report: Report<'_>) {
    let weights = [
        Weights::new(6144, 4096, Dtype::BFloat16, 1),
        Weights::new(4096, 14_336, Dtype::BFloat16, 1),
    ];
    for tokens in [1, 16, 512] {
        products(pool, "qkv and down of 8B", &weights, tokens, report);
    }
}

/// Heads of the attention that is timed: layers enough that keys and values come from memory.
#[derive(Clone, Copy)]
struct Model {
    name: &'static str,
    layers: usize,
    query_heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

const SMALL: Model = Model {
    name: "attention",
    layers: LAYERS,
    query_heads: QUERY_HEADS,
    kv_heads: KV_HEADS,
    head_dim: HEAD_DIM,
};

const LARGE: Model = Model {
    name: "attention of 8B",
    layers: 4,
    query_heads: 32,
    kv_heads: 8,
    head_dim: 128,
};

fn attention_cases(pool: &Pool, report: Report<'_>) {
    for dtype in [KvDtype::BFloat16, KvDtype::Int8, KvDtype::Float32] {
        for (sequences, rows, context) in [
            (1, 1, 512),
            (1, 1, 2048),
            (1, 1, 8192),
            (1, 2, 2048),
            (1, 4, 2048),
            (16, 1, 512),
            (16, 1, 2048),
            (1, 64, 2048),
            (1, 512, 512),
            (1, 512, 4096),
        ] {
            attend(pool, SMALL, dtype, (sequences, rows, context), report);
        }
        for (sequences, rows, context) in [(1, 1, 2048), (1, 64, 512)] {
            attend(pool, LARGE, dtype, (sequences, rows, context), report);
        }
    }
}

/// One call per layer, so that keys and values come from where they come from in use. Every layer's
/// work is the same: the time is that of the best call of any, as often as there are layers, which
/// other programs disturb least.
fn attend(
    pool: &Pool,
    model: Model,
    dtype: KvDtype,
    (sequences, rows, context): (usize, usize, usize),
    report: Report<'_>,
) {
    let Model {
        name,
        layers,
        query_heads,
        kv_heads,
        head_dim,
    } = model;
    let blocks = context.div_ceil(16);
    let shape = KvCache {
        dtype,
        blocks: 1 + sequences * blocks,
        block_size: 16,
        layers,
        heads: kv_heads,
        head_dim,
    };
    let mut cache = Cpu
        .reserve(Bytes::measured(shape.bytes() as u64), Pages::Huge)
        .expect("address space");
    cache.commit_all().expect("memory");
    cache.as_mut_slice::<u8>().fill(0x38);
    let small = |n: usize| u32::try_from(n).expect("small numbers");
    let query_start: Vec<u32> = (0..=sequences).map(|s| small(s * rows)).collect();
    let context_len = vec![small(context); sequences];
    let block_tables: Vec<u32> = (1..=sequences * blocks).map(small).collect();
    let batch = Batch {
        query_start: &query_start,
        context_len: &context_len,
        block_tables: &block_tables,
        table_stride: blocks,
    };
    let stride = (query_heads + 2 * kv_heads) * head_dim;
    let data = vec![0.5; sequences * rows * stride];
    let mut out = vec![0.0; sequences * rows * query_heads * head_dim];
    let mut scratch = vec![0.0; 64 * query_heads * 16 * (head_dim + 2)];
    let mut call = |layer| {
        let heads = Heads {
            query: query_heads,
            layer,
            scale: 0.125,
            sliding_window: None,
        };
        let queries = Queries {
            data: &data,
            stride,
        };
        let cache = (cache.as_slice(), &shape);
        attention::run(pool, queries, &heads, &batch, cache, &mut out, &mut scratch);
    };
    let mut least = f64::MAX;
    best(|| {
        for layer in 0..layers {
            let begin = Instant::now();
            call(layer);
            least = least.min(begin.elapsed().as_secs_f64());
        }
    });
    // Rows see on average half of their own chunk.
    let pairs = sequences * rows * (2 * context - rows) / 2;
    let kv = sequences * blocks * shape.block_bytes();
    report(Row {
        name: format!("{name} {dtype}, {sequences} x {rows} rows of {context}"),
        seconds: least * layers as f64,
        bytes: kv as f64,
        operations: (pairs * query_heads * head_dim * 4 * layers) as f64,
        peak: Peak::F32,
    });
}

fn norms(pool: &Pool, report: Report<'_>) {
    for tokens in [1, 16, 512] {
        let (x, weight) = (vec![0.5; tokens * HIDDEN], vec![1.0; HIDDEN]);
        let (mut residual, mut out) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        let seconds =
            best(|| rms_norm::run_residual(pool, &x, &mut residual, &weight, 1e-5, &mut out));
        report(Row {
            name: format!("rms_norm with residual, {tokens} x {HIDDEN}"),
            seconds,
            bytes: (x.len() * 16) as f64,
            operations: (x.len() * 5) as f64,
            peak: Peak::F32,
        });
    }
}

fn silus(pool: &Pool, report: Report<'_>) {
    for tokens in [1, 16, 512] {
        let (gate_up, mut out) = (vec![0.5; tokens * 2 * FFN], vec![0.0; tokens * FFN]);
        let seconds = best(|| silu_mul::run(pool, &gate_up, tokens, FFN, &mut out));
        report(Row {
            name: format!("silu_mul, {tokens} x {FFN}"),
            seconds,
            bytes: (out.len() * 12) as f64,
            operations: (out.len() * 20) as f64,
            peak: Peak::F32,
        });
    }
}

fn ropes(pool: &Pool, report: Report<'_>) {
    let (mut cos, mut sin) = (
        vec![0.0; 4096 * HEAD_DIM / 2],
        vec![0.0; 4096 * HEAD_DIM / 2],
    );
    let params = RopeParams {
        theta: 1e5,
        scaling: RopeScaling::Default,
    };
    rope::table(pool, &params, HEAD_DIM, &mut cos, &mut sin);
    for tokens in [1, 16, 512] {
        let shape = KvCache {
            dtype: Dtype::BFloat16,
            blocks: 40,
            block_size: 16,
            layers: 1,
            heads: KV_HEADS,
            head_dim: HEAD_DIM,
        };
        let (mut qkv, mut cache) = (vec![0.5; tokens * QKV], vec![0; shape.bytes()]);
        let positions: Vec<u32> = (0..).take(tokens).collect();
        let slots: Vec<u64> = (16..).take(tokens).collect();
        let step = rope_kv::Step {
            query_heads: QUERY_HEADS,
            layer: 0,
            norm: None,
            tables: RopeTables {
                cos: &cos,
                sin: &sin,
            },
            positions: &positions,
            slots: &slots,
        };
        let seconds = best(|| rope_kv::run(pool, &mut qkv, &step, &mut cache, &shape));
        report(Row {
            name: format!("rope_kv, {tokens} x {QKV}"),
            seconds,
            bytes: (qkv.len() * 8) as f64,
            operations: (qkv.len() * 3) as f64,
            peak: Peak::F32,
        });
    }
}
