//! Reading a block of a matrix out of a file, in bounded pieces.

use std::ops::Range;

use plimsoll_planner::{BlockFormat, Dtype};

use super::encoding::Encoding;
use super::file::WeightFile;
use crate::model_error::ModelError;

/// Bytes read at once. Larger pieces do not read faster from the page cache.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces of rows shorter than this are not worth a read of their own.
const STRIDED_BYTES_MIN: usize = 4096;

/// In which order a file has the rows of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowOrder {
    Plain,
    /// llama GGUF files interleave the halves of each head of q and k: row `2i + j` of a head in
    /// the file is row `j * head_dim / 2 + i`, for j in 0..2.
    Interleaved {
        head_dim: usize,
    },
}

/// Where a matrix lies in a file. The header's checks made sure that it lies inside.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) offset: u64,
    /// A multiple of the encoding's block.
    pub(crate) cols: usize,
    pub(crate) encoding: Encoding,
    pub(crate) order: RowOrder,
}

impl Stored {
    /// Reads `rows x cols` into `out`; the ranges lie inside and `out` has their size.
    pub(crate) fn read(
        &self,
        file: &WeightFile,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        if out.is_empty() {
            return Ok(());
        }
        match self.order {
            RowOrder::Plain => self.read_plain(file, rows, cols, out),
            RowOrder::Interleaved { head_dim } => self.read_heads(file, head_dim, rows, cols, out),
        }
    }

    /// Reads `rows x cols` as they stand in the file into `out`, which has their bytes; false where
    /// the file has them in another type or order, and nothing is read.
    pub(crate) fn read_same(
        &self,
        file: &WeightFile,
        dtype: Dtype,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [u8],
    ) -> Result<bool, ModelError> {
        if self.encoding.plain() != Some(dtype) || self.order != RowOrder::Plain {
            return Ok(false);
        }
        self.read_bytes(file, rows, cols, out)?;
        Ok(true)
    }

    /// Reads the blocks of `rows x cols`, in the order of the rows as they are named, into `out`, which
    /// has their bytes; false where the file has no such blocks, and nothing is read.
    pub(crate) fn read_blocks(
        &self,
        file: &WeightFile,
        format: BlockFormat,
        (rows, cols): (Range<usize>, Range<usize>),
        out: &mut [u8],
    ) -> Result<bool, ModelError> {
        let block = self.encoding.block_numbers();
        let whole = cols.start.is_multiple_of(block) && cols.end.is_multiple_of(block);
        if self.encoding.blocks() != Some(format) || !whole {
            return Ok(false);
        }
        let RowOrder::Interleaved { head_dim } = self.order else {
            self.read_bytes(file, rows, cols, out)?;
            return Ok(true);
        };
        // Whole heads are read at once where they are short: their rows lie together.
        let (row_bytes, cut) = (self.row_bytes(), self.byte_range(&cols));
        let whole_head = head_dim * row_bytes <= PIECE_BYTES;
        let mut head = vec![0; if whole_head { head_dim * row_bytes } else { 0 }];
        let mut read = None;
        for (row, out) in rows.zip(out.chunks_exact_mut(cut.len().max(1))) {
            let (which, inside) = (row / head_dim, interleaved(row % head_dim, head_dim));
            if !whole_head {
                let at = self.row_offset(which * head_dim + inside) + cut.start as u64;
                file.read_at(at, out)?;
                continue;
            }
            if read != Some(which) {
                file.read_at(self.row_offset(which * head_dim), &mut head)?;
                read = Some(which);
            }
            out.copy_from_slice(&head[inside * row_bytes..][cut.clone()]);
        }
        Ok(true)
    }

    /// Bytes as they stand in the file, row after row.
    fn read_bytes(
        &self,
        file: &WeightFile,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [u8],
    ) -> Result<(), ModelError> {
        let cut = self.byte_range(&cols);
        if out.is_empty() {
            return Ok(());
        }
        if cut.len() == self.row_bytes() {
            return file.read_at(self.row_offset(rows.start), out);
        }
        for (row, out) in rows.zip(out.chunks_exact_mut(cut.len())) {
            file.read_at(self.row_offset(row) + cut.start as u64, out)?;
        }
        Ok(())
    }

    fn row_bytes(&self) -> usize {
        self.cols / self.encoding.block_numbers() * self.encoding.block_bytes()
    }

    fn row_offset(&self, row: usize) -> u64 {
        self.offset + (row as u64) * (self.row_bytes() as u64)
    }

