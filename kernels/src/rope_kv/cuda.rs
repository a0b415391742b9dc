//! The card's side of rope_kv: which kernel, how many threads to a head, and what is refused.

use crate::gpu::{Arguments, Gpu, GpuError, Kind, Launch, Tensor, TensorMut};
use crate::kv::KvCache;

const OP: &str = "rope_kv";
/// As in rope_kv.cu.
const THREADS: usize = 128;
const MOST_DIM: usize = plimsoll_planner::limits::HEAD_DIM.most as usize;
const MOST_HEADS: usize = 65_535;
/// Pairs that a thread of the fast kernel takes.
const GROUP: usize = 8;

/// RMS norm over each head of q and k: both `[dim]` in f32.
#[derive(Clone, Copy, Debug)]
pub struct HeadNorm<'a> {
    pub query: Tensor<'a>,
    pub key: Tensor<'a>,
    pub eps: f32,
}

/// What happens to the rows of one layer.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    pub tokens: usize,
    /// Query heads of this rank; KV heads, head size and block size are the cache's.
    pub query_heads: usize,
    pub layer: usize,
    pub norm: Option<HeadNorm<'a>>,
    /// `[positions, dim / 2]` in f32
    pub cos: Tensor<'a>,
    pub sin: Tensor<'a>,
    /// Per token: its position in its sequence, u32.
    pub positions: Tensor<'a>,
    /// Per token: block x block_size + offset in the block, u64, or [`super::NO_SLOT`]. No two are the
    /// same slot, or which token stays is left open.
    pub slots: Tensor<'a>,
    /// No position on the device is larger. The launcher holds this number against the tables; that
    /// it is true is the caller's promise, for the launcher cannot read the device.
    pub last_position: u32,
    /// No slot on the device is larger, but [`super::NO_SLOT`]: held against the cache, and promised, as
    /// above.
    pub last_slot: u64,
}

/// Rotates q and k of every row of `qkv` (`[tokens, (query + 2 kv) * dim]`) and writes k and v into
/// `cache`; both of the cache's float type.
///
/// # Errors
/// When a tensor does not fit the shapes, a position or a slot is out of range, or no kernel takes
/// the head size.
pub fn run(
    gpu: &Gpu,
    qkv: &TensorMut<'_>,
    step: &Step<'_>,
    cache: &TensorMut<'_>,
    shape: &KvCache,
) -> Result<(), GpuError> {
    check_sizes(step, shape)?;
    let is_wide = (shape.head_dim / 2).is_multiple_of(GROUP);
    check_tensors(qkv, step, cache, shape, is_wide)?;
    // Threads to a head: a power of two, so that a warp has whole heads.
    let lanes = match is_wide {
        true => (shape.head_dim / 2 / GROUP).next_power_of_two(),
        false => 32,
    };
    let heads = step.query_heads + 2 * shape.heads;
    let small = |size: usize| u32::try_from(size).unwrap_or(u32::MAX); // `check_sizes` bounded them
    let arguments = Arguments::new()
        .write(qkv)
        .write(cache)
        .read(step.cos)
        .read(step.sin)
        .read(step.positions)
        .read(step.slots);
    let arguments = match step.norm {
        Some(norm) => arguments.read(norm.query).read(norm.key).f32(norm.eps),
        None => arguments.null().null().f32(0.0),
    };
    let width = if is_wide { GROUP } else { 1 };
    gpu.launch(&Launch {
        op: OP,
        kernel: &format!("rope_kv_{}_{width}", Kind::suffix(shape.dtype)),
        grid: [
            small(step.tokens),
            small(heads.div_ceil(THREADS / lanes)),
            1,
        ],
        threads: 128,
        shared_bytes: 0,
        arguments: arguments
            .u32(small(step.query_heads))
            .u32(small(shape.heads))
            .u32(small(shape.head_dim))
            .u32(lanes.trailing_zeros())
            .u32(small(shape.block_size))
            .u32(small(step.layer))
            .u64((shape.block_bytes() / shape.element_bytes()) as u64),
    })
}

/// Everything that is a number of the host.
fn check_sizes(step: &Step<'_>, shape: &KvCache) -> Result<(), GpuError> {
    let within = |what, value: usize, is_right: bool, supported: String| match is_right {
        true => Ok(()),
        false => Err(GpuError::Unsupported {
            op: OP,
            what,
            value: value as u64,
            supported,
        }),
    };
    let (dim, slots) = (
        shape.head_dim,
        shape.blocks as u64 * shape.block_size as u64,
    );
    let is_right = (2..=MOST_DIM).contains(&dim) && dim.is_multiple_of(2);
    within(
        "head_dim",
        dim,
        is_right,
        format!("even sizes up to {MOST_DIM}"),
    )?;
    let heads = step.query_heads + 2 * shape.heads;
    let is_right = heads <= MOST_HEADS;
    within(
        "heads of q, k and v",
        heads,
        is_right,
        format!("at most {MOST_HEADS}"),
    )?;
    let most = i32::MAX as usize;
    for (what, value) in [("tokens", step.tokens), ("layers", shape.layers)] {
        within(what, value, value <= most, format!("at most {most}"))?;
    }
    let is_right = step.layer < shape.layers;
    within(
        "layer",
        step.layer,
        is_right,
        format!("layers below {}", shape.layers),
    )?;
    let is_right = (1..=most).contains(&shape.block_size) && slots <= 1 << 32;
    let supported = "1 token and more, in at most 2^32 slots of all blocks".to_owned();
    within("block_size", shape.block_size, is_right, supported)?;
    let rows = step.cos.count() / (dim / 2);
    let is_right = step.tokens == 0 || (step.last_position as usize) < rows;
    let position = step.last_position as usize;
    within(
        "last_position",
        position,
        is_right,
        format!("the {rows} of the tables"),
    )?;
    let is_right = step.tokens == 0 || step.last_slot < slots;
    let slot = usize::try_from(step.last_slot).unwrap_or(usize::MAX);
    within(
        "last_slot",
        slot,
        is_right,
        format!("the {slots} of the cache"),
    )
}

fn check_tensors(
    qkv: &TensorMut<'_>,
    step: &Step<'_>,
    cache: &TensorMut<'_>,
    shape: &KvCache,
    is_wide: bool,
) -> Result<(), GpuError> {
    let kind = Kind::Number(shape.dtype);
    if let Some(dtype) = qkv.as_tensor().dtype()
        && dtype != shape.dtype
    {
        return Err(GpuError::Dtype {
            op: OP,
            what: "qkv",
            dtype,
            supported: "the type of the cache",
        });
    }
    let align = |kind: Kind| if is_wide { 16 } else { kind.bytes() as u64 };
    let row = (step.query_heads + 2 * shape.heads) * shape.head_dim;
    qkv.check(OP, "qkv", kind, step.tokens * row, align(kind))?;
    let numbers = shape.bytes() / shape.element_bytes();
    cache.check(OP, "cache", kind, numbers, align(kind))?;
    for (what, table) in [("cos", step.cos), ("sin", step.sin)] {
        table.check(OP, what, Kind::F32, step.cos.count(), align(Kind::F32))?;
    }
    if let Some(norm) = step.norm {
        for (what, weight) in [("q_norm", norm.query), ("k_norm", norm.key)] {
            weight.check(OP, what, Kind::F32, shape.head_dim, align(Kind::F32))?;
        }
    }
    step.positions
        .check(OP, "positions", Kind::U32, step.tokens, 4)?;
    step.slots.check(OP, "slots", Kind::U64, step.tokens, 8)
}
