//! Blocks against GGUF's formulas and against the expanded weight, to the bit, for every instruction
//! set that this machine has.

pub(super) mod ggml;

use half::f16;
use plimsoll_planner::Dtype;
use plimsoll_planner::weights::Form;

use super::super::{Input, LinearShape, Weight, pack_rows, run, scratch_bytes, unpack_row};
use super::*;
use crate::encoding;
use crate::isa::Isa;
use crate::pool::Pool;
use crate::testing::Random;
use ggml::{columns, cut, halves, numbers_of, random_blocks, random_zero, row_of};

const DTYPES: [Dtype; 3] = [Dtype::BFloat16, Dtype::Float32, Dtype::Float16];

/// A weight in blocks, and the same weight expanded as it is at load.
struct Case {
    blocks: (LinearShape, Vec<u8>),
    dense: (LinearShape, Vec<u8>),
    bias: Vec<f32>,
}

impl Case {
    fn new(
        format: BlockFormat,
        dtype: Dtype,
        rows: usize,
        cols: usize,
        random: &mut Random,
    ) -> Case {
        let cut = cut(format, cols, random);
        let stored = random_blocks(format, rows * cut.blocks, random);
        let dense = LinearShape::dense(rows, cols, dtype);
        let mut expanded = vec![0xFF; dense.packed_bytes()];
        let row_bytes = cut.blocks * block_bytes(format);
        if cols > 0 {
            let row = |row| row_of(format, row)[cut.first..][..cols].to_vec();
            let numbers: Vec<f32> = stored.chunks_exact(row_bytes).flat_map(row).collect();
            pack_rows(&mut expanded, &dense, 0, &numbers);
        }
        let shape = LinearShape {
            blocks: Some(format),
            skipped: cut.skipped,
            ..dense
        };
        let mut packed = vec![0xFF; shape.packed_bytes()];
        let source = StoredBlocks {
            bytes: &stored,
            rows,
            row_bytes,
            first_block: cut.first / columns(format),
        };
        pack_blocks(&mut packed, &shape, 0, source);
        Case {
            blocks: (shape, packed),
            dense: (dense, expanded),
            bias: random.values(rows),
        }
    }

