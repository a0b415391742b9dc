//! The kernels that serve a batch: which, for which sequences, in how many blocks, with what.

use plimsoll_planner::Dtype;
use plimsoll_planner::card::attention::part_numbers;

use super::Heads;
use super::cut::{Cut, Keys};
use crate::gpu::{Arguments, Card, Gpu, GpuError, Kind, Launch};
use crate::kv::KvCache;

/// Rows of a KV head up to which a batch of nothing else is decoded: four tiles of 16.
const FEW: usize = 64;
/// The same beside sequences with more rows: one tile, so that few blocks start for nothing.
const FEW_OF_MIXED: usize = 16;

/// The size of a batch. The maxima may be larger than what the device holds, never smaller: the
/// kernels take them for granted, as they do that the batch is what [`super::Batch`] says.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    pub sequences: usize,
    /// Rows of all sequences.
    pub tokens: usize,
    /// The most rows of a sequence.
    pub most_rows: usize,
    /// The longest context.
    pub most_context: usize,
}

/// One kernel, and the sequences that are its own: those with more than `more` and at most `most`
/// rows of a KV head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    kernel: Kernel,
    more: usize,
    most: usize,
    /// Rows of a KV head that a sequence may have.
    rows: usize,
    pub(super) cut: Cut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    Decode,
    Prefill,
    /// Any number of rows in f32.
    Single,
}

/// What the kernels of one call have in common. `check_shape` bounds the sizes: query heads times a
/// sequence's rows fit 31 bits, and those times sequences, spans and numbers of a part 64.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job<'a> {
    pub(super) card: &'a Card,
    pub(super) heads: &'a Heads,
    pub(super) shape: &'a KvCache,
    pub(super) extent: &'a Extent,
}

impl Job<'_> {
    /// Query heads per KV head.
    fn group(&self) -> usize {
        self.heads.query / self.shape.heads
    }

    /// The kernels of the call, when scratch has room for `scratch` numbers.
    pub(super) fn passes(&self, scratch: usize) -> Vec<Pass> {
        let Extent {
            sequences,
            tokens,
            most_rows,
            most_context: _,
        } = *self.extent;
        let rows = most_rows * self.group();
        let pass = |kernel, more, most| Pass {
            kernel,
            more,
            most,
            rows: rows.min(most / self.group() * self.group()),
            cut: Cut::WHOLE,
        };
        let all = usize::MAX;
        let is_mixed = tokens < sequences * most_rows;
        match (self.shape.dtype, rows) {
            (Dtype::Float32, _) => vec![pass(Kernel::Single, 0, all)],
            (_, ..=FEW) => vec![self.cut(pass(Kernel::Decode, 0, all), scratch)],
            _ if is_mixed && self.group() <= FEW_OF_MIXED => vec![
                self.cut(pass(Kernel::Decode, 0, FEW_OF_MIXED), scratch),
                pass(Kernel::Prefill, FEW_OF_MIXED, all),
            ],
            _ => vec![self.cut(pass(Kernel::Prefill, 0, all), scratch)],
        }
    }

    /// `pass` with its keys cut to suit the card.
    fn cut(&self, pass: Pass, scratch: usize) -> Pass {
        let most_context = self.extent.most_context;
        let window = self
            .heads
            .sliding_window
            .map_or(usize::MAX, |window| window as usize);
        let most_seen = most_context.min(window.saturating_add(self.extent.most_rows - 1));
        let keys = Keys {
            most_context,
            most_seen,
        };
        let at_once = self.card.multiprocessors as usize * self.blocks_at_once(pass.kernel);
        let wish = match pass.kernel {
            // Two waves: blocks that are done early take another. A block of one sequence that is
            // much longer than all others would be alone at the end.
            Kernel::Decode => (2 * at_once, 8 << 10),
            // Parts of so many rows are only worth writing when multiprocessors would be idle.
            Kernel::Prefill => (at_once, usize::MAX),
            Kernel::Single => (0, usize::MAX),
        };
        let one = self.extent.sequences
            * self.shape.heads
            * pass.rows
            * part_numbers(self.shape.head_dim);
        let blocks = pass
            .rows
            .div_ceil(pass.kernel.tile_rows(self.shape.head_dim))
            * self.shape.heads
            * self.extent.sequences;
        Pass {
            cut: Cut::new(wish, blocks, keys, scratch / one),
            ..pass
        }
    }

    fn blocks_at_once(&self, kernel: Kernel) -> usize {
        let bytes = kernel.shared_bytes(self.shape.head_dim) as usize;
        let most = match kernel {
            Kernel::Decode => 4,
            Kernel::Prefill | Kernel::Single => 2,
        };
        (self.card.shared_bytes_per_block as usize / bytes.max(1)).clamp(1, most)
    }

    /// Rows times spans of them that `pass` writes to scratch.
    pub(super) fn parts(&self, pass: &Pass) -> usize {
        match pass.cut.splits {
            1 => 0,
            splits => self.extent.sequences * self.shape.heads * pass.rows * splits as usize,
        }
    }

    /// Launches `pass`; `arguments` are the pointers, `strides` the queries' and the tables'.
    pub(super) fn launch(
        &self,
        gpu: &Gpu,
        pass: &Pass,
        arguments: Arguments,
        (query_stride, table_stride): (u32, u32),
    ) -> Result<(), GpuError> {
        let Job { shape, heads, .. } = self;
        // 2^31 ..= 2^32 - 1 parts: the kernel divides positions by the block size as a product.
        let shift = shape.block_size.next_power_of_two().trailing_zeros();
        let magic = (1u64 << (31 + shift)).div_ceil(shape.block_size as u64);
        let block_rows = shape.layers * 2 * shape.heads * shape.block_size;
        let arguments = arguments
            .u32(query_stride)
            .u32(table_stride)
            .u32(number(self.group()))
            .u32(number(shape.head_dim))
            .u32(number(shape.block_size))
            .u32(u32::try_from(magic).unwrap_or(u32::MAX))
            .u32(shift)
            .u32(number(block_rows))
            .u32(heads.sliding_window.unwrap_or(u32::MAX).min(1 << 31))
            .u32(number(pass.more))
            .u32(number(pass.most))
            .u32(pass.cut.span)
            .u32(pass.cut.splits)
            .u32(number(pass.rows))
            .f32(heads.scale * std::f32::consts::LOG2_E);
        let suffix = Kind::suffix(shape.dtype);
        let tiles = pass.rows.div_ceil(pass.kernel.tile_rows(shape.head_dim));
        let y_z = [number(shape.heads), number(self.extent.sequences)];
        let kernel = match pass.kernel {
            Kernel::Single => "attention_f32".to_owned(),
            Kernel::Decode | Kernel::Prefill => {
                format!("{}_{}_{suffix}", pass.kernel.image(), shape.head_dim)
            }
        };
        gpu.launch(&Launch {
            op: pass.kernel.image(),
            kernel: &kernel,
            grid: [number(tiles) * pass.cut.splits, y_z[0], y_z[1]],
            threads: pass.kernel.threads(shape.head_dim),
            shared_bytes: pass.kernel.shared_bytes(shape.head_dim),
            arguments: arguments.clone(),
        })?;
        if pass.cut.splits == 1 {
            return Ok(());
        }
        gpu.launch(&Launch {
            op: "attention_merge",
            kernel: &format!("attention_merge_{suffix}"),
            grid: [number(pass.rows), y_z[0], y_z[1]],
            threads: 128,
            shared_bytes: 0,
            arguments,
        })
    }
}

