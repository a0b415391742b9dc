//! rope_kv on a card against its CPU definition: q and k, and every byte of the cache.

use super::cuda;
use super::refusals;
use super::{HeadNorm, NO_SLOT, Step};
use crate::gpu::Kind;
use crate::gpu::trial::{self, Bench, DTYPES, Failure, Trial, close, rounded, rounding};
use crate::kv::{KvCache, Part};
use crate::rope::{self, RopeParams, RopeScaling, RopeTables};
use plimsoll_planner::Dtype;

const EPS: f32 = 1e-6;
const POSITIONS: usize = 60;
const LAYER: usize = 1;

/// One call.
#[derive(Clone, Copy)]
struct Case {
    shape: KvCache,
    query_heads: usize,
    tokens: usize,
    is_normed: bool,
}

const fn case(dtype: Dtype, head_dim: usize, group: usize, tokens: usize) -> Case {
    let (heads, is_normed) = (3, group % 2 == 1);
    let shape = KvCache {
        dtype,
        blocks: 5,
        block_size: 5,
        layers: 3,
        heads,
        head_dim,
    };
    Case {
        shape,
        query_heads: heads * group,
        tokens,
        is_normed,
    }
}

/// Head sizes in use, and such whose halves are no groups: of one step, two and four.
pub(crate) fn all() -> Vec<Trial> {
    let mut trials = Vec::new();
    for dtype in DTYPES {
        for (head_dim, group, tokens) in [
            (64, 1, 7),
            (64, 4, 1),
            (80, 7, 3),
            (96, 2, 2),
            (128, 4, 25),
            (128, 5, 2),
            (256, 7, 3),
            (16, 1, 4),
            (6, 3, 5),
            (72, 2, 2),
            (254, 1, 3),
            (128, 1, 0),
        ] {
            let case = case(dtype, head_dim, group, tokens);
            let norm = if case.is_normed { "with" } else { "without" };
            trials.push(Trial::new(
                "rope_kv",
                format!(
                    "{dtype} head size {head_dim}, group {group}, {tokens} tokens, {norm} norm"
                ),
                move |bench| rotated(bench, &case),
            ));
        }
    }
    trials.push(Trial::new(
        "rope_kv",
        "what no kernel takes is refused",
        refusals::all,
    ));
    trials
}

