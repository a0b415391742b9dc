//! Products of codes on a card against the CPU definition: that of the expanded weight.

use half::f16;
use plimsoll_planner::{BlockFormat, Dtype};

use super::super::{self as linear, LinearShape, StoredBlocks};
use super::case::Case;
use super::choice::{Kernel, TILES};
use super::{Bits, CodesShape, Form, Group, pack_blocks};
use crate::gpu::trial::{self, Bench, Failure, Trial, close, rounding};

/// Tokens, rows, columns; and how many columns of the first group are skipped.
type Sizes = (usize, usize, usize, usize);

const DTYPES: [Dtype; 2] = [Dtype::Float16, Dtype::BFloat16];
const BITS: [Bits; 2] = [Bits::Four, Bits::Eight];
const FORMS: [Form; 3] = [Form::Middle, Form::Zero, Form::Minimum];
const GROUPS: [Group; 2] = [Group::Of32, Group::Of128];

/// Sizes around every edge of every kernel.
pub(crate) fn all() -> Vec<Trial> {
    const SKINNY: [Sizes; 8] = [
        (1, 16, 32, 0),
        (1, 259, 160, 32),
        (2, 48, 96, 96),
        (4, 1, 544, 0),
        (8, 17, 2080, 64),
        (9, 130, 64, 0),
        (16, 131, 32, 96),
        (3, 16, 0, 0),
    ];
    const TILED: [Sizes; 7] = [
        (17, 33, 32, 0),
        (64, 31, 576, 64),
        (65, 48, 96, 0),
        (1, 2051, 32, 96),
        (129, 136, 192, 32),
        (300, 8, 160, 0),
        (127, 130, 0, 0),
    ];
    let mut trials = Vec::new();
    let mut at = 0;
    for (dtype, bits) in DTYPES.into_iter().flat_map(|d| BITS.map(|bits| (d, bits))) {
        for (turn, sizes) in SKINNY.into_iter().enumerate() {
            let warps = [8, 4, 16][turn % 3];
            trials.push(trial(
                at,
                dtype,
                bits,
                Some(Kernel::Skinny { warps }),
                sizes,
            ));
            at += 1;
        }
        for tile in TILES {
            for sizes in TILED {
                trials.push(trial(at, dtype, bits, Some(Kernel::Tile(tile)), sizes));
                at += 1;
            }
        }
        for sizes in [(5, 48, 64, 0), (17, 16, 64, 0)] {
            trials.push(trial(at, dtype, bits, None, sizes));
            at += 1;
        }
        let name = format!(
            "codes: {dtype}, {} bits, rows have the same bits alone and in a batch, \
            those of the expanded weight's tiles",
            bits.count()
        );
        trials.push(Trial::new("linear", name, move |bench| {
            same_bits(bench, dtype, bits)
        }));
        // Another form and group for each size the next time.
        at += 1;
    }
    for dtype in DTYPES {
        let name = format!("codes: {dtype}, a file's blocks give the processor's products");
        trials.push(Trial::new("linear", name, move |bench| files(bench, dtype)));
    }
    trials
}

/// Forms, groups, biases and types of the result take turns.
fn trial(at: usize, dtype: Dtype, bits: Bits, kernel: Option<Kernel>, sizes: Sizes) -> Trial {
    let (form, group) = (FORMS[at % 3], GROUPS[at / 3 % 2]);
    let (tokens, rows, cols, skipped) = sizes;
    // In groups of 32 none can be cut.
    let skipped = if group == Group::Of32 { 0 } else { skipped };
    let kind = match kernel {
        None => "as chosen".to_owned(),
        Some(Kernel::Skinny { .. }) => "skinny".to_owned(),
        Some(Kernel::Tile(tile)) => format!("tile {}x{}", tile.tokens(), tile.rows()),
    };
    let (wide, columns) = (bits.count(), group.columns());
    let name = format!(
        "codes: {dtype} {kind}, {wide} bits, {form:?}, {tokens} x {cols} by {rows} in groups of {columns}"
    );
    let shape = CodesShape {
        rows,
        cols,
        bits,
        form,
        group,
        skipped: (skipped > 0).then_some(skipped),
    };
    let out = [dtype, Dtype::Float32][at / 2 % 2];
    Trial::new("linear", name, move |bench| {
        let case = Case::new(bench, dtype, shape, tokens)?;
        let biased = at.is_multiple_of(2);
        let wanted = case.wanted(biased);
        let got = case.run(bench, kernel, biased, out)?;
        let sum = case.sum_error();
        close("out", &got, &wanted, |at| {
            rounding(out, wanted[at]) * 1.01 + sum
        })
    })
}

