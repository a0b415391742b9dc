//! Blocks against GGUF's formulas and against the expanded weight, to the bit, for every instruction
//! set that this machine has.

use half::f16;
use plimsoll_planner::Dtype;
use plimsoll_planner::weights::Form;

use super::super::{Input, LinearShape, Weight, pack_rows, run, scratch_bytes, unpack_row};
use super::*;
use crate::encoding;
use crate::isa::Isa;
use crate::pool::Pool;
use crate::testing::Random;

const DTYPES: [Dtype; 3] = [Dtype::BFloat16, Dtype::Float32, Dtype::Float16];

/// A block's numbers as ggml defines them.
fn numbers_of(format: BlockFormat, block: &[u8]) -> [f32; GROUP] {
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    let d = half(0);
    let nibble = |quants: &[u8], i: usize| f32::from(quants[i % 16] >> (i / 16 * 4) & 15);
    std::array::from_fn(|i| match format {
        BlockFormat::Q4_0 => d * (nibble(&block[2..], i) - 8.0),
        BlockFormat::Q4_1 => d * nibble(&block[4..], i) + half(2),
        BlockFormat::Q8_0 => d * f32::from(block[2 + i].cast_signed()),
    })
}

/// A row's blocks as numbers.
fn row_of(format: BlockFormat, blocks: &[u8]) -> Vec<f32> {
    let blocks = blocks.chunks_exact(block_bytes(format));
    blocks.flat_map(|block| numbers_of(format, block)).collect()
}

/// Blocks of any bits, with scales of any size that weights have.
fn random_blocks(format: BlockFormat, blocks: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(blocks * block_bytes(format));
    for _ in 0..blocks {
        let mut block: Vec<u8> = (0..block_bytes(format))
            .map(|_| random.word().to_le_bytes()[3])
            .collect();
        for scale in block[..head_bytes(format) / PANEL_ROWS].chunks_exact_mut(2) {
            scale.copy_from_slice(&f16::from_f32(random.value() / 8.0).to_le_bytes());
        }
        bytes.extend(block);
    }
    bytes
}

