//! attention on a card against its CPU definition.
#![expect(
    clippy::cast_possible_truncation,
    reason = "test sizes are small, and f64 bounds become f32"
)]

use plimsoll_planner::Dtype;

use super::case::{Case, Given, Laid};
use super::cuda::{self, Extent};
use crate::gpu::trial::{self, Bench, Failure, Trial, close, rounded, rounding};
use crate::gpu::{GpuError, Kind, Memory, TensorMut};
use crate::isa::Isa;
use crate::kv::Part;

const BF16: Dtype = Dtype::BFloat16;
const F16: Dtype = Dtype::Float16;
const F32: Dtype = Dtype::Float32;

use Scratch::{Enough, Little, Nothing};

/// How much scratch a trial gives.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scratch {
    Nothing,
    /// What two spans need.
    Little,
    /// All that is of use.
    Enough,
}

/// (new rows, context) of every sequence.
pub(super) type Sequences = &'static [(usize, usize)];

/// What is attended, type, (KV heads, query heads of each), head size, block size, window, scratch.
type Row = (
    &'static str,
    Sequences,
    Dtype,
    (usize, usize),
    usize,
    usize,
    Option<u32>,
    Scratch,
);

/// One token each: contexts around every edge of tiles and warps, and a sequence that has none.
const EDGES: Sequences = &[
    (1, 1),
    (1, 15),
    (1, 16),
    (0, 9),
    (1, 17),
    (1, 33),
    (1, 64),
    (1, 65),
];
/// Several tokens of a sequence at once, up to four tiles of rows.
const FEW: Sequences = &[(3, 3), (1, 40), (9, 49), (0, 0), (5, 16)];
/// Keys that are cut into spans, and beside them some that are not.
const LONG: Sequences = &[(1, 1100), (1, 256), (1, 1), (1, 600), (1, 257)];
/// Some decode, some do not.
const MIXED: Sequences = &[
    (1, 300),
    (40, 41),
    (0, 20),
    (1, 1),
    (3, 60),
    (9, 9),
    (4, 513),
];

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("decode", EDGES, BF16, (2, 4), 128, 16, None, Enough),
    ("decode", EDGES, F16, (1, 7), 64, 5, None, Enough),
    ("decode", EDGES, BF16, (3, 1), 80, 32, None, Enough),
    ("decode", EDGES, F16, (2, 2), 96, 1, Some(16), Enough),
    ("decode", EDGES, BF16, (1, 16), 256, 16, None, Enough),
    ("decode", EDGES, F16, (1, 8), 128, 3, Some(20), Enough),
    ("decode", EDGES, BF16, (1, 2), 64, 128, Some(1), Enough),
    ("decode", EDGES, F16, (1, 3), 80, 16, None, Enough),
    ("decode", EDGES, BF16, (1, 20), 96, 7, None, Enough),
    ("decode", EDGES, F16, (1, 1), 256, 48, Some(33), Enough),
    ("decode", EDGES, F32, (2, 3), 64, 16, None, Enough),
    ("decode", EDGES, F32, (1, 7), 20, 5, Some(17), Enough),
    ("decode", FEW, BF16, (1, 7), 64, 16, None, Enough),
    ("decode", FEW, F16, (2, 4), 128, 8, Some(6), Enough),
    ("decode", LONG, BF16, (1, 3), 64, 16, None, Enough),
    ("decode", LONG, BF16, (1, 3), 64, 16, None, Little),
    ("decode", LONG, BF16, (1, 3), 64, 16, None, Nothing),
    ("decode", LONG, F16, (1, 4), 80, 16, Some(700), Enough),
    ("decode", &[(1, 700)], BF16, (1, 5), 96, 12, None, Enough),
    ("decode", &[(1, 800)], F16, (1, 8), 128, 16, None, Enough),
    ("decode", &[(2, 780), (1, 30)], BF16, (1, 2), 256, 16, Some(520), Enough),
    ("decode", &[(3, 900), (7, 600)], BF16, (2, 9), 64, 32, Some(530), Enough),
    // Whole prompts and chunks behind a prefix, around the edges of tiles of rows and of keys.
    ("prefill", &[(33, 33), (20, 84)], BF16, (1, 4), 128, 16, None, Nothing),
    ("prefill", &[(65, 70)], F16, (1, 2), 128, 16, Some(30), Nothing),
    ("prefill", &[(129, 129), (66, 193)], BF16, (1, 1), 64, 5, None, Nothing),
    ("prefill", &[(19, 100), (37, 37)], F16, (2, 7), 64, 16, Some(40), Nothing),
    ("prefill", &[(43, 64), (22, 65)], F16, (1, 3), 80, 16, None, Nothing),
    ("prefill", &[(9, 20)], BF16, (1, 16), 80, 32, Some(1), Nothing),
    ("prefill", &[(26, 63), (26, 26)], BF16, (1, 5), 96, 3, None, Nothing),
    ("prefill", &[(1, 70)], F16, (1, 66), 96, 1, Some(65), Nothing),
    ("prefill", &[(17, 50), (32, 32)], BF16, (1, 4), 256, 16, None, Nothing),
    ("prefill", &[(33, 34)], F16, (1, 2), 256, 8, Some(19), Nothing),
    ("prefill", &[(33, 40), (1, 7)], F32, (1, 4), 32, 16, None, Nothing),
    ("prefill", &[(20, 50)], F32, (1, 1), 256, 4, Some(9), Nothing),
    // One prompt does not fill the card: its keys are cut.
    ("prefill", &[(70, 700)], BF16, (1, 1), 64, 16, None, Enough),
    ("prefill", &[(20, 640)], F16, (1, 4), 128, 16, Some(560), Enough),
    // The first tile's rows end before the second span begins.
    ("prefill", &[(9, 257), (1, 512)], BF16, (1, 17), 64, 16, None, Enough),
    ("mixed", MIXED, BF16, (1, 4), 64, 16, None, Enough),
    ("mixed", MIXED, F16, (2, 3), 64, 10, Some(33), Nothing),
    ("mixed", MIXED, F32, (2, 3), 64, 16, None, Enough),
];

