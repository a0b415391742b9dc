//! The tile instructions at an address, as their VEX encodings have them.

use super::tiles::Numbers;

/// What addresses memory: the first row, and how far the next one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Operand {
    pub(super) at: usize,
    pub(super) stride: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instruction {
    /// From 64 bytes at an address.
    Configure(usize),
    Release,
    Zero(usize),
    Load(usize, Operand),
    Store(usize, Operand),
    /// Tiles of sums, of a and of b.
    Multiply(Numbers, [usize; 3]),
}

/// The general registers of a stopped thread.
pub(super) type Registers = [libc::greg_t; 23];

/// The instruction that a thread has stopped at, and its length; None where it is none of tiles.
///
/// # Safety
/// The instruction pointer is at an instruction of this process.
pub(super) unsafe fn at(registers: &Registers) -> Option<(Instruction, libc::greg_t)> {
    let code = registers[libc::REG_RIP as usize] as *const u8;
    // SAFETY: bytes are read one after the other, each only where those before say that the instruction
    // goes on.
    let byte = |at: usize| usize::from(unsafe { *code.add(at) });
    if byte(0) != 0xC4 || byte(1) & 0x1F != 2 {
        return None;
    }
    let vex = Vex {
        index: (!byte(1) >> 6 & 1) << 3,
        base: (!byte(1) >> 5 & 1) << 3,
        third: !byte(2) >> 3 & 15,
        prefix: byte(2) & 3,
    };
    let (opcode, modrm) = (byte(3), byte(4));
    let (mode, reg, rm) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
    let memory = || address(registers, &vex, (mode, rm), |at| byte(5 + at));
    let (instruction, length) = match (opcode, vex.prefix, mode) {
        (0x49, 0, 3) => (Instruction::Release, 5),
        (0x49, 3, 3) => (Instruction::Zero(reg), 5),
        (0x49, 0, _) => {
            let (operand, more) = memory()?;
            (
                Instruction::Configure(operand.at + operand.stride),
                5 + more,
            )
        }
        (0x4B, prefix, 0..3) if rm == 4 => {
            let (operand, more) = memory()?;
            let instruction = match prefix {
                1 | 3 => Instruction::Load(reg, operand),
                2 => Instruction::Store(reg, operand),
                _ => return None,
            };
            (instruction, 5 + more)
        }
        (0x5C, 2, 3) => (
            Instruction::Multiply(Numbers::Bf16, [reg, rm, vex.third]),
            5,
        ),
        (0x5E, prefix, 3) => {
            let (a, b) = [(false, false), (false, true), (true, false), (true, true)][prefix];
            (
                Instruction::Multiply(Numbers::Bytes { a, b }, [reg, rm, vex.third]),
                5,
            )
        }
        _ => return None,
    };
    Some((instruction, length))
}

/// The prefix's share of the operands, its bits turned back.
struct Vex {
    index: usize,
    base: usize,
    third: usize,
    prefix: usize,
}

/// An operand in memory, its index taken for a stride, and how many bytes follow the first.
fn address(
    registers: &Registers,
    vex: &Vex,
    (mode, rm): (usize, usize),
    byte: impl Fn(usize) -> usize,
) -> Option<(Operand, libc::greg_t)> {
    let (mut stride, mut base, mut more) = (0, vex.base | rm, 0);
    if rm == 4 {
        let sib = byte(0);
        more = 1;
        base = vex.base | sib & 7;
        let index = vex.index | sib >> 3 & 7;
        if index != 4 {
            stride = general(registers, index) << (sib >> 6);
        }
    }
    // Addresses without a base, or from the instruction on.
    if mode == 0 && base & 7 == 5 {
        return None;
    }
    let at = general(registers, base);
    let (offset, bytes) = match mode {
        0 => (0, 0),
        1 => (i32::from((byte(more) as u8).cast_signed()), 1),
        _ => {
            let four = [0, 1, 2, 3].map(|of| byte(more + of) as u8);
            (i32::from_le_bytes(four), 4)
        }
    };
    let at = at.wrapping_add_signed(offset as isize);
    Some((Operand { at, stride }, (more + bytes) as libc::greg_t))
}

/// A general register by the number that instructions give it.
fn general(registers: &Registers, number: usize) -> usize {
    const ORDER: [libc::c_int; 16] = [
        libc::REG_RAX,
        libc::REG_RCX,
        libc::REG_RDX,
        libc::REG_RBX,
        libc::REG_RSP,
        libc::REG_RBP,
        libc::REG_RSI,
        libc::REG_RDI,
        libc::REG_R8,
        libc::REG_R9,
        libc::REG_R10,
        libc::REG_R11,
        libc::REG_R12,
        libc::REG_R13,
        libc::REG_R14,
        libc::REG_R15,
    ];
    registers[ORDER[number] as usize] as usize
}