fn rotated(bench: &Bench<'_>, case: &Case) -> Result<(), Failure> {
    let Case {
        shape,
        query_heads,
        tokens,
        ..
    } = *case;
    let (dim, kind) = (shape.head_dim, Kind::Number(shape.dtype));
    let heads = query_heads + 2 * shape.heads;
    let mut random = trial::random(dim + tokens);
    let qkv = rounded(shape.dtype, &random.values(tokens * heads * dim));
    let weights = [random.values(dim), random.values(dim)];
    let positions: Vec<u32> = (0..tokens)
        .map(|_| u32::try_from(random.below(POSITIONS)).unwrap_or(0))
        .collect();
    let mut slots: Vec<u64> = (0..(shape.blocks * shape.block_size) as u64).collect();
    random.shuffle(&mut slots);
    slots.truncate(tokens);
    // A row of several fills up the batch.
    if tokens > 1 {
        slots[tokens / 2] = NO_SLOT;
    }
    let mut tables = [
        vec![0.0; POSITIONS * dim / 2],
        vec![0.0; POSITIONS * dim / 2],
    ];
    let params = RopeParams {
        theta: 100.0, // few positions, and yet all angles
        scaling: RopeScaling::Default,
    };
    let [cos, sin] = &mut tables;
    rope::table(&trial::pool(), &params, dim, cos, sin);

    let mut wanted = qkv.clone();
    let norm = HeadNorm {
        query: &weights[0],
        key: &weights[1],
        eps: EPS,
    };
    let step = Step {
        query_heads,
        layer: LAYER,
        norm: case.is_normed.then_some(norm),
        tables: RopeTables { cos, sin },
        positions: &positions,
        slots: &slots,
    };
    super::run(
        &trial::pool(),
        &mut wanted,
        &step,
        &mut vec![0; shape.bytes()],
        &shape,
    );

    let mut rows = bench.put(shape.dtype, &qkv)?;
    let mut cache = bench.room(shape.dtype, shape.bytes() / shape.element_bytes())?;
    let on_card = [
        bench.put(Dtype::Float32, &tables[0])?,
        bench.put(Dtype::Float32, &tables[1])?,
        bench.put(Dtype::Float32, &weights[0])?,
        bench.put(Dtype::Float32, &weights[1])?,
        bench.put_raw(&positions)?,
        bench.put_raw(&slots)?,
    ];
    let kept = slots.iter().copied().filter(|slot| *slot != NO_SLOT);
    let [cos, sin, query, key, at, to] = &on_card;
    let norm = cuda::HeadNorm {
        query: query.view(Kind::F32),
        key: key.view(Kind::F32),
        eps: EPS,
    };
    let step = cuda::Step {
        tokens,
        query_heads,
        layer: LAYER,
        norm: case.is_normed.then_some(norm),
        cos: cos.view(Kind::F32),
        sin: sin.view(Kind::F32),
        positions: at.view(Kind::U32),
        slots: to.view(Kind::U64),
        last_position: positions.iter().copied().max().unwrap_or(0),
        last_slot: kept.clone().max().unwrap_or(0),
    };
    let (view, room) = (rows.view_mut(kind), cache.view_mut(kind));
    cuda::run(bench.gpu, &view, &step, &room, &shape)?;

    let got = bench.take(&rows, shape.dtype, qkv.len())?;
    close("qkv", &got, &wanted, tolerance(case, &wanted))?;
    let row_bytes = shape.row_bytes();
    let rows: Vec<u8> = rows.download(tokens * heads * row_bytes)?;
    let expected = cache_of(case, &slots, &rows);
    trial::same("cache", &cache.download(shape.bytes())?, &expected)
}

/// How far a number of qkv may be off.
///
/// v is copied. Of q and k each side's rotation loses three roundings of the pair's length at most,
/// which a rotation keeps; a norm's two products two more and its scale the CPU's dim / 64 + 8, the
/// card's 13: half the relative error of a sum of 8 to 16 squares a thread, of 5 steps over its group
/// and of a division, and a reciprocal root that is good to two units. Then comes one rounding to the type.
fn tolerance<'a>(case: &Case, wanted: &'a [f32]) -> impl Fn(usize) -> f32 + use<'a> {
    let Case {
        shape,
        query_heads,
        is_normed,
        ..
    } = *case;
    let (dim, rotated) = (shape.head_dim, query_heads + shape.heads);
    let heads = rotated + shape.heads;
    let roundings = if is_normed {
        dim as f32 / 64.0 + 31.0
    } else {
        6.0
    };
    move |at| {
        if at / dim % heads >= rotated {
            return 0.0;
        }
        let partner = if at % dim < dim / 2 {
            at + dim / 2
        } else {
            at - dim / 2
        };
        let length = wanted[at].hypot(wanted[partner]);
        rounding(shape.dtype, wanted[at]) * 1.01 + length * roundings * 6.0e-8
    }
}

/// The cache as it should be: the rows of k and v as they lie in qkv, and poison elsewhere.
fn cache_of(case: &Case, slots: &[u64], rows: &[u8]) -> Vec<u8> {
    let Case {
        shape, query_heads, ..
    } = *case;
    let (heads, row_bytes) = (query_heads + 2 * shape.heads, shape.row_bytes());
    let mut cache = vec![0xFF; shape.bytes()];
    let kept = slots.iter().enumerate();
    for (token, slot) in kept.filter(|(_, slot)| **slot != NO_SLOT) {
        let slot = usize::try_from(*slot).unwrap_or(usize::MAX);
        for (part, first) in [
            (Part::Keys, query_heads),
            (Part::Values, query_heads + shape.heads),
        ] {
            for head in 0..shape.heads {
                let row = &rows[(token * heads + first + head) * row_bytes..][..row_bytes];
                cache[shape.row(slot, LAYER, part, head)].copy_from_slice(row);
            }
        }
    }
    cache
}