pub(crate) fn all() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (seed, row) in ROWS.iter().enumerate() {
        let (what, sequences, dtype, (kv_heads, group), head_dim, block_size, window, scratch) =
            *row;
        let given = Given {
            dtype,
            kv_heads,
            group,
            head_dim,
            block_size,
            window,
        };
        let name = format!(
            "{what}, {dtype} {kv_heads} x {group} heads of {head_dim}, blocks of {block_size}, \
             window {window:?}, scratch {scratch:?}: {sequences:?}"
        );
        trials.push(Trial::new("attention", name, move |bench| {
            prove(bench, &case(&given, sequences, seed), scratch)
        }));
    }
    trials.push(Trial::new("attention", "a batch of nothing", nothing));
    trials
}

/// A case whose numbers have `dtype`, with nothing but poison where no row looks.
pub(super) fn case(given: &Given, sequences: &[(usize, usize)], seed: usize) -> Case {
    let mut case = Case::new(given, sequences, &mut trial::random(seed));
    for queries in &mut case.queries {
        *queries = rounded(given.dtype, queries);
    }
    let shape = case.shape;
    for (s, (rows, context)) in sequences.iter().enumerate() {
        let seen = case.first_seen(context - rows);
        for position in 0..seen {
            let entry = &mut case.tables[s * case.stride + position / shape.block_size];
            let slot = *entry as usize * shape.block_size + position % shape.block_size;
            for head in 0..shape.heads {
                for part in [Part::Keys, Part::Values] {
                    case.cache[shape.row(slot, case.heads.layer, part, head)].fill(0xFF);
                }
            }
            // The engine has given blocks away that no row sees.
            if (position + 1).is_multiple_of(shape.block_size) {
                *entry = 0;
            }
        }
    }
    case
}

/// What the card gives on `case` is what the CPU gives, but for rounding.
pub(super) fn prove(bench: &Bench<'_>, case: &Case, scratch: Scratch) -> Result<(), Failure> {
    let dtype = case.shape.dtype;
    let wanted = case.run(Isa::Scalar, 1, &case.whole(), 0);
    let got = on_card(bench, case, scratch)?;
    let exact = case.exact();
    // Weights are rounded to the type before they meet the values: half a unit of their last place,
    // and in f16 of numbers below 2^-14 half the smallest step, for every key (values are below 2).
    let longest = extent(&case.sequences).most_context as f64;
    let (relative, absolute) = match dtype {
        Dtype::Float32 => (0.0, 0.0),
        Dtype::Float16 => (2f64.powi(-11), longest * 2f64.powi(-24)),
        Dtype::BFloat16 => (2f64.powi(-8), 0.0),
    };
    // Both sides may be off by what f32 allows; the result is rounded once more.
    close("out", &got, &wanted, |at| {
        let weights = exact.sizes[at] * relative * 1.01 + absolute;
        (2.0 * exact.bounds[at] + weights) as f32 + rounding(dtype, wanted[at]) * 1.01
    })
}

