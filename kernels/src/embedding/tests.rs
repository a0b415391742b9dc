//! Packed and plain tables give the same rows; rows of other ranks give zeros.

use super::*;
use crate::isa::Isa;
use crate::linear::{StoredBlocks, pack_blocks, pack_rows, unpack_row};
use crate::testing::Random;

#[test]
fn packed_and_plain_tables_agree_and_shards_sum_to_the_whole() {
    let (vocab, hidden) = (83, 37);
    for dtype in [Dtype::Float32, Dtype::BFloat16, Dtype::Float16] {
        let values = Random::new(7).values(vocab * hidden);
        let ids: Vec<u32> = vec![0, 82, 31, 32, 33, 16, 82];
        for threads in [1, 3] {
            let pool = Pool::new(threads, Isa::Scalar).unwrap();
            let mut sum = vec![0.0; ids.len() * hidden];
            for shard in [0..32, 32..83] {
                let rows = &values[shard.start * hidden..shard.end * hidden];
                let shape = LinearShape::dense(shard.len(), hidden, dtype);
                let mut packed = vec![0xFF; shape.packed_bytes()];
                pack_rows(&mut packed, &shape, 0, rows);
                let mut plain = vec![0; rows.len() * encoding::bytes_of(dtype)];
                for (at, value) in rows.iter().enumerate() {
                    encoding::store(dtype, &mut plain, at * encoding::bytes_of(dtype), *value);
                }
                let mut outs = Vec::new();
                for (packed, bytes) in [(true, &packed), (false, &plain)] {
                    let table = EmbeddingTable {
                        bytes,
                        dtype,
                        packed,
                        blocks: None,
                        first_row: shard.start,
                        rows: shard.len(),
                        hidden,
                    };
                    let mut out = vec![f32::NAN; ids.len() * hidden];
                    run(&pool, &ids, &table, &mut out);
                    outs.push(out);
                }
                assert_eq!(outs[0], outs[1]);
                sum.iter_mut()
                    .zip(&outs[0])
                    .for_each(|(sum, part)| *sum += part);
            }
            for (row, id) in sum.chunks_exact(hidden).zip(&ids) {
                let whole = &values[*id as usize * hidden..][..hidden];
                for (value, exact) in row.iter().zip(whole) {
                    let mut bytes = [0; 4];
                    encoding::store(dtype, &mut bytes, 0, *exact);
                    assert_eq!(*value, encoding::load(dtype, &bytes, 0));
                }
            }
        }
    }
}

#[test]
fn a_table_in_blocks_gives_the_rows_of_the_expanded_one() {
    let (vocab, hidden) = (37, 256);
    let ids: Vec<u32> = vec![5, 41, 20, 4, 42, 21, 36];
    let mut random = Random::new(8);
    for format in BlockFormat::ALL {
        for dtype in [Dtype::Float32, Dtype::BFloat16, Dtype::Float16] {
            let shape = LinearShape::stored(vocab, hidden, dtype, format);
            let row_bytes = usize::try_from(format.row_bytes(hidden as u64)).unwrap();
            // Bytes below 0x7C make every scale finite.
            let stored: Vec<u8> = (0..vocab * row_bytes)
                .map(|_| random.word().to_le_bytes()[2] % 0x7C)
                .collect();
            let mut packed = vec![0; shape.packed_bytes()];
            let source = StoredBlocks {
                bytes: &stored,
                rows: vocab,
                row_bytes,
                first_block: 0,
            };
            pack_blocks(&mut packed, &shape, 0, source);
            let mut values = vec![0.0; vocab * hidden];
            for (row, values) in values.chunks_exact_mut(hidden).enumerate() {
                unpack_row(&packed, &shape, row, values);
            }
            let dense = LinearShape::dense(vocab, hidden, dtype);
            let mut expanded = vec![0; dense.packed_bytes()];
            pack_rows(&mut expanded, &dense, 0, &values);
            let pool = Pool::new(2, Isa::Scalar).unwrap();
            let look_up = |bytes: &[u8], blocks| {
                let table = EmbeddingTable {
                    bytes,
                    dtype,
                    packed: true,
                    blocks,
                    first_row: 5,
                    rows: vocab,
                    hidden,
                };
                let mut out = vec![f32::NAN; ids.len() * hidden];
                run(&pool, &ids, &table, &mut out);
                out
            };
            let rows = look_up(&packed, Some(format));
            assert_eq!(rows, look_up(&expanded, None), "{format} {dtype}");
            assert_eq!(rows[..hidden], values[..hidden], "{format} {dtype}");
        }
    }
}