    fn run(&self, is_dense: bool, pool: &Pool, x: Input<'_>, bias: bool) -> Vec<u32> {
        let (shape, packed) = if is_dense { &self.dense } else { &self.blocks };
        let mut out = vec![f32::NAN; x.tokens * shape.rows];
        let mut scratch = vec![0xFF; scratch_bytes(x.tokens, shape)];
        let weight = Weight {
            shape: *shape,
            packed,
            bias: bias.then_some(&self.bias[..]),
        };
        run(pool, x, &weight, &mut out, &mut scratch);
        out.into_iter().map(f32::to_bits).collect()
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_packed_weight_has_the_bytes_that_the_planner_gives_it() {
    let dtype = Dtype::BFloat16;
    for format in BlockFormat::ALL {
        assert_eq!(block_bytes(format) as u64, format.bytes());
        for (rows, blocks) in [(1, 1), (16, 2), (17, 18), (0, 1), (40, 0)] {
            let cols = blocks * columns(format);
            let shape = LinearShape::stored(rows, cols, dtype, format);
            let planned = |form: Form, cols| form.bytes(rows as u64, cols as u64).get();
            let bytes = shape.packed_bytes() as u64;
            assert_eq!(
                bytes,
                planned(Form::Blocks(format, dtype), cols),
                "{format}"
            );
            for skipped in (0..columns(format)).step_by(GROUP) {
                let cols = blocks * GROUP;
                let (skipped, of) = (Some(skipped), Form::Pieces(format, dtype));
                let bytes = LinearShape {
                    skipped,
                    cols,
                    ..shape
                }
                .packed_bytes();
                assert_eq!(bytes as u64, planned(of, cols), "{format}");
            }
        }
    }
}

#[test]
fn shards_of_rows_and_columns_are_read_back_as_gguf_defines_them() {
    let mut random = Random::new(21);
    for seed in 0..120 {
        let format = BlockFormat::ALL[seed % BlockFormat::ALL.len()];
        let dtype = DTYPES[seed / BlockFormat::ALL.len() % 3];
        let (rows, cols) = (1 + random.below(70), (1 + random.below(20)) * GROUP);
        let cut = cut(format, cols, &mut random);
        let row_bytes = cut.blocks * block_bytes(format);
        let stored = random_blocks(format, rows * cut.blocks, &mut random);
        let shape = LinearShape {
            skipped: cut.skipped,
            ..LinearShape::stored(rows, cols, dtype, format)
        };
        let mut packed = vec![0xFF; shape.packed_bytes()];
        // Any cut into parts, the last first.
        let (a, b) = (random.below(rows + 1), random.below(rows + 1));
        for part in [a.max(b)..rows, a.min(b)..a.max(b), 0..a.min(b)] {
            let source = StoredBlocks {
                bytes: &stored[part.start * row_bytes..part.end * row_bytes],
                rows: part.len(),
                row_bytes,
                first_block: cut.first / columns(format),
            };
            pack_blocks(&mut packed, &shape, part.start, source);
        }
        let padded = LinearShape {
            rows: rows.next_multiple_of(PANEL_ROWS),
            ..shape
        };
        let mut row = vec![0.0; shape.cols];
        for r in 0..padded.rows {
            unpack_row(&packed, &padded, r, &mut row);
            let exact = match stored.chunks_exact(row_bytes).nth(r) {
                Some(blocks) => row_of(format, blocks)[cut.first..][..shape.cols]
                    .iter()
                    .map(|value| encoding::rounded(dtype, *value))
                    .collect(),
                None => vec![0.0; shape.cols],
            };
            assert_eq!(bits(&row), bits(&exact), "{format} {dtype} {seed} row {r}");
        }
    }
}

#[test]
fn a_block_of_zeros_is_zeros_without_a_sign() {
    for format in BlockFormat::ALL {
        let block = by_kind!(format, K => <K as kinds::Kind>::EMPTY);
        assert_eq!(block.len(), block_bytes(format));
        let zeros = vec![0; columns(format)];
        assert_eq!(bits(&numbers_of(format, block)), zeros, "{format}");
    }
}

/// Finite scales in f16 of every size, with small scales, numbers and a minimum of their own: a weight
/// of 16 rows. Every scale of the short types, with every 4-bit number.
fn every_scale(format: BlockFormat, random: &mut Random) -> Vec<u8> {
    let step = if columns(format) > GROUP { 16 } else { 1 };
    let finite = (0..=u16::MAX).filter(|bits| f16::from_bits(*bits).is_finite());
    let mut stored = Vec::new();
    for scale in finite.step_by(step) {
        let mut block = random_blocks(format, 1, random);
        let m = f16::from_f32(random.value() * f16::from_bits(scale).to_f32().abs() * 8.0);
        let m = if m.is_finite() { m } else { f16::ZERO };
        let m = random_zero(format, random).unwrap_or(m).to_bits();
        for (at, scale) in halves(format).iter().zip([scale, m]) {
            block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
        if format.bits() == 4 && step == 1 {
            let numbers = block.len() - 16;
            (0..16).for_each(|i| block[numbers + usize::from(i)] = i | i << 4);
        }
        stored.extend(block);
    }
    stored
}

#[test]
fn every_scale_is_expanded_as_it_is_at_load() {
    let mut random = Random::new(22);
    for format in BlockFormat::ALL {
        let stored = every_scale(format, &mut random);
        let cols = stored.len() / block_bytes(format) / PANEL_ROWS * columns(format);
        let values = row_of(format, &stored);
        for dtype in DTYPES {
            let dense = LinearShape::dense(PANEL_ROWS, cols, dtype);
            let mut expanded = vec![0; dense.packed_bytes()];
            pack_rows(&mut expanded, &dense, 0, &values);
            let shape = LinearShape::stored(PANEL_ROWS, cols, dtype, format);
            let mut packed = vec![0; shape.packed_bytes()];
            let source = StoredBlocks {
                bytes: &stored,
                rows: PANEL_ROWS,
                row_bytes: stored.len() / PANEL_ROWS,
                first_block: 0,
            };
            pack_blocks(&mut packed, &shape, 0, source);
            for isa in Isa::available() {
                let got = expand::to_bytes(isa, &shape, &packed);
                let differs = got.iter().zip(&expanded).position(|(a, b)| a != b);
                assert_eq!(differs, None, "{isa} {format} {dtype}");
                assert_eq!(got.len(), expanded.len());
            }
        }
    }
}

#[test]
fn products_have_the_bits_of_the_expanded_weight() {
    let mut random = Random::new(23);
    // One part of columns and several, of every type; panels whole, begun and alone.
    for (rows, cols) in [(1, 32), (16, 64), (17, 288), (83, 576), (47, 1056), (33, 0)] {
        for format in BlockFormat::ALL {
            for dtype in DTYPES {
                let case = Case::new(format, dtype, rows, cols, &mut random);
                // The kernels of the others are those of floats, which have tests of their own.
                let tokens: &[usize] = match Short::of(format) {
                    Some(_) => &[1, 2, 3, 4, 5, 7, 8, 12, 13, 16, 17, 31, 32, 33, 50, 65],
                    None => &[1, 3, 8, 33],
                };
                for tokens in tokens.iter().copied() {
                    let stride = cols + tokens % 3;
                    let data = random.values(tokens * stride);
                    let x = Input {
                        data: &data,
                        tokens,
                        stride,
                    };
                    let bias = tokens % 2 == 1;
                    for isa in Isa::available() {
                        let pool = Pool::new(1 + tokens % 3, isa).unwrap();
                        let wanted = case.run(true, &pool, x, bias);
                        let got = case.run(false, &pool, x, bias);
                        assert!(
                            got == wanted,
                            "{isa} {format} {dtype} {tokens} x {cols} x {rows}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn products_of_any_batch_size_have_those_bits() {
    let mut random = Random::new(24);
    let (rows, cols) = (37, 320);
    for format in BlockFormat::ALL {
        let case = Case::new(format, Dtype::BFloat16, rows, cols, &mut random);
        let data = random.values(65 * cols);
        for isa in Isa::available() {
            let pool = Pool::new(2, isa).unwrap();
            let whole = case.run(true, &pool, Input::dense(&data, 65, cols), true);
            for tokens in 1..=65 {
                let got = case.run(false, &pool, Input::dense(&data, tokens, cols), true);
                assert!(got == whole[..tokens * rows], "{isa} {format} {tokens}");
            }
        }
    }
}

#[test]
fn scales_that_are_no_numbers_are_named() {
    let mut random = Random::new(25);
    for format in BlockFormat::ALL {
        let (bytes, sound) = (block_bytes(format), random_blocks(format, 25, &mut random));
        let check = |stored: &[u8]| {
            let source = StoredBlocks {
                bytes: stored,
                rows: 5,
                row_bytes: 5 * bytes,
                first_block: 1,
            };
            check_scales(format, 3 * columns(format), source)
        };
        assert_eq!(check(&sound), Ok(()));
        let second = match format.has_zero_point() {
            true => "the zero point",
            false => "the minimum",
        };
        let names = ["the scale", second];
        for (half, name) in halves(format).iter().zip(names) {
            for (row, block, bits) in [(0, 1, 0x7C00), (4, 3, 0xFC00), (2, 2, 0x7E01_u16)] {
                let mut stored = sound.clone();
                let at = (row * 5 + block) * bytes + half;
                stored[at..at + 2].copy_from_slice(&bits.to_le_bytes());
                let bad = check(&stored).unwrap_err();
                assert_eq!((bad.row, bad.block, bad.what), (row, block, name));
                let place = format!("block {block} in row {row}");
                assert!(bad.to_string().contains(&place), "{bad}");
            }
            // Columns of another shard are not looked at.
            let mut stored = sound.clone();
            stored[*half..half + 2].copy_from_slice(&[0, 0x7C]);
            assert_eq!(check(&stored), Ok(()));
        }
    }
}

#[test]
fn columns_that_are_no_whole_blocks_are_refused() {
    for (format, cols, skipped, words) in [
        (
            BlockFormat::Q8_0,
            33,
            None,
            "33 columns are not whole blocks of 32",
        ),
        (
            BlockFormat::Q4K,
            288,
            None,
            "288 columns are not whole blocks of 256",
        ),
        (
            BlockFormat::Z4By128,
            160,
            None,
            "160 columns are not whole blocks of 128",
        ),
        (
            BlockFormat::Q4K,
            272,
            Some(0),
            "272 columns are not whole blocks of 32",
        ),
    ] {
        let shape = LinearShape {
            skipped,
            ..LinearShape::stored(16, cols, Dtype::BFloat16, format)
        };
        let refused = std::panic::catch_unwind(|| {
            let weight = Weight {
                shape,
                packed: &vec![0; shape.packed_bytes()],
                bias: None,
            };
            let mut scratch = vec![0; scratch_bytes(1, &shape)];
            let pool = Pool::new(1, Isa::Scalar).unwrap();
            let x = vec![1.0; cols];
            let x = Input::dense(&x, 1, cols);
            run(&pool, x, &weight, &mut [0.0; 16], &mut scratch);
        });
        let panic = refused.unwrap_err();
        let message = panic.downcast_ref::<String>().unwrap();
        assert_eq!(message, words);
    }
}