/// Inside a family: whatever else is in the call, and by whichever tile; of tiles also whatever the
/// weight is stored as.
fn same_bits(bench: &Bench<'_>, dtype: Dtype, bits: Bits) -> Result<(), Failure> {
    for form in FORMS {
        let shape = CodesShape {
            rows: 18,
            cols: 288,
            bits,
            form,
            group: Group::Of128,
            skipped: Some(96),
        };
        let rows = shape.rows;
        let skinny = Kernel::Skinny { warps: 4 };
        let case = Case::new(bench, dtype, shape, 16)?;
        let all = case.run(bench, Some(skinny), true, Dtype::Float32)?;
        for token in [0, 7, 15] {
            let alone = case.run_alone(bench, skinny, token)?;
            trial::same("a row of 16, skinny", &alone, &all[token * rows..][..rows])?;
        }
        let case = Case::new(bench, dtype, shape, 67)?;
        let wanted = case.by_floats(bench)?;
        for tile in TILES {
            let all = case.run(bench, Some(Kernel::Tile(tile)), true, Dtype::Float32)?;
            trial::same("tiles of floats", &all, &wanted)?;
            let alone = case.run_alone(bench, Kernel::Tile(tile), 66)?;
            trial::same("a row of 67, tiled", &alone, &all[66 * rows..])?;
        }
    }
    Ok(())
}

/// Blocks as GGUF has them, repacked, against the same blocks as the processor multiplies them.
fn files(bench: &Bench<'_>, dtype: Dtype) -> Result<(), Failure> {
    let (tokens, rows, cols) = (3, 37, 224);
    for format in [BlockFormat::Q4_0, BlockFormat::Q4_1, BlockFormat::Q8_0] {
        let row_bytes = usize::try_from(format.row_bytes(cols as u64)).unwrap_or(0);
        let mut random = trial::random(row_bytes);
        let mut bytes: Vec<u8> = (0..rows * row_bytes)
            .map(|_| random.word().to_le_bytes()[0])
            .collect();
        for block in bytes.chunks_exact_mut(row_bytes / (cols / 32)) {
            // The scale, and the minimum of the type that has one: small numbers.
            for half in 0..2 {
                if half == 0 || format == BlockFormat::Q4_1 {
                    let value = f16::from_f32(random.value() / 32.0).to_le_bytes();
                    block[2 * half..2 * half + 2].copy_from_slice(&value);
                }
            }
        }
        let stored = StoredBlocks {
            bytes: &bytes,
            rows,
            row_bytes,
            first_block: 0,
        };
        let wrong = |what: String| Failure::Wrong(format!("{format}: {what}"));
        let shape = CodesShape::of_blocks(rows, cols, format)
            .ok_or_else(|| wrong("has no codes".to_owned()))?;
        let mut packed = vec![0xFF; shape.bytes()];
        pack_blocks(&mut packed, &shape, 0, format, stored)
            .map_err(|error| wrong(error.to_string()))?;
        let case = Case::of(bench, dtype, (shape, &packed), tokens)?;

        let shape = LinearShape::stored(rows, cols, dtype, format);
        let mut panels = vec![0; shape.packed_bytes()];
        linear::pack_blocks(&mut panels, &shape, 0, stored);
        let wanted = case.by_processor(&shape, &panels, true);
        let got = case.run(bench, None, true, Dtype::Float32)?;
        close("out", &got, &wanted, |_| case.sum_error())?;
    }
    Ok(())
}