/// A weight in blocks, and the same weight expanded as it is at load.
struct Case {
    format: BlockFormat,
    /// Whole rows as the file has them.
    stored: Vec<u8>,
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
        let stored = random_blocks(format, rows * cols / GROUP, random);
        let dense = LinearShape::dense(rows, cols, dtype);
        let mut expanded = vec![0xFF; dense.packed_bytes()];
        if cols > 0 {
            pack_rows(&mut expanded, &dense, 0, &row_of(format, &stored));
        }
        let shape = LinearShape {
            blocks: Some(format),
            ..dense
        };
        let mut packed = vec![0xFF; shape.packed_bytes()];
        let source = StoredBlocks {
            bytes: &stored,
            rows,
            row_bytes: cols / GROUP * block_bytes(format),
            first_block: 0,
        };
        pack_blocks(&mut packed, &shape, 0, source);
        Case {
            format,
            stored,
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
    for format in BlockFormat::ALL {
        assert_eq!(block_bytes(format) as u64, format.bytes());
        for (rows, cols) in [(1, 32), (16, 64), (17, 576), (0, 32), (40, 0)] {
            let shape = LinearShape {
                blocks: Some(format),
                ..LinearShape::dense(rows, cols, Dtype::BFloat16)
            };
            let planned = Form::Blocks(format, Dtype::BFloat16).bytes(rows as u64, cols as u64);
            assert_eq!(shape.packed_bytes() as u64, planned.get(), "{format}");
        }
    }
}

#[test]
fn shards_of_rows_and_columns_are_read_back_as_gguf_defines_them() {
    let mut random = Random::new(21);
    for seed in 0..60 {
        let format = BlockFormat::ALL[seed % 3];
        let dtype = DTYPES[seed / 3 % 3];
        let (rows, groups) = (1 + random.below(70), 1 + random.below(5));
        let wide = groups + random.below(4);
        let first_block = random.below(wide - groups + 1);
        let row_bytes = wide * block_bytes(format);
        let stored = random_blocks(format, rows * wide, &mut random);
        let shape = LinearShape {
            blocks: Some(format),
            ..LinearShape::dense(rows, groups * GROUP, dtype)
        };
        let mut packed = vec![0xFF; shape.packed_bytes()];
        // Any cut into parts, the last first.
        let (a, b) = (random.below(rows + 1), random.below(rows + 1));
        for part in [a.max(b)..rows, a.min(b)..a.max(b), 0..a.min(b)] {
            let source = StoredBlocks {
                bytes: &stored[part.start * row_bytes..part.end * row_bytes],
                rows: part.len(),
                row_bytes,
                first_block,
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
                Some(blocks) => row_of(format, blocks)[first_block * GROUP..][..shape.cols]
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
        let block = pack::zero_block(format);
        assert_eq!(block.len(), block_bytes(format));
        assert_eq!(bits(&numbers_of(format, block)), [0; GROUP], "{format}");
    }
}

/// Every finite scale in f16, with every 4-bit number and a minimum of its own, or with 32 of the
/// 8-bit ones: a weight of 16 rows.
fn every_scale(format: BlockFormat, random: &mut Random) -> Vec<u8> {
    let finite = (0..=u16::MAX).filter(|bits| f16::from_bits(*bits).is_finite());
    let mut stored = Vec::new();
    for scale in finite {
        let m = f16::from_f32(random.value() * f16::from_bits(scale).to_f32().abs() * 8.0);
        stored.extend(scale.to_le_bytes());
        match format {
            BlockFormat::Q4_0 => (),
            BlockFormat::Q4_1 if m.is_finite() => stored.extend(m.to_le_bytes()),
            BlockFormat::Q4_1 => stored.extend([0; 2]),
            BlockFormat::Q8_0 => {
                stored.extend((0..32).map(|_| random.word().to_le_bytes()[0]));
                continue;
            }
        }
        stored.extend((0..16).map(|i| i | i << 4));
    }
    stored
}

#[test]
fn every_scale_is_expanded_as_it_is_at_load() {
    let mut random = Random::new(22);
    for format in BlockFormat::ALL {
        let stored = every_scale(format, &mut random);
        let cols = stored.len() / block_bytes(format) / PANEL_ROWS * GROUP;
        let values = row_of(format, &stored);
        for dtype in DTYPES {
            let dense = LinearShape::dense(PANEL_ROWS, cols, dtype);
            let mut expanded = vec![0; dense.packed_bytes()];
            pack_rows(&mut expanded, &dense, 0, &values);
            let shape = LinearShape {
                blocks: Some(format),
                ..dense
            };
            let mut packed = vec![0; shape.packed_bytes()];
            let source = StoredBlocks {
                bytes: &stored,
                rows: PANEL_ROWS,
                row_bytes: stored.len() / PANEL_ROWS,
                first_block: 0,
            };
            pack_blocks(&mut packed, &shape, 0, source);
            for isa in Isa::available() {
                let got = expand::to_bytes(isa, dtype, format, &packed);
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
                for tokens in [1, 2, 3, 4, 5, 7, 8, 12, 13, 16, 17, 31, 32, 33, 50, 65] {
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
        let case = Case::new(format, Dtype::BFloat16, 5, 160, &mut random);
        let check = |stored: &[u8]| {
            let source = StoredBlocks {
                bytes: stored,
                rows: 5,
                row_bytes: 5 * block_bytes(case.format),
                first_block: 1,
            };
            check_scales(format, 96, source)
        };
        assert_eq!(check(&case.stored), Ok(()));
        for (row, block, bits) in [(0, 1, 0x7C00), (4, 3, 0xFC00), (2, 2, 0x7E01_u16)] {
            let mut stored = case.stored.clone();
            let at = (row * 5 + block) * block_bytes(format);
            stored[at..at + 2].copy_from_slice(&bits.to_le_bytes());
            let bad = check(&stored).unwrap_err();
            assert_eq!((bad.row, bad.block, bad.what), (row, block, "the scale"));
            assert!(
                bad.to_string()
                    .contains(&format!("block {block} in row {row}"))
            );
        }
        // Columns of another shard are not looked at.
        let mut stored = case.stored.clone();
        stored[..2].copy_from_slice(&[0, 0x7C]);
        assert_eq!(check(&stored), Ok(()));
        let minimum = block_bytes(format) + 2;
        stored[minimum..minimum + 2].copy_from_slice(&[0, 0x7C]);
        let what = check(&stored).err().map(|bad| bad.what);
        let expected = (format == BlockFormat::Q4_1).then_some("the minimum");
        assert_eq!(what, expected, "{format}");
    }
}

#[test]
fn columns_that_are_no_whole_blocks_are_refused() {
    let shape = LinearShape {
        blocks: Some(BlockFormat::Q8_0),
        ..LinearShape::dense(16, 33, Dtype::BFloat16)
    };
    let refused = std::panic::catch_unwind(|| {
        let weight = Weight {
            shape,
            packed: &vec![0; shape.packed_bytes()],
            bias: None,
        };
        let mut scratch = vec![0; scratch_bytes(1, &shape)];
        let pool = Pool::new(1, Isa::Scalar).unwrap();
        let x = Input::dense(&[1.0; 33], 1, 33);
        run(&pool, x, &weight, &mut [0.0; 16], &mut scratch);
    });
    let panic = refused.unwrap_err();
    let message = panic.downcast_ref::<String>().unwrap();
    assert_eq!(message, "33 columns are not whole blocks of 32");
}
