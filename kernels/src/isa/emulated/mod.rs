//! Tile instructions in software, for tests on machines without AMX: the processor faults at each, and what
//! the kernel's signal finds there is decoded and carried out. So the code that would run on tiles runs
//! here, byte for byte, and what is wrong with it is seen; only its speed is not.
//!
//! Encodings and semantics: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2,
//! `LDTILECFG` to `TILEZERO`. What would fault on the real thing (no configuration, sizes that do not fit)
//! faults here, too: the test ends by `SIGILL`.

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "registers are numbers without a sign of the size of an address, bytes of code are bytes"
)]
mod decode;
mod tiles;

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::{mem, ptr};

use decode::{Instruction, Operand};
use tiles::Tiles;

thread_local! {
    /// Every thread has tile registers of its own.
    static TILES: RefCell<Tiles> = const { RefCell::new(Tiles::NONE) };
}

/// Takes faulting tile instructions over, for the whole process; whether that was possible.
pub(super) fn install() -> bool {
    // SAFETY: a zeroed `sigaction` is a valid one without flags and mask; the handler has the type that
    // `SA_SIGINFO` asks for, and lives as long as the program.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGILL, &raw const action, ptr::null_mut()) == 0
    }
}

extern "C" fn on_fault(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands a handler with `SA_SIGINFO` the context of the thread it stopped, which is
    // this one; nothing else has it until the handler returns.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let mut done = 0;
    // What follows would fault, too: a signal costs more than the instruction.
    // SAFETY: the instruction pointer is at the code that faulted, or behind an instruction that does not
    // jump; it is read as far as it decodes.
    while let Some((instruction, length)) = unsafe { decode::at(registers) } {
        if !TILES.with(|tiles| carry_out(&mut tiles.borrow_mut(), instruction)) {
            break;
        }
        registers[libc::REG_RIP as usize] += length;
        done += 1;
    }
    if done == 0 {
        // SAFETY: from now on the fault is what it is without this handler: the end of the process.
        unsafe { libc::signal(libc::SIGILL, libc::SIG_DFL) };
    }
}

/// Whether a processor would have done it.
fn carry_out(tiles: &mut Tiles, instruction: Instruction) -> bool {
    match instruction {
        Instruction::Configure(at) => {
            // SAFETY: the code under test vouches for the 64 bytes, as it does to a processor.
            let bytes = unsafe { ptr::read_unaligned(at as *const [u8; 64]) };
            tiles.configure(&bytes)
        }
        Instruction::Release => {
            *tiles = Tiles::NONE;
            true
        }
        Instruction::Zero(tile) => tiles.zero(tile),
        Instruction::Load(tile, Operand { at, stride }) => tiles.rows_of(tile, |row, bytes| {
            // SAFETY: the code under test vouches for as many bytes of each row as are configured.
            unsafe {
                ptr::copy_nonoverlapping(
                    (at + row * stride) as *const u8,
                    bytes.as_mut_ptr(),
                    bytes.len(),
                )
            };
        }),
        Instruction::Store(tile, Operand { at, stride }) => tiles.rows_of(tile, |row, bytes| {
            // SAFETY: as above.
            unsafe {
                ptr::copy_nonoverlapping(
                    bytes.as_ptr(),
                    (at + row * stride) as *mut u8,
                    bytes.len(),
                )
            };
        }),
        Instruction::Multiply(numbers, [sums, a, b]) => tiles.multiply(numbers, sums, a, b),
    }
}

#[cfg(test)]
mod tests {
    use std::arch::asm;

    use super::super::tiles::are_permitted;

    /// Two rows of four bytes with signs by four rows (of one column) without.
    #[test]
    fn a_product_of_bytes_is_what_arithmetic_says() {
        assert!(are_permitted());
        let mut config = [0_u8; 64];
        config[0] = 1;
        // Sums: 2 rows of 2 numbers; a: 2 rows of 8 bytes; b: 2 rows of 2 x 4 bytes.
        for (tile, (bytes, rows)) in [(8, 2), (8, 2), (8, 2)].into_iter().enumerate() {
            config[16 + 2 * tile] = bytes;
            config[48 + tile] = rows;
        }
        let a: [[i8; 8]; 2] = [[1, -2, 3, -4, 5, -6, 7, -8], [127, -128, 0, 1, 2, 3, 4, 5]];
        let b: [[u8; 8]; 2] = [[1, 2, 3, 4, 255, 254, 253, 252], [9, 8, 7, 6, 0, 1, 0, 200]];
        let mut sums = [[0_i32; 2]; 2];
        // SAFETY: the configuration is valid; tiles are loaded from and stored to the arrays above, whose
        // rows are 8 bytes apart.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "tilezero tmm0",
                "tileloadd tmm1, [{a} + {stride}]",
                "tileloadd tmm2, [{b} + {stride}]",
                "tdpbsud tmm0, tmm1, tmm2",
                "tdpbsud tmm0, tmm1, tmm2",
                "tilestored [{sums} + {stride}], tmm0",
                "tilerelease",
                config = in(reg) config.as_ptr(),
                a = in(reg) a.as_ptr(),
                b = in(reg) b.as_ptr(),
                sums = in(reg) sums.as_mut_ptr(),
                stride = in(reg) 8_usize,
                options(nostack),
            );
        }
        let product = |row: usize, col: usize| -> i32 {
            let of = |k: usize| i32::from(a[row][k]) * i32::from(b[k / 4][4 * col + k % 4]);
            2 * (0..8).map(of).sum::<i32>()
        };
        let wanted = [0, 1].map(|row| [0, 1].map(|col| product(row, col)));
        assert_eq!(sums, wanted);
    }
}