/// As the kernels have it: `run` refused what is too large for them; "all" stays all.
fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// As in the `.cu` files.
impl Kernel {
    /// The file's name, and the front of the kernels'.
    const fn image(self) -> &'static str {
        match self {
            Kernel::Decode => "attention_decode",
            Kernel::Prefill => "attention_prefill",
            Kernel::Single => "attention_f32",
        }
    }

    const fn tile_rows(self, head_dim: usize) -> usize {
        match (self, head_dim) {
            (Kernel::Decode, _) => 16,
            (Kernel::Prefill, ..=128) => 128,
            (Kernel::Prefill, _) => 64,
            (Kernel::Single, _) => 1,
        }
    }

    const fn threads(self, head_dim: usize) -> u32 {
        match (self, head_dim) {
            (Kernel::Decode, 129..) => 64,
            _ => 128,
        }
    }

    const fn shared_bytes(self, head_dim: usize) -> u32 {
        // tile.cuh: rows that are no multiple of 128 bytes are padded.
        let pitch = match head_dim % 64 {
            0 => head_dim,
            _ => head_dim + 8,
        };
        let rows = match (self, head_dim) {
            // Warps x slots x keys and values x rows of a slot.
            (Kernel::Decode, ..=128) => 4 * 3 * 2 * 16,
            (Kernel::Decode, _) => 2 * 3 * 2 * 16,
            // Queries, then slots x keys and values x rows of a slot.
            (Kernel::Prefill, ..=80) => 128 + 3 * 2 * 64,
            (Kernel::Prefill, ..=128) => 128 + 3 * 2 * 32,
            (Kernel::Prefill, _) => 64 + 3 * 2 * 16,
            (Kernel::Single, _) => 0,
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "head sizes are at most 256"
        )]
        let bytes = (rows * pitch * 2) as u32;
        bytes
    }
}
