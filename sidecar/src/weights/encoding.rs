//! How numbers are stored in files, and decoding them to f32.

use half::{bf16, f16};
use plimsoll_planner::{BlockFormat, Dtype};

use super::blocks;

/// A type that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encoding {
    F32,
    F16,
    Bf16,
    Blocks(BlockFormat),
}

impl Encoding {
    const FLOATS: [Encoding; 3] = [Encoding::F32, Encoding::F16, Encoding::Bf16];

    /// Those that tensors of a file have: zero points are put into blocks while they are read.
    pub(crate) fn all() -> impl Iterator<Item = Encoding> {
        let files = |format: &BlockFormat| !format.has_zero_point();
        let blocks = BlockFormat::ALL.into_iter().filter(files);
        Self::FLOATS.into_iter().chain(blocks.map(Encoding::Blocks))
    }

    /// That of a float type.
    pub(crate) const fn of(dtype: Dtype) -> Encoding {
        match dtype {
            Dtype::Float32 => Encoding::F32,
            Dtype::BFloat16 => Encoding::Bf16,
            Dtype::Float16 => Encoding::F16,
        }
    }

    /// The labels of all.
    pub(crate) fn read() -> String {
        Self::all()
            .map(Encoding::label)
            .collect::<Vec<_>>()
            .join(", ")
    }

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Encoding::F32 => "F32",
            Encoding::F16 => "F16",
            Encoding::Bf16 => "BF16",
            Encoding::Blocks(format) => format.label(),
        }
    }

    /// As the resource names it, where numbers are kept so.
    pub(crate) fn kept_as(self) -> String {
        match self.plain() {
            Some(dtype) => dtype.to_string(),
            None => self.label().to_owned(),
        }
    }

    /// Numbers that are stored together: a row is a whole number of blocks.
    pub(crate) const fn block_numbers(self) -> usize {
        match self {
            Encoding::F32 | Encoding::F16 | Encoding::Bf16 => 1,
            Encoding::Blocks(format) => size(format.columns()),
        }
    }

    pub(crate) const fn block_bytes(self) -> usize {
        match self {
            Encoding::F32 => 4,
            Encoding::F16 | Encoding::Bf16 => 2,
            Encoding::Blocks(format) => size(format.bytes()),
        }
    }

    /// The type of numbers that stand in the file as memory has them.
    pub(crate) const fn plain(self) -> Option<Dtype> {
        match self {
            Encoding::F32 => Some(Dtype::Float32),
            Encoding::F16 => Some(Dtype::Float16),
            Encoding::Bf16 => Some(Dtype::BFloat16),
            Encoding::Blocks(_) => None,
        }
    }

    /// The blocks that stay as they are in memory.
    pub(crate) const fn blocks(self) -> Option<BlockFormat> {
        match self {
            Encoding::Blocks(format) => Some(format),
            Encoding::F32 | Encoding::F16 | Encoding::Bf16 => None,
        }
    }

    pub(crate) const fn is_quantized(self) -> bool {
        self.blocks().is_some()
    }

    /// Decodes `out.len()` numbers of whole blocks in `bytes`, beginning with number `skip`.
    ///
    /// `bytes` holds at least the blocks of numbers `0..skip + out.len()`.
    pub(crate) fn decode(self, bytes: &[u8], skip: usize, out: &mut [f32]) {
        match self {
            Encoding::F32 => decode_f32(&bytes[skip * 4..], out),
            Encoding::F16 => decode_f16(&bytes[skip * 2..], out),
            Encoding::Bf16 => decode_bf16(&bytes[skip * 2..], out),
            Encoding::Blocks(format) => blocks::decode(format, bytes, skip, out),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "sizes of a block")]
const fn size(n: u64) -> usize {
    n as usize
}

/// Numbers of this size and larger are in no block that floats are rounded to: a scale, which is an f16,
/// may be a seventh of them.
pub(crate) const BLOCKS_LIMIT: f32 = 65_504.0 * 7.0;

/// The least number that an encoding has not: it would be rounded to infinity.
pub(crate) const fn limit(of: Encoding) -> f32 {
    match of {
        Encoding::F32 => f32::INFINITY,
        Encoding::Bf16 => f32::from_bits(0x7f7f_8000),
        Encoding::F16 => 65_520.0,
        Encoding::Blocks(_) => BLOCKS_LIMIT,
    }
}

/// Writes numbers as `dtype`, little endian, rounded to nearest even.
///
/// # Panics
/// When `out` has another length.
pub(crate) fn encode(dtype: Dtype, numbers: &[f32], out: &mut [u8]) {
    let bytes = numbers.len() * if dtype == Dtype::Float32 { 4 } else { 2 };
    assert_eq!(out.len(), bytes, "{} numbers of {dtype}", numbers.len());
    match dtype {
        Dtype::Float32 => {
            let cells = out.as_chunks_mut::<4>().0.iter_mut();
            cells.zip(numbers).for_each(|(to, x)| *to = x.to_le_bytes());
        }
        Dtype::BFloat16 => {
            let cells = out.as_chunks_mut::<2>().0.iter_mut().zip(numbers);
            cells.for_each(|(to, x)| *to = bf16::from_f32(*x).to_le_bytes());
        }
        Dtype::Float16 => {
            let cells = out.as_chunks_mut::<2>().0.iter_mut().zip(numbers);
            cells.for_each(|(to, x)| *to = f16::from_f32(*x).to_le_bytes());
        }
    }
}

fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    for (to, from) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *to = f32::from_le_bytes(*from);
    }
}

fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
    for (to, from) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *to = f32::from_bits(u32::from(u16::from_le_bytes(*from)) << 16);
    }
}

/// Through a small buffer, so that `half` converts eight at a time where the CPU can.
fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    use half::slice::HalfFloatSliceExt;
    const AT_ONCE: usize = 64;
    let mut halves = [f16::ZERO; AT_ONCE];
    for (to, from) in out.chunks_mut(AT_ONCE).zip(bytes.chunks(AT_ONCE * 2)) {
        for (half, bytes) in halves.iter_mut().zip(from.as_chunks::<2>().0) {
            *half = f16::from_le_bytes(*bytes);
        }
        halves[..to.len()].convert_to_f32_slice(to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_decode_to_their_value() {
        let mut out = [0.0; 3];
        let f32s: Vec<u8> = [1.5f32, -2.0, 1e-30]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        Encoding::F32.decode(&f32s, 0, &mut out);
        assert_eq!(out, [1.5, -2.0, 1e-30]);
        Encoding::F32.decode(&f32s, 1, &mut out[..2]);
        assert_eq!(out[..2], [-2.0, 1e-30]);
        // 1.0, -0.5 and the smallest subnormal of f16.
        Encoding::F16.decode(&[0, 0x3c, 0, 0xb8, 1, 0], 0, &mut out);
        assert_eq!(out, [1.0, -0.5, 2f32.powi(-24)]);
        Encoding::Bf16.decode(&[0x80, 0x3f, 0, 0xc0, 0, 0], 0, &mut out);
        assert_eq!(out, [1.0, -2.0, 0.0]);
    }

    #[test]
    fn numbers_are_written_as_they_are_read() {
        let numbers = [1.0, -0.5, 0.0, 65504.0, -3.25];
        for (encoding, dtype) in [
            (Encoding::F32, Dtype::Float32),
            (Encoding::F16, Dtype::Float16),
            (Encoding::Bf16, Dtype::BFloat16),
        ] {
            assert_eq!(encoding.plain(), Some(dtype));
            let mut bytes = vec![0; numbers.len() * encoding.block_bytes()];
            encode(dtype, &numbers, &mut bytes);
            let mut out = [0.0; 5];
            encoding.decode(&bytes, 0, &mut out);
            let rounded = numbers.map(|x| match dtype {
                Dtype::BFloat16 => bf16::from_f32(x).to_f32(),
                _ => x,
            });
            assert_eq!(out, rounded, "{dtype}");
        }
        assert_eq!(Encoding::Blocks(BlockFormat::Q8_0).plain(), None);
    }

    #[test]
    fn long_f16_runs_decode_every_number() {
        let numbers: Vec<f16> = (0..201u16)
            .map(|i| f16::from_f32(f32::from(i) / 4.0))
            .collect();
        let bytes: Vec<u8> = numbers.iter().flat_map(|h| h.to_le_bytes()).collect();
        let mut out = vec![0.0; 201];
        Encoding::F16.decode(&bytes, 0, &mut out);
        assert!(out.iter().enumerate().all(|(i, x)| *x == i as f32 / 4.0));
    }

    /// A block of each type, written by hand from ggml's definition.
    fn block(encoding: Encoding, seed: u8) -> (Vec<u8>, Vec<f32>) {
        let d = f16::from_f32(0.25 + f32::from(seed));
        let m = f16::from_f32(-3.5);
        let q = |i: usize| u8::try_from((i * 7 + usize::from(seed)) % 16).unwrap();
        let mut bytes = d.to_le_bytes().to_vec();
        let numbers = match encoding {
            Encoding::Blocks(BlockFormat::Q8_0) => {
                let signed = |i: usize| {
                    i8::try_from((i * 7 + usize::from(seed)).cast_signed() - 120).unwrap()
                };
                bytes.extend((0..32).map(|i| signed(i).cast_unsigned()));
                (0..32).map(|i| d.to_f32() * f32::from(signed(i))).collect()
            }
            Encoding::Blocks(BlockFormat::Q4_0) => {
                bytes.extend((0..16).map(|i| q(i) | q(i + 16) << 4));
                (0..32)
                    .map(|i| d.to_f32() * (f32::from(q(i)) - 8.0))
                    .collect()
            }
            _ => {
                bytes.extend(m.to_le_bytes());
                bytes.extend((0..16).map(|i| q(i) | q(i + 16) << 4));
                (0..32)
                    .map(|i| d.to_f32() * f32::from(q(i)) - 3.5)
                    .collect()
            }
        };
        (bytes, numbers)
    }

    #[test]
    fn any_range_of_blocks_decodes_as_the_whole() {
        for encoding in [
            Encoding::Blocks(BlockFormat::Q8_0),
            Encoding::Blocks(BlockFormat::Q4_0),
            Encoding::Blocks(BlockFormat::Q4_1),
        ] {
            let (bytes, numbers): (Vec<Vec<u8>>, Vec<Vec<f32>>) =
                (0..4).map(|seed| block(encoding, seed)).unzip();
            let (bytes, numbers) = (bytes.concat(), numbers.concat());
            assert_eq!(bytes.len(), 4 * encoding.block_bytes());
            for skip in 0..128 {
                for len in [0, 1, 5, 31, 32, 33, 64, 128 - skip] {
                    if skip + len <= 128 {
                        let mut out = vec![f32::NAN; len];
                        encoding.decode(&bytes, skip, &mut out);
                        assert_eq!(out, numbers[skip..skip + len], "{encoding:?} {skip} {len}");
                    }
                }
            }
        }
    }
}
