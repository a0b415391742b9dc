//! The bugs of planted.cu, in its order, and which mode says what of them.

use super::{Plant, WRONG};

const RACE: &str = "shared memory race";
const DEVICE_RACE: &str = "device memory race";
/// AddressSanitizer's word for a byte that is nobody's.
const NOBODYS: &str = "AddressSanitizer: use-after-poison";
/// Where a mode does not see a bug.
const UNSEEN: &str = "";

/// Blocks, threads of each, bytes of dynamic shared memory.
type Size = (u32, u32, u32);
const ONE: Size = (1, 64, 0);
const WARP: Size = (1, 32, 0);
const TWO: Size = (2, 64, 0);

const fn plant(
    kernel: &'static str,
    name: &'static str,
    (blocks, threads, shared_bytes): Size,
    said: [&'static str; 3],
) -> Plant {
    Plant {
        name,
        kernel,
        blocks,
        threads,
        shared_bytes,
        said,
    }
}

/// What the emulator itself says, in every mode.
const fn always(said: &'static str) -> [&'static str; 3] {
    [said; 3]
}

#[rustfmt::skip]
pub(crate) const PLANTS: &[Plant] = &[
    plant("no_syncwarp", "a missing __syncwarp", ONE, [WRONG, RACE, WRONG]),
    plant("shuffle_for_syncwarp", "a shuffle where a __syncwarp should be", ONE, [UNSEEN, RACE, UNSEEN]),
    plant("no_syncthreads", "a missing __syncthreads", ONE, [WRONG, "shared memory that was never written", WRONG]),
    plant("overwritten_too_early", "a buffer overwritten while it is read", ONE, [WRONG, RACE, WRONG]),
    plant("count_read_too_early", "a counter read among its atomics", ONE, [WRONG, RACE, WRONG]),
    plant("exchange_on_device", "an exchange on the device without a barrier", ONE, [WRONG, "device memory that nobody wrote", WRONG]),
    plant("two_blocks_write", "two blocks that write one number", TWO, [UNSEEN, DEVICE_RACE, UNSEEN]),
    plant("block_reads_another", "a block that reads another's result", TWO, [WRONG, "device memory", WRONG]),
    plant("last_block_wins", "a result that hangs on the order of blocks", TWO, [WRONG, DEVICE_RACE, WRONG]),
    plant("blocks_count", "blocks that count without atomics", TWO, [UNSEEN, DEVICE_RACE, UNSEEN]),

    plant("barrier_in_a_branch", "a barrier in a branch", ONE, always("deadlock: 32 threads have exited; 32 threads wait in __syncthreads at planted.cu:")),
    plant("two_different_barriers", "two barriers for one", ONE, always("divergent __syncthreads")),
    plant("early_return", "a return before a barrier", ONE, always("deadlock: 1 threads have exited; 63 threads wait in __syncthreads at planted.cu:")),
    plant("mask_without_the_lane", "a mask without the lane that gives it", ONE, always("mask 0000ffff, lane ")),
    plant("masks_differ", "masks that differ between lanes", ONE, always("32 threads have exited; 32 threads wait in __shfl_xor_sync at planted.cu:")),
    plant("lane_outside_the_mask", "a shuffle from an inactive lane", ONE, always("reads lane 20 outside its mask 0000ffff")),
    plant("shuffle_in_a_branch", "a shuffle in a branch", ONE, always("wait in __shfl_xor_sync at planted.cu:")),
    plant("ballot_in_two_places", "a vote in two places", ONE, always("divergent warp ")),

    plant("dynamic_overrun", "a write past the dynamic array", (1, 64, 240), ["past the end of a shared array of 240", "byte 240 of the dynamic shared array of 240", NOBODYS]),
    plant("static_overrun", "a write past a static array", ONE, ["past the end of a shared array of 240", "byte 240 of the static shared array of 240", NOBODYS]),
    plant("static_overread", "a read past a static array", ONE, [WRONG, "byte 240 of the static shared array of 240", NOBODYS]),
    plant("shared_nobody_wrote", "a read of shared memory that nobody wrote", ONE, [WRONG, "reads shared memory that was never written (byte 28 of the static", WRONG]),
    plant("device_overrun", "a write past an allocation", ONE, ["wrote past the end of device memory of 1024 bytes", "byte 1024 of an allocation of 1024 bytes", NOBODYS]),
    plant("device_overrun_by_far", "a write far past an allocation", ONE, [UNSEEN, "byte 32000 of an allocation of 1024 bytes", NOBODYS]),
    plant("device_underrun", "a write in front of an allocation", ONE, ["wrote in front of device memory of 1024 bytes", "4 bytes in front of an allocation of 1024 bytes", NOBODYS]),
    plant("device_overread", "a read past an allocation", ONE, [WRONG, "byte 1024 of an allocation of 1024 bytes", NOBODYS]),
    plant("device_nobody_wrote", "a read of device memory that nobody wrote", ONE, [WRONG, "reads device memory that nobody wrote (byte 292 of", WRONG]),
    plant("misaligned_load", "a load of 16 bytes between two", ONE, [UNSEEN, "which is no multiple of 16", "misaligned address"]),
    plant("misaligned_store", "a store of 8 bytes between two", (1, 32, 0), [UNSEEN, "which is no multiple of 8", "misaligned address"]),
    plant("shared_misaligned", "a shared array aligned less than what is stored", (1, 32, 0), [UNSEEN, "which is no multiple of 16", "misaligned address"]),
    plant("stale_cache", "a load past the cache of what was just written", ONE, [UNSEEN, "reads device memory past its cache", UNSEEN]),

    plant("copy_never_waited_for", "a copy that nobody waits for", ONE, always("ends with 1 cp.async that nobody waited for")),
    plant("copy_read_too_early", "a copy that is read before it is waited for", ONE, [WRONG, "may still be writing", WRONG]),
    plant("copy_without_a_barrier", "a copy that others read without a barrier", ONE, [WRONG, "shared memory", WRONG]),
    plant("copy_into_a_buffer_in_use", "a copy into a buffer in use", ONE, [WRONG, RACE, WRONG]),
    plant("copy_misaligned", "a copy from between two groups of 16 bytes", ONE, always("source not aligned to 16")),
    plant("matrix_out_of_bounds", "a matrix past its array", WARP, always("ldmatrix at planted.cu:")),
    plant("matrix_rows_on_one_bank", "eight rows of a matrix on one bank", WARP, always("bank conflicts of ldmatrix")),
];