    fn read_plain(
        &self,
        file: &WeightFile,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        let row_bytes = self.row_bytes();
        let slice_bytes = self.byte_range(&cols).len();
        let strided = slice_bytes >= STRIDED_BYTES_MIN && slice_bytes < row_bytes / 2;
        if strided || row_bytes > PIECE_BYTES {
            for (row, out) in rows.zip(out.chunks_exact_mut(cols.len())) {
                self.read_row(file, row, cols.clone(), out)?;
            }
            return Ok(());
        }
        let rows_at_once = (PIECE_BYTES / row_bytes).clamp(1, rows.len());
        let mut bytes = vec![0; rows_at_once * row_bytes];
        let mut row = rows.start;
        for out in out.chunks_mut(rows_at_once * cols.len()) {
            let count = out.len() / cols.len();
            let bytes = &mut bytes[..count * row_bytes];
            file.read_at(self.row_offset(row), bytes)?;
            if cols.len() == self.cols {
                self.encoding.decode(bytes, 0, out);
            } else {
                let rows = bytes
                    .chunks_exact(row_bytes)
                    .zip(out.chunks_exact_mut(cols.len()));
                for (bytes, out) in rows {
                    self.encoding.decode(bytes, cols.start, out);
                }
            }
            row += count;
        }
        Ok(())
    }

    /// One row, reading only the blocks of `cols`, in pieces.
    fn read_row(
        &self,
        file: &WeightFile,
        row: usize,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        let block = self.encoding.block_numbers();
        let numbers_at_once = PIECE_BYTES / self.encoding.block_bytes() * block - block;
        let mut bytes = Vec::new();
        let mut start = cols.start;
        for out in out.chunks_mut(numbers_at_once) {
            let range = self.byte_range(&(start..start + out.len()));
            bytes.resize(range.len(), 0);
            file.read_at(self.row_offset(row) + range.start as u64, &mut bytes)?;
            self.encoding.decode(&bytes, start % block, out);
            start += out.len();
        }
        Ok(())
    }

    /// The bytes of a row that hold the blocks of `cols`.
    fn byte_range(&self, cols: &Range<usize>) -> Range<usize> {
        let block = self.encoding.block_numbers();
        let bytes = self.encoding.block_bytes();
        cols.start / block * bytes..cols.end.div_ceil(block) * bytes
    }

    /// Head by head: the rows of a head lie together, in another order.
    fn read_heads(
        &self,
        file: &WeightFile,
        head_dim: usize,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        let row_bytes = self.row_bytes();
        let whole_head = head_dim * row_bytes <= PIECE_BYTES;
        let mut bytes = vec![0; if whole_head { head_dim * row_bytes } else { 0 }];
        let mut head_read = None;
        for (row, out) in rows.zip(out.chunks_exact_mut(cols.len())) {
            let (head, inside) = (row / head_dim, row % head_dim);
            let inside = interleaved(inside, head_dim);
            if !whole_head {
                self.read_row(file, head * head_dim + inside, cols.clone(), out)?;
                continue;
            }
            if head_read != Some(head) {
                file.read_at(self.row_offset(head * head_dim), &mut bytes)?;
                head_read = Some(head);
            }
            self.encoding
                .decode(&bytes[inside * row_bytes..], cols.start, out);
        }
        Ok(())
    }
}