pub(super) fn extent(sequences: &[(usize, usize)]) -> Extent {
    Extent {
        sequences: sequences.len(),
        tokens: sequences.iter().map(|(rows, _)| rows).sum(),
        most_rows: sequences.iter().map(|(rows, _)| *rows).max().unwrap_or(0),
        most_context: sequences
            .iter()
            .map(|(_, context)| *context)
            .max()
            .unwrap_or(0),
    }
}

/// A batch and its cache in the memory of a card.
pub(super) struct OnCard {
    dtype: Dtype,
    queries: Memory,
    starts: Memory,
    contexts: Memory,
    tables: Memory,
    cache: Memory,
}

impl OnCard {
    pub(super) fn put(bench: &Bench<'_>, case: &Case, laid: &Laid) -> Result<OnCard, GpuError> {
        Ok(OnCard {
            dtype: case.shape.dtype,
            queries: bench.put(case.shape.dtype, &laid.data)?,
            starts: bench.put_raw(&laid.query_start)?,
            contexts: bench.put_raw(&laid.context_len)?,
            tables: bench.put_raw(&laid.tables)?,
            cache: bench.put_rows(&case.cache, case.shape.row_bytes())?,
        })
    }

    /// Launches what `case` says by now; `stride` lies between two query rows.
    pub(super) fn run(
        &self,
        bench: &Bench<'_>,
        case: &Case,
        (extent, stride): (Extent, usize),
        out: &TensorMut<'_>,
        scratch: &mut TensorMut<'_>,
    ) -> Result<(), GpuError> {
        let kind = Kind::Number(self.dtype);
        cuda::run(
            bench.gpu,
            cuda::Queries {
                data: self.queries.view(kind),
                stride,
            },
            &case.heads,
            &cuda::Batch {
                query_start: self.starts.view(Kind::U32),
                context_len: self.contexts.view(Kind::U32),
                block_tables: self.tables.view(Kind::U32),
                table_stride: case.stride,
                extent,
            },
            (self.cache.view(kind), &case.shape),
            out,
            scratch,
        )
    }
}

fn on_card(bench: &Bench<'_>, case: &Case, scratch: Scratch) -> Result<Vec<f32>, Failure> {
    let dtype = case.shape.dtype;
    // Rows begin at multiples of 16 bytes, and what lies between them is not a number.
    let gap = 8 + case.row().next_multiple_of(8) - case.row();
    let laid = case.lay(&case.whole(), gap);
    let extent = extent(&case.sequences);
    let batch = OnCard::put(bench, case, &laid)?;
    let useful = cuda::scratch(bench.gpu.card(), &case.heads, &case.shape, &extent)?;
    let numbers = match scratch {
        Scratch::Nothing => 0,
        Scratch::Little => 2 * extent.tokens * case.heads.query * (case.shape.head_dim + 2),
        Scratch::Enough => useful,
    };
    let mut scratch = bench.room(F32, numbers)?;
    let mut out = bench.room(dtype, laid.tokens * case.row())?;
    batch.run(
        bench,
        case,
        (extent, laid.stride),
        &out.view_mut(Kind::Number(dtype)),
        &mut scratch.view_mut(Kind::F32),
    )?;
    Ok(bench.take(&out, dtype, laid.tokens * case.row())?)
}

/// No sequences, and sequences without rows.
fn nothing(bench: &Bench<'_>) -> Result<(), Failure> {
    let given = Given {
        dtype: BF16,
        kv_heads: 2,
        group: 2,
        head_dim: 64,
        block_size: 16,
        window: None,
    };
    for sequences in [&[] as Sequences, &[(0, 0)], &[(0, 5), (0, 40)]] {
        let case = case(&given, sequences, 1);
        trial::same("numbers", &on_card(bench, &case, Scratch::Enough)?, &[])?;
    }
    Ok(())
}
