//! Repacking changes no number, and bytes are those of the file.

use half::f16;
use plimsoll_planner::{BlockFormat, Dtype};

use super::{BadCodes, Bits, CodesShape, Form, Grid, Group, pack_blocks, pack_grid, unpack_row};
use crate::linear::{self, LinearShape, StoredBlocks};
use crate::testing::Random;

const REPACKED: [BlockFormat; 6] = [
    BlockFormat::Q4_0,
    BlockFormat::Q4_1,
    BlockFormat::Q5_0,
    BlockFormat::Q5_1,
    BlockFormat::Q8_0,
    BlockFormat::Iq4Nl,
];

/// Blocks of every code, with scales of either sign, zero and the smallest among them.
fn blocks(format: BlockFormat, rows: usize, cols: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let bytes = usize::try_from(format.bytes()).unwrap();
    let mut all: Vec<u8> = (0..rows * cols / 32 * bytes)
        .map(|_| random.word().to_le_bytes()[0])
        .collect();
    for (at, block) in all.chunks_exact_mut(bytes).enumerate() {
        let halves = if matches!(format, BlockFormat::Q4_1 | BlockFormat::Q5_1) {
            2
        } else {
            1
        };
        for half in 0..halves {
            let value = match at % 5 {
                0 => f16::from_bits(1),
                1 => f16::ZERO,
                _ => f16::from_f32(random.value()),
            };
            block[2 * half..2 * half + 2].copy_from_slice(&value.to_le_bytes());
        }
    }
    all
}

fn stored(bytes: &[u8], rows: usize, first_block: usize) -> StoredBlocks<'_> {
    StoredBlocks {
        bytes,
        rows,
        row_bytes: bytes.len() / rows.max(1),
        first_block,
    }
}

/// Numbers by their bits: a sign of zero counts.
fn bits_of(packed: &[u8], shape: &CodesShape) -> Vec<u32> {
    let mut values = vec![f32::NAN; shape.cols];
    let rows = (0..shape.rows).flat_map(|row| {
        unpack_row(packed, shape, row, &mut values);
        values.iter().map(|v| v.to_bits()).collect::<Vec<u32>>()
    });
    rows.collect()
}

#[test]
fn every_number_of_repacked_blocks_is_the_processors_to_the_bit() {
    for format in REPACKED {
        for (rows, cols) in [(1, 32), (16, 64), (37, 160)] {
            let bytes = blocks(format, rows, cols, 7);
            let shape = CodesShape::of_blocks(rows, cols, format).unwrap();
            let mut packed = vec![0xFF; shape.bytes()];
            pack_blocks(&mut packed, &shape, 0, format, stored(&bytes, rows, 0)).unwrap();

            let theirs = LinearShape::stored(rows, cols, Dtype::Float32, format);
            let mut panels = vec![0; theirs.packed_bytes()];
            linear::pack_blocks(&mut panels, &theirs, 0, stored(&bytes, rows, 0));
            let mut wanted = Vec::new();
            let mut values = vec![0.0; cols];
            for row in 0..rows {
                linear::unpack_row(&panels, &theirs, row, &mut values);
                wanted.extend(values.iter().map(|value| value.to_bits()));
            }
            assert_eq!(bits_of(&packed, &shape), wanted, "{format} {rows} x {cols}");
        }
    }
}

#[test]
fn bytes_of_4_and_8_bits_are_the_files() {
    for format in [BlockFormat::Q4_0, BlockFormat::Q4_1, BlockFormat::Q8_0] {
        for (rows, cols) in [(1, 32), (48, 576), (1000, 4096)] {
            let shape = CodesShape::of_blocks(rows, cols, format).unwrap();
            let wanted = LinearShape::stored(rows, cols, Dtype::BFloat16, format).packed_bytes();
            assert_eq!(shape.bytes(), wanted, "{format} {rows} x {cols}");
        }
    }
    // 4 bits, and 16 of d for 128 of them; with z, 16 more.
    let grid = |zeros| CodesShape::of_grid((16, 256), Bits::Four, 128, zeros).unwrap();
    assert_eq!(grid(false).bytes(), 16 * (128 + 2 * 2));
    assert_eq!(grid(true).bytes(), 16 * (128 + 2 * 4));
    for (bits, group, format) in [
        (Bits::Four, 128, BlockFormat::Z4By128),
        (Bits::Four, 64, BlockFormat::Z4By32),
        (Bits::Eight, 32, BlockFormat::Z8By32),
    ] {
        let stored = LinearShape::stored(40, 1024, Dtype::BFloat16, format);
        let codes = CodesShape::of_grid((40, 1024), bits, group, true).unwrap();
        assert_eq!(codes.bytes(), stored.packed_bytes(), "{format}");
    }
}

