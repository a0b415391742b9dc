//! AMX tiles: the kernel gives them to a process that asks.

use std::sync::OnceLock;

/// What this process may multiply on tiles.
#[derive(Clone, Copy, Debug)]
struct Tiles {
    bf16: bool,
    bytes: bool,
}

/// Whether the CPU has bf16 tiles and the kernel lets this process use them.
pub(super) fn are_permitted() -> bool {
    tiles().bf16
}

/// The same of products of bytes.
pub(super) fn multiply_bytes() -> bool {
    tiles().bytes
}

/// Asked once: the permission holds for the process and all its threads.
fn tiles() -> Tiles {
    static PERMITTED: OnceLock<Tiles> = OnceLock::new();
    *PERMITTED.get_or_init(|| {
        let found = ask();
        // Tests have them everywhere: code for tiles is not to wait for a machine that has them.
        #[cfg(all(test, target_os = "linux"))]
        if !found.bf16 && super::emulated::install() {
            return Tiles {
                bf16: true,
                bytes: true,
            };
        }
        found
    })
}

fn ask() -> Tiles {
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    const AMX_INT8: u32 = 1 << 25;
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    let features = std::arch::x86_64::__cpuid_count(7, 0).edx;
    let has = |wanted: u32| features & (wanted | AMX_TILE) == wanted | AMX_TILE;
    let (bf16, bytes) = (has(AMX_BF16), has(AMX_INT8));
    // SAFETY: the call changes nothing but this process's permission to use tile registers; a
    // kernel that does not know it answers with an error.
    let is_permitted = (bf16 || bytes)
        && unsafe {
            libc::syscall(
                libc::SYS_arch_prctl,
                ARCH_REQ_XCOMP_PERM,
                XFEATURE_XTILEDATA,
            )
        } == 0;
    Tiles {
        bf16: bf16 && is_permitted,
        bytes: bytes && is_permitted,
    }
}
