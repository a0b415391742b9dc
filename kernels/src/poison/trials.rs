//! poison on a card: these bytes and no others.

use super::cuda;
use crate::gpu::Kind;
use crate::gpu::trial::{self, Bench, Failure, Trial, same};

/// Bytes on either side that must stay; those in front a multiple of 16.
const FRONT: usize = 32;
const BACK: usize = 40;

/// Lengths around groups and blocks, from every kind of address.
pub(crate) fn all() -> Vec<Trial> {
    [
        (0, 3),
        (1, 0),
        (1, 15),
        (5, 3),
        (14, 1),
        (16, 0),
        (31, 0),
        (33, 7),
        (64, 16),
        (1000, 9),
        (4096, 1),
        (16384, 0),
        (16400, 8),
        (40_001, 13),
    ]
    .into_iter()
    .map(|(bytes, skip)| {
        Trial::new(
            "poison",
            format!("{bytes} bytes from byte {skip} of 16"),
            move |bench| fill(bench, bytes, skip),
        )
    })
    .collect()
}

fn fill(bench: &Bench<'_>, bytes: usize, skip: usize) -> Result<(), Failure> {
    let mut random = trial::random(bytes);
    // 0xFF is left out, so that a byte that was filled shows.
    let mut wanted: Vec<u8> = (0..FRONT + skip + bytes + BACK)
        .map(|_| random.word().to_le_bytes()[0] & 0x7F)
        .collect();
    let mut memory = bench.put_raw(&wanted)?;
    let first = FRONT + skip;
    cuda::run(bench.gpu, &memory.view_mut(Kind::U8).part(first, bytes))?;
    super::run(&mut wanted[first..first + bytes]);
    same("memory", &memory.download(wanted.len())?, &wanted)
}