#[test]
fn types_whose_scales_are_no_halves_are_to_be_expanded() {
    for format in BlockFormat::ALL {
        let has_codes = CodesShape::of_blocks(16, 256, format).is_some();
        assert_eq!(has_codes, REPACKED.contains(&format), "{format}");
    }
    let shape = CodesShape::of_blocks(1, 256, BlockFormat::Q8_0).unwrap();
    let mut packed = vec![0; shape.bytes()];
    let source = stored(&[0; 144], 1, 0);
    let error = pack_blocks(&mut packed, &shape, 0, BlockFormat::Q4K, source).unwrap_err();
    assert!(error.to_string().contains("Q4_K"), "{error}");
}

#[test]
fn rows_may_be_repacked_in_pieces_and_from_any_block_on() {
    let (rows, cols, format) = (37, 96, BlockFormat::Q4_1);
    let bytes = blocks(format, rows, cols + 32, 3);
    let shape = CodesShape::of_blocks(rows, cols, format).unwrap();
    let packed = |piece: usize| {
        let mut packed = vec![0xFF; shape.bytes()];
        let row_bytes = bytes.len() / rows;
        let pieces: Vec<&[u8]> = bytes.chunks(piece * row_bytes).collect();
        for (at, piece_bytes) in pieces.iter().enumerate().rev() {
            let source = stored(piece_bytes, piece_bytes.len() / row_bytes, 1);
            pack_blocks(&mut packed, &shape, at * piece, format, source).unwrap();
        }
        packed
    };
    let whole = packed(rows);
    for piece in [1, 5, 16] {
        assert_eq!(packed(piece), whole, "pieces of {piece}");
    }
    // The padding rows are zeros.
    let padded = CodesShape { rows: 48, ..shape };
    assert!(
        bits_of(&whole, &padded)[37 * cols..]
            .iter()
            .all(|v| *v == 0)
    );
}

/// A grid of `rows x cols`, and its numbers by their definition.
struct Made {
    codes: Vec<u8>,
    scales: Vec<f16>,
    zeros: Vec<u16>,
    numbers: Vec<u32>,
}

fn made((rows, cols): (usize, usize), bits: Bits, group_cols: usize, has_zeros: bool) -> Made {
    let mut random = Random::new(cols as u64);
    let groups = cols.div_ceil(group_cols);
    let most = usize::from(bits.most());
    let code = |random: &mut Random| u8::try_from(random.below(most + 1)).unwrap();
    let codes: Vec<u8> = (0..rows * cols).map(|_| code(&mut random)).collect();
    let scales: Vec<f16> = (0..rows * groups)
        .map(|_| f16::from_f32(random.value()))
        .collect();
    let zeros: Vec<u16> = (0..rows * groups)
        .map(|_| match has_zeros {
            true => u16::try_from(random.below(most + 2)).unwrap(),
            false => bits.middle(),
        })
        .collect();
    let numbers = (0..rows * cols).map(|at| {
        let group = at / cols * groups + at % cols / group_cols;
        let less = f32::from(codes[at]) - f32::from(zeros[group]);
        (scales[group].to_f32() * less).to_bits()
    });
    Made {
        numbers: numbers.collect(),
        codes,
        scales,
        zeros,
    }
}

