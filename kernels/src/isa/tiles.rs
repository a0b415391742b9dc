//! AMX tiles: the kernel gives them to a process that asks.

use std::sync::OnceLock;

/// Whether the CPU has bf16 tiles and the kernel lets this process use them. Asked once: the
/// permission holds for the process and all its threads.
pub(super) fn are_permitted() -> bool {
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    *PERMITTED.get_or_init(|| {
        const AMX_BF16: u32 = 1 << 22;
        const AMX_TILE: u32 = 1 << 24;
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        let features = std::arch::x86_64::__cpuid_count(7, 0).edx;
        if features & AMX_BF16 == 0 || features & AMX_TILE == 0 {
            return false;
        }
        // SAFETY: the call changes nothing but this process's permission to use tile registers; a
        // kernel that does not know it answers with an error.
        let code = unsafe {
            libc::syscall(
                libc::SYS_arch_prctl,
                ARCH_REQ_XCOMP_PERM,
                XFEATURE_XTILEDATA,
            )
        };
        code == 0
    })
}
