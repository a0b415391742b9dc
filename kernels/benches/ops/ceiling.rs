//! What the machine gives at most: bytes read per second from memory, and arithmetic per second
//! on registers alone, by the same threads.

use std::hint::black_box;
use std::time::Instant;

use plimsoll_kernels::checksum;
use plimsoll_kernels::device::{Cpu, Device, Pages};
use plimsoll_kernels::isa::{Dots, Isa};
use plimsoll_kernels::pool::Pool;
use plimsoll_planner::Bytes;

use crate::best;

/// Per second: bytes read, f32 operations, operations of bf16 products and of 8-bit integers (those of
/// AMX or AVX512-VNNI, where they are there).
pub(crate) struct Ceilings {
    pub(crate) read: f64,
    pub(crate) f32: f64,
    pub(crate) bf16: f64,
    pub(crate) int8: f64,
}

pub(crate) fn measure(pool: &Pool) -> Ceilings {
    let f32 = compute(pool, pool.isa().min(Isa::Avx512));
    let bf16 = if pool.isa() >= Isa::Avx512Bf16 {
        compute(pool, pool.isa())
    } else {
        f32
    };
    Ceilings {
        read: read(pool),
        f32,
        bf16,
        int8: integers(pool),
    }
}

fn integers(pool: &Pool) -> f64 {
    match Dots::of(pool.isa()) {
        Dots::Scalar | Dots::Avx2 => f64::NAN,
        Dots::Avx512Vnni => rate(pool, vnni, 16 * 64 * 2),
        Dots::AmxInt8 => rate(pool, amx_int8, 4 * 16 * 16 * 64 * 2),
    }
}

/// Reads 768 MiB in pieces of 1 MiB: by the fastest 64 MiB of all, which other programs disturb least.
fn read(pool: &Pool) -> f64 {
    const PIECE: usize = 1 << 20;
    const PIECES: usize = 768;
    const PART: usize = 64;
    let bytes = Bytes::measured((PIECE * PIECES) as u64);
    let mut buffer = Cpu.reserve(bytes, Pages::Huge).expect("address space");
    buffer.commit_all().expect("768 MiB of memory");
    let words = buffer.as_slice::<u64>();
    let mut least = f64::MAX;
    best(|| {
        for part in 0..PIECES / PART {
            let begin = Instant::now();
            pool.run(PART, |piece| {
                let first = (part * PART + piece) * PIECE / 8;
                let (groups, _) = words[first..first + PIECE / 8].as_chunks::<32>();
                let mut sums = [0u64; 32];
                for group in groups {
                    for (sum, word) in sums.iter_mut().zip(group) {
                        *sum ^= word;
                    }
                }
                black_box(sums);
            });
            least = least.min(begin.elapsed().as_secs_f64());
        }
    });
    black_box(checksum::run(&[1]));
    (PIECE * PART) as f64 / least
}

/// Independent chains on registers.
fn compute(pool: &Pool, isa: Isa) -> f64 {
    let work: fn(usize) = match isa {
        // Scalar and everything that is not x86: no ceiling worth the name.
        Isa::Scalar => return f64::NAN,
        Isa::Avx2 => avx2,
        Isa::Avx512 => avx512,
        Isa::Avx512Bf16 => bf16,
        Isa::Amx => amx,
    };
    let per_step = match isa {
        Isa::Scalar => 0,
        Isa::Avx2 => 10 * 8 * 2,
        Isa::Avx512 => 16 * 16 * 2,
        Isa::Avx512Bf16 => 16 * 32 * 2,
        Isa::Amx => 4 * 16 * 16 * 32 * 2,
    };
    rate(pool, work, per_step)
}

fn rate(pool: &Pool, work: fn(usize), per_step: usize) -> f64 {
    const CHUNKS: usize = 64;
    const STEPS: usize = 20_000;
    let seconds = best(|| pool.run(CHUNKS, |_| work(STEPS)));
    (CHUNKS * STEPS * per_step) as f64 / seconds
}