#[test]
fn every_number_of_a_repacked_grid_is_its_definitions_to_the_bit() {
    for bits in [Bits::Four, Bits::Eight] {
        for (group_cols, group) in [
            (32, Group::Of32),
            (64, Group::Of32),
            (128, Group::Of128),
            (256, Group::Of128),
        ] {
            for has_zeros in [false, true] {
                let sizes = (19, 416);
                let grid = made(sizes, bits, group_cols, has_zeros);
                let shape = CodesShape::of_grid(sizes, bits, group_cols, has_zeros).unwrap();
                assert_eq!(shape.group, group);
                let mut packed = vec![0xFF; shape.bytes()];
                let source = Grid {
                    codes: &grid.codes,
                    scales: &grid.scales,
                    zeros: has_zeros.then_some(&grid.zeros),
                    group_cols,
                };
                pack_grid(&mut packed, &shape, (0, 19), (0, 416), &source).unwrap();
                assert_eq!(bits_of(&packed, &shape), grid.numbers, "{shape:?}");
            }
        }
    }
}

#[test]
fn shards_of_any_32_columns_hold_the_numbers_of_the_whole_and_have_equal_bytes() {
    let (rows, cols) = (17, 544);
    let grid = made((rows, cols), Bits::Four, 128, true);
    let whole = CodesShape::of_grid((rows, cols), Bits::Four, 128, true).unwrap();
    for first in (0..cols).step_by(32) {
        for width in [32, 96, 160].into_iter().filter(|w| first + w <= cols) {
            let shape = CodesShape {
                cols: width,
                skipped: Some(first % 128),
                ..whole
            };
            let mut packed = vec![0xFF; shape.bytes()];
            let source = Grid {
                codes: &grid.codes,
                scales: &grid.scales,
                zeros: Some(&grid.zeros),
                group_cols: 128,
            };
            pack_grid(&mut packed, &shape, (0, rows), (first, cols), &source).unwrap();
            let wanted: Vec<u32> = (0..rows)
                .flat_map(|row| &grid.numbers[row * cols + first..][..width])
                .copied()
                .collect();
            assert_eq!(bits_of(&packed, &shape), wanted, "{width} from {first} on");
            let touched = (first % 128 + width).div_ceil(128);
            assert!(touched <= shape.groups(), "{width} from {first} on");
        }
    }
}

#[test]
fn what_is_no_code_zero_point_or_scale_is_named() {
    let shape = CodesShape::of_grid((2, 64), Bits::Four, 32, true).unwrap();
    let packed = |codes: &[u8], scales: &[f16], zeros: &[u16]| {
        let grid = Grid {
            codes,
            scales,
            zeros: Some(zeros),
            group_cols: 32,
        };
        pack_grid(&mut vec![0; shape.bytes()], &shape, (0, 2), (0, 64), &grid)
    };
    let (codes, scales, zeros) = ([15; 128], [f16::ONE; 4], [16; 4]);
    packed(&codes, &scales, &zeros).unwrap();
    let mut bad = codes;
    bad[64 + 3] = 16;
    let error = packed(&bad, &scales, &zeros).unwrap_err().to_string();
    assert_eq!(error, "row 1, column 3: the code 16 has more than 4 bits");
    let error = packed(&codes, &scales, &[16, 16, 17, 16]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "row 1, group 0: the zero point 17 is above 16"
    );
    let mut bad = scales;
    bad[1] = f16::INFINITY;
    let error = packed(&codes, &bad, &zeros).unwrap_err().to_string();
    assert_eq!(error, "row 0, group 1: the scale or minimum is inf");
    let of_grid = |cols, group| CodesShape::of_grid((2, cols), Bits::Four, group, false);
    assert_eq!(of_grid(64, 48), Err(BadCodes::Group { group_cols: 48 }));
    assert_eq!(of_grid(64, 0), Err(BadCodes::Group { group_cols: 0 }));
    assert_eq!(of_grid(72, 32), Err(BadCodes::Columns { cols: 72 }));

    let shape = CodesShape::of_blocks(1, 32, BlockFormat::Q4_1).unwrap();
    assert_eq!(shape.form, Form::Minimum);
    let mut block = [0; 20];
    block[2..4].copy_from_slice(&f16::NAN.to_le_bytes());
    let mut room = vec![0; shape.bytes()];
    let source = stored(&block, 1, 0);
    let error = pack_blocks(&mut room, &shape, 0, BlockFormat::Q4_1, source).unwrap_err();
    assert!(
        matches!(
            error,
            BadCodes::Scale {
                row: 0,
                group: 0,
                ..
            }
        ),
        "{error}"
    );
}
