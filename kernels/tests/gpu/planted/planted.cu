// planted.cu: kernels with one bug each, for the tests of the emulator itself; no card ever runs them.
//
// Each is right with `bug` 0 and wrong with `bug` 1: the right one must pass in every mode, the wrong
// one must be reported (bugs.rs says where and how). `in` has 256 numbers, `out` room for 256 that
// nobody wrote, `work` 256 zeros; bugs.rs says how many threads there are.
#include "../../../src/gpu/device.cuh"

#define PLANTED(name) KERNEL void planted_##name(float* out, float* work, const float* in, int bug)
#define LANE (threadIdx.x % 32)
#define HERE (blockIdx.x * blockDim.x + threadIdx.x)
// `count` numbers of shared memory, aligned to 16 bytes.
#define CELLS(name, count)                 \
    SHARED(float4, name##_of_4, [count / 4]); \
    float* name = &name##_of_4[0].x
constexpr unsigned ALL = 0xffffffffu;

// ---- order -----------------------------------------------------------------------------------
PLANTED(no_syncwarp) {
    SHARED(float, cell, [64]);
    cell[threadIdx.x] = in[threadIdx.x];
    __syncwarp();
    float other = cell[threadIdx.x ^ 1];
    __syncwarp();
    cell[threadIdx.x] = other + 1.0f;
    if (!bug) __syncwarp();
    out[threadIdx.x] = cell[threadIdx.x ^ 1];
}
EXPORT_KERNEL(planted_no_syncwarp)

// A shuffle makes lanes meet, but does not order what they wrote.
PLANTED(shuffle_for_syncwarp) {
    SHARED(float, cell, [64]);
    cell[threadIdx.x] = in[threadIdx.x];
    if (bug) out[threadIdx.x] = __shfl_xor_sync(ALL, 0.0f, 1);
    else __syncwarp();
    out[threadIdx.x] = cell[threadIdx.x ^ 1];
}
EXPORT_KERNEL(planted_shuffle_for_syncwarp)

PLANTED(no_syncthreads) {
    SHARED(float, cell, [64]);
    cell[threadIdx.x] = in[threadIdx.x];
    if (!bug) __syncthreads();
    out[threadIdx.x] = cell[63 - threadIdx.x];
}
EXPORT_KERNEL(planted_no_syncthreads)

// The second round overwrites what a slow warp still reads.
PLANTED(overwritten_too_early) {
    SHARED(float, cell, [64]);
    float sum = 0.0f;
    for (int round = 0; round < 2; round++) {
        cell[threadIdx.x] = in[round * 64 + threadIdx.x];
        __syncthreads();
        sum += cell[63 - threadIdx.x];
        if (!bug) __syncthreads();
    }
    out[threadIdx.x] = sum;
}
EXPORT_KERNEL(planted_overwritten_too_early)

PLANTED(count_read_too_early) {
    SHARED(unsigned, count, [1]);
    if (threadIdx.x == 0) count[0] = 0;
    __syncthreads();
    atomicAdd(&count[0], 1u);
    if (!bug) __syncthreads();
    out[threadIdx.x] = float(count[0]);
}
EXPORT_KERNEL(planted_count_read_too_early)

// Through device memory, within a block.
PLANTED(exchange_on_device) {
    out[threadIdx.x + 64] = in[threadIdx.x];
    if (!bug) __syncthreads();
    out[threadIdx.x] = out[64 + (threadIdx.x ^ 32)];
}
EXPORT_KERNEL(planted_exchange_on_device)

// ---- blocks ----------------------------------------------------------------------------------
PLANTED(two_blocks_write) { out[bug ? threadIdx.x : HERE] = in[threadIdx.x]; }
EXPORT_KERNEL(planted_two_blocks_write)

PLANTED(block_reads_another) {
    out[HERE] = in[HERE];
    __syncthreads();
    if (blockIdx.x == 1 && threadIdx.x == 0) out[128] = out[bug ? 0 : 64];
}
EXPORT_KERNEL(planted_block_reads_another)

PLANTED(last_block_wins) { out[bug ? threadIdx.x : HERE] = in[HERE]; }
EXPORT_KERNEL(planted_last_block_wins)

PLANTED(blocks_count) {
    out[HERE] = in[HERE];
    if (threadIdx.x == 0 && bug) work[0] += 1.0f;
    if (threadIdx.x == 0 && !bug) atomicAdd(&work[0], 1.0f);
}
EXPORT_KERNEL(planted_blocks_count)

// ---- who meets -------------------------------------------------------------------------------
PLANTED(barrier_in_a_branch) {
    if (!bug || threadIdx.x < 32) __syncthreads();
    out[threadIdx.x] = in[threadIdx.x];
}
EXPORT_KERNEL(planted_barrier_in_a_branch)

PLANTED(two_different_barriers) {
    if (bug && threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = in[threadIdx.x];
}
EXPORT_KERNEL(planted_two_different_barriers)

PLANTED(early_return) {
    if (bug && threadIdx.x == 5) return;
    __syncthreads();
    out[threadIdx.x] = in[threadIdx.x];
}
EXPORT_KERNEL(planted_early_return)

PLANTED(mask_without_the_lane) {
    out[threadIdx.x] = __shfl_xor_sync(bug ? 0x0000ffffu : ALL, in[threadIdx.x], 1);
}
EXPORT_KERNEL(planted_mask_without_the_lane)

PLANTED(masks_differ) {
    out[threadIdx.x] = __shfl_xor_sync(bug && LANE < 16 ? 0x0000ffffu : ALL, in[threadIdx.x], 1);
}
EXPORT_KERNEL(planted_masks_differ)

PLANTED(lane_outside_the_mask) {
    float v = 0.0f;
    if (LANE < 16) v = __shfl_sync(0x0000ffffu, in[threadIdx.x], bug ? 20 : 4);
    out[threadIdx.x] = v;
}
EXPORT_KERNEL(planted_lane_outside_the_mask)

PLANTED(shuffle_in_a_branch) {
    float v = in[threadIdx.x];
    if (!bug || LANE < 16) v = __shfl_xor_sync(ALL, v, 1);
    out[threadIdx.x] = v;
}
EXPORT_KERNEL(planted_shuffle_in_a_branch)

PLANTED(ballot_in_two_places) {
    unsigned votes;
    if (bug && LANE < 16)
        votes = __ballot_sync(ALL, in[threadIdx.x] > 0.0f);
    else
        votes = __ballot_sync(ALL, in[threadIdx.x] > 0.0f);
    out[threadIdx.x] = float(votes & 0xffffu);
}
EXPORT_KERNEL(planted_ballot_in_two_places)

// ---- bounds ----------------------------------------------------------------------------------
// The dynamic array has room for 60 numbers; the launch gives 64 threads.
PLANTED(dynamic_overrun) {
    SHARED_DYNAMIC(bytes);
    float* cell = reinterpret_cast<float*>(bytes);
    if (threadIdx.x < (bug ? 61 : 60)) cell[threadIdx.x] = in[threadIdx.x];
    out[threadIdx.x] = threadIdx.x < 60 ? cell[threadIdx.x] : 0.0f;
}
EXPORT_KERNEL(planted_dynamic_overrun)

PLANTED(static_overrun) {
    SHARED(float, cell, [60]);
    if (threadIdx.x < (bug ? 61 : 60)) (&cell[0])[threadIdx.x] = in[threadIdx.x];
    out[threadIdx.x] = threadIdx.x < 60 ? cell[threadIdx.x] : 0.0f;
}
EXPORT_KERNEL(planted_static_overrun)

PLANTED(static_overread) {
    SHARED(float, cell, [60]);
    if (threadIdx.x < 60) cell[threadIdx.x] = in[threadIdx.x];
    out[threadIdx.x] = threadIdx.x < (bug ? 61 : 60) ? (&cell[0])[threadIdx.x] : 0.0f;
}
EXPORT_KERNEL(planted_static_overread)

PLANTED(shared_nobody_wrote) {
    SHARED(float, cell, [64]);
    if (!bug || threadIdx.x != 7) cell[threadIdx.x] = in[threadIdx.x];
    out[threadIdx.x] = cell[threadIdx.x];
}
EXPORT_KERNEL(planted_shared_nobody_wrote)

PLANTED(device_overrun) {
    out[threadIdx.x] = in[threadIdx.x];
    if (threadIdx.x == 63) out[bug ? 256 : 255] = 1.0f;
}
EXPORT_KERNEL(planted_device_overrun)

PLANTED(device_overrun_by_far) {
    out[threadIdx.x] = in[threadIdx.x];
    if (threadIdx.x == 63) out[bug ? 8000 : 255] = 1.0f;
}
EXPORT_KERNEL(planted_device_overrun_by_far)

PLANTED(device_underrun) {
    out[threadIdx.x] = in[threadIdx.x];
    if (threadIdx.x == 63) *(bug ? out - 1 : out + 64) = 1.0f;
}
EXPORT_KERNEL(planted_device_underrun)

PLANTED(device_overread) {
    float last = threadIdx.x == 63 ? in[bug ? 256 : 255] : 0.0f;
    out[threadIdx.x] = in[threadIdx.x] + last;
}
EXPORT_KERNEL(planted_device_overread)

PLANTED(device_nobody_wrote) {
    if (!bug || threadIdx.x != 9) out[64 + threadIdx.x] = in[threadIdx.x];
    out[threadIdx.x] = out[64 + threadIdx.x];
}
EXPORT_KERNEL(planted_device_nobody_wrote)

PLANTED(misaligned_load) {
    const float4 v = *reinterpret_cast<const float4*>(in + 4 * (threadIdx.x % 32) + bug);
    out[threadIdx.x] = v.x + 2.0f * v.y + 3.0f * v.z + 4.0f * v.w;
}
EXPORT_KERNEL(planted_misaligned_load)

PLANTED(misaligned_store) {
    const float2 v = {in[threadIdx.x], 1.0f};
    *reinterpret_cast<float2*>(out + 2 * threadIdx.x + bug) = v;
}
EXPORT_KERNEL(planted_misaligned_store)

PLANTED(stale_cache) {
    const float v = in[threadIdx.x];
    reinterpret_cast<float4*>(out)[threadIdx.x] = float4{v, v, v, v};
    const float* from = bug ? out : in;
    out[4 * threadIdx.x] = float(dev::load_once(reinterpret_cast<const uint4*>(from) + threadIdx.x).x >> 16);
}
EXPORT_KERNEL(planted_stale_cache)

// An array is aligned as its type is, no more.
PLANTED(shared_misaligned) {
    SHARED(float, single, [128]);
    CELLS(cell, 128);
    const float4 v = reinterpret_cast<const float4*>(in)[threadIdx.x];
    reinterpret_cast<float4*>(bug ? &single[0] : cell)[threadIdx.x] = v;
    out[threadIdx.x] = v.x;
}
EXPORT_KERNEL(planted_shared_misaligned)

// ---- copies and matrices ---------------------------------------------------------------------
// 16 threads copy 16 bytes each.
__device__ void copy_64(float* to, const float* from) {
    if (threadIdx.x < 16) dev::cp_async16(to + 4 * threadIdx.x, from + 4 * threadIdx.x, true);
    dev::cp_async_commit();
}

PLANTED(copy_never_waited_for) {
    CELLS(cell, 64);
    copy_64(cell, in);
    if (!bug) dev::cp_async_wait<0>();
    out[threadIdx.x] = in[threadIdx.x];
}
EXPORT_KERNEL(planted_copy_never_waited_for)

PLANTED(copy_read_too_early) {
    CELLS(cell, 128);
    copy_64(cell, in);
    copy_64(cell + 64, in + 64);
    if (bug) dev::cp_async_wait<1>();
    else dev::cp_async_wait<0>();
    __syncthreads();
    out[threadIdx.x] = cell[threadIdx.x] + cell[64 + threadIdx.x];
    dev::cp_async_wait<0>();
}
EXPORT_KERNEL(planted_copy_read_too_early)

// Waited for, but only the thread that waited may read.
PLANTED(copy_without_a_barrier) {
    CELLS(cell, 64);
    copy_64(cell, in);
    dev::cp_async_wait<0>();
    if (!bug) __syncthreads();
    out[threadIdx.x] = cell[63 - threadIdx.x];
}
EXPORT_KERNEL(planted_copy_without_a_barrier)

// The next copy starts while a slow warp still reads the buffer.
PLANTED(copy_into_a_buffer_in_use) {
    CELLS(cell, 64);
    float sum = 0.0f;
    for (int round = 0; round < 2; round++) {
        copy_64(cell, in + 64 * round);
        dev::cp_async_wait<0>();
        __syncthreads();
        sum += cell[63 - threadIdx.x];
        if (!bug) __syncthreads();
    }
    out[threadIdx.x] = sum;
}
EXPORT_KERNEL(planted_copy_into_a_buffer_in_use)

PLANTED(copy_misaligned) {
    CELLS(cell, 64);
    if (threadIdx.x < 8) dev::cp_async16(cell + 4 * threadIdx.x, in + 4 * threadIdx.x + bug, true);
    dev::cp_async_commit();
    dev::cp_async_wait<0>();
    out[threadIdx.x] = threadIdx.x < 8 ? cell[4 * threadIdx.x] : 0.0f;
}
EXPORT_KERNEL(planted_copy_misaligned)

// Rows of 8 numbers of 16 bits; the last row starts behind the array.
PLANTED(matrix_out_of_bounds) {
    SHARED(uint4, rows, [32]);
    rows[LANE] = reinterpret_cast<const uint4*>(in)[LANE];
    __syncwarp();
    unsigned r[4];
    dev::ldmatrix_x4(r, &rows[0] + LANE + bug);
    out[threadIdx.x] = float(r[0] & 0xffff);
}
EXPORT_KERNEL(planted_matrix_out_of_bounds)

PLANTED(matrix_rows_on_one_bank) {
    SHARED(uint4, rows, [32 * 8]);
    const int stride = bug ? 8 : 1;
    rows[LANE * stride] = reinterpret_cast<const uint4*>(in)[LANE];
    __syncwarp();
    unsigned r[4];
    dev::ldmatrix_x4(r, &rows[LANE * stride]);
    out[threadIdx.x] = float(r[0] & 0xffff);
}
EXPORT_KERNEL(planted_matrix_rows_on_one_bank)