#[cfg(not(target_arch = "x86_64"))]
mod x86 {
    pub(super) fn avx2(_: usize) {}
    pub(super) fn avx512(_: usize) {}
    pub(super) fn bf16(_: usize) {}
    pub(super) fn vnni(_: usize) {}
    pub(super) fn amx(_: usize) {}
    pub(super) fn amx_int8(_: usize) {}
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;
    use std::hint::black_box;
    use std::mem;

    pub(super) fn avx2(steps: usize) {
        #[target_feature(enable = "avx2,fma")]
        fn run(steps: usize) {
            let (a, b) = (
                _mm256_set1_ps(black_box(0.999)),
                _mm256_set1_ps(black_box(1e-3)),
            );
            let mut sums = [_mm256_setzero_ps(); 10];
            for _ in 0..steps {
                for sum in &mut sums {
                    *sum = _mm256_fmadd_ps(*sum, a, b);
                }
            }
            black_box(sums);
        }
        // SAFETY: `compute` calls it only where the pool has the instruction set.
        unsafe { run(steps) }
    }

    pub(super) fn avx512(steps: usize) {
        #[target_feature(enable = "avx512f")]
        fn run(steps: usize) {
            let (a, b) = (
                _mm512_set1_ps(black_box(0.999)),
                _mm512_set1_ps(black_box(1e-3)),
            );
            let mut sums = [_mm512_setzero_ps(); 16];
            for _ in 0..steps {
                for sum in &mut sums {
                    *sum = _mm512_fmadd_ps(*sum, a, b);
                }
            }
            black_box(sums);
        }
        // SAFETY: as above.
        unsafe { run(steps) }
    }

    pub(super) fn bf16(steps: usize) {
        #[target_feature(enable = "avx512f,avx512bf16")]
        fn run(steps: usize) {
            let pairs = _mm512_set1_epi32(black_box(0x3F80_3F80));
            // SAFETY: both are 64 bytes, and every bit pattern is a value of either.
            let pairs: __m512bh = unsafe { mem::transmute(pairs) };
            let mut sums = [_mm512_setzero_ps(); 16];
            for _ in 0..steps {
                for sum in &mut sums {
                    *sum = _mm512_dpbf16_ps(*sum, pairs, pairs);
                }
            }
            black_box(sums);
        }
        // SAFETY: as above.
        unsafe { run(steps) }
    }

    pub(super) fn vnni(steps: usize) {
        #[target_feature(enable = "avx512f,avx512vnni")]
        fn run(steps: usize) {
            let bytes = _mm512_set1_epi8(black_box(1));
            let mut sums = [_mm512_setzero_si512(); 16];
            for _ in 0..steps {
                for sum in &mut sums {
                    *sum = _mm512_dpbusd_epi32(*sum, bytes, bytes);
                }
            }
            black_box(sums);
        }
        // SAFETY: as above.
        unsafe { run(steps) }
    }

    /// Products of tiles of 16 x 16 sums by this instruction.
    macro_rules! tiles {
        ($name:ident, $product:literal) => {
            pub(super) fn $name(steps: usize) {
        #[repr(C, align(64))]
        struct Config([u8; 64]);
        let mut config = Config([0; 64]);
        config.0[0] = 1;
        for tile in 0..8 {
            (config.0[16 + 2 * tile], config.0[48 + tile]) = (64, 16);
        }
        // SAFETY: a valid palette 1 configuration; only tile registers are written, and they are
        // given up at the end.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
                "2:",
                concat!($product, " tmm0, tmm4, tmm6"),
                concat!($product, " tmm1, tmm4, tmm7"),
                concat!($product, " tmm2, tmm5, tmm6"),
                concat!($product, " tmm3, tmm5, tmm7"),
                "dec {steps}",
                "jnz 2b",
                "tilerelease",
                config = in(reg) &raw const config,
                steps = inout(reg) steps => _,
                options(nostack),
            );
        }
    }
        };
    }
    tiles!(amx, "tdpbf16ps");
    tiles!(amx_int8, "tdpbsud");
}

use x86::{amx, amx_int8, avx2, avx512, bf16, vnni};