/// Where the file has a row of a head whose halves it interleaves.
const fn interleaved(row: usize, head_dim: usize) -> usize {
    let (half, pair) = (row / (head_dim / 2), row % (head_dim / 2));
    2 * pair + half
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of f32 counting up, and its matrix.
    fn counting(rows: usize, cols: usize, order: RowOrder) -> (WeightFile, Stored) {
        let folder = std::env::temp_dir().join(format!(
            "plimsoll-stored-{}-{rows}-{cols}-{order:?}",
            std::process::id()
        ));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("numbers");
        let numbers: Vec<u8> = (0..rows * cols)
            .flat_map(|i| (i as f32).to_le_bytes())
            .collect();
        std::fs::write(&path, [vec![0; 12], numbers].concat()).unwrap();
        let file = WeightFile::open(&path).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        (
            file,
            Stored {
                offset: 12,
                cols,
                encoding: Encoding::F32,
                order,
            },
        )
    }

    fn check(rows: usize, cols: usize, block: (Range<usize>, Range<usize>)) {
        let (file, stored) = counting(rows, cols, RowOrder::Plain);
        let mut out = vec![0.0; block.0.len() * block.1.len()];
        stored
            .read(&file, block.0.clone(), block.1.clone(), &mut out)
            .unwrap();
        let expected: Vec<f32> = block
            .0
            .flat_map(|r| block.1.clone().map(move |c| (r * cols + c) as f32))
            .collect();
        assert_eq!(out, expected);
    }

    #[test]
    fn blocks_are_cut_out_of_small_and_large_rows() {
        check(7, 5, (0..7, 0..5));
        check(7, 5, (2..6, 1..4));
        check(7, 5, (3..3, 0..5));
        check(3, 9000, (1..3, 100..1500)); // strided
        check(3, 9000, (0..3, 10..8990)); // whole rows
        check(700, 600, (5..699, 0..600)); // several pieces
        check(2, 300_000, (0..2, 7..299_999)); // a row larger than a piece
    }

    #[test]
    fn numbers_of_the_wanted_type_are_passed_on_as_they_stand() {
        let bytes_of =
            |numbers: &[f32]| -> Vec<u8> { numbers.iter().flat_map(|x| x.to_le_bytes()).collect() };
        let (file, stored) = counting(690, 601, RowOrder::Plain);
        for (rows, cols) in [
            (5..689, 0..601),
            (0..3, 7..599),
            (9..9, 0..601),
            (1..2, 4..4),
        ] {
            let mut numbers = vec![0.0; rows.len() * cols.len()];
            let read = stored.read(&file, rows.clone(), cols.clone(), &mut numbers);
            read.unwrap();
            let mut out = vec![0xFF; numbers.len() * 4];
            let same = stored.read_same(&file, Dtype::Float32, rows, cols, &mut out);
            assert!(same.unwrap());
            assert_eq!(out, bytes_of(&numbers));
        }
        let mut out = [0xFF; 2];
        let same = stored.read_same(&file, Dtype::BFloat16, 0..1, 0..1, &mut out);
        assert!(!same.unwrap() && out == [0xFF; 2], "another type");
        let (file, stored) = counting(12, 3, RowOrder::Interleaved { head_dim: 4 });
        let mut out = [0xFF; 12];
        let same = stored.read_same(&file, Dtype::Float32, 1..2, 0..3, &mut out);
        assert!(!same.unwrap() && out == [0xFF; 12], "another order");
    }

    /// Rows of blocks of which each byte tells its row and place, and the rows as they are named.
    #[expect(clippy::cast_possible_truncation, reason = "below 251")]
    fn blocks_of(head_dim: usize, cols: usize) -> (WeightFile, Stored, Vec<Vec<u8>>) {
        let bytes = cols / 32 * 34;
        let row = |row: usize| -> Vec<u8> {
            (0..bytes).map(|at| ((row * 31 + at) % 251) as u8).collect()
        };
        let folder = crate::weights::testing::TempFolder::new();
        let data: Vec<u8> = (0..2 * head_dim).flat_map(row).collect();
        let file = WeightFile::open(&folder.write("blocks", data)).unwrap();
        let stored = Stored {
            offset: 0,
            cols,
            encoding: Encoding::Blocks(BlockFormat::Q8_0),
            order: RowOrder::Interleaved { head_dim },
        };
        let named =
            |at: usize| row(at / head_dim * head_dim + interleaved(at % head_dim, head_dim));
        (file, stored, (0..2 * head_dim).map(named).collect())
    }

    #[test]
    fn blocks_of_interleaved_heads_are_put_back_from_any_row_and_block_on() {
        for (head_dim, cols) in [(4, 96), (4, 320_000)] {
            let (file, stored, rows) = blocks_of(head_dim, cols);
            for (first, last, from, to) in [(0, 8, 0, cols), (3, 7, 32, cols), (5, 6, 64, 96)] {
                let cut = from / 32 * 34..to / 32 * 34;
                let mut out = vec![0; (last - first) * cut.len()];
                let block = (first..last, from..to);
                let read = stored.read_blocks(&file, BlockFormat::Q8_0, block, &mut out);
                assert!(read.unwrap());
                let expected: Vec<u8> = rows[first..last]
                    .iter()
                    .flat_map(|row| row[cut.clone()].to_vec())
                    .collect();
                assert!(
                    out == expected,
                    "{head_dim} {cols}: rows {first}..{last} from {from}"
                );
            }
            let other = stored.read_blocks(&file, BlockFormat::Q4_0, (0..1, 0..32), &mut [0; 18]);
            assert!(!other.unwrap(), "another format");
        }
    }

    #[test]
    fn interleaved_heads_are_put_back() {
        let order = RowOrder::Interleaved { head_dim: 4 };
        let (file, stored) = counting(8, 3, order);
        let mut out = vec![0.0; 8 * 3];
        stored.read(&file, 0..8, 0..3, &mut out).unwrap();
        let rows: Vec<f32> = out.chunks(3).map(|row| row[0] / 3.0).collect();
        assert_eq!(rows, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        let mut part = vec![0.0; 4 * 2];
        stored.read(&file, 3..7, 1..3, &mut part).unwrap();
        let expected: Vec<f32> = out
            .chunks(3)
            .skip(3)
            .take(4)
            .flat_map(|r| &r[1..])
            .copied()
            .collect();
        assert_eq!(part, expected);
    }

    #[test]
    fn interleaved_heads_larger_than_a_piece_are_put_back_too() {
        let (file, stored) = counting(4, 80_000, RowOrder::Interleaved { head_dim: 4 });
        let mut out = vec![0.0; 4];
        stored.read(&file, 0..4, 79_999..80_000, &mut out).unwrap();
        assert_eq!(out, [79_999.0, 239_999.0, 159_999.0, 319_999.0]);
    }
}
