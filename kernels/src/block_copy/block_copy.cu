// block_copy.cu: cache[to[i]] = cache[from[i]], whole blocks, for pair i = blockIdx.y.
// cache (blocks, block) in units of U: 16 bytes, or 2 where a block or the cache is no multiple of 16.
// A pair is one argument, from in the low half and to in the high one: pairs travel with the launch, so
// that no list in device memory can differ from the one that was checked.
// A thread moves STEPS units. Read once, written once: bandwidth-bound, expected 85% of the copy
// bandwidth from 16 MiB on (8 blocks of 2 MiB); units of 2 bytes far less.
// The launcher guarantees gridDim.y == pairs <= 16, blockDim.x == 256, gridDim.x == block / 1024
// rounded up, all blocks inside the cache, and of the pairs of a launch that no block is written which
// another pair reads or writes.
//
// budget: block_copy_ 40 registers
#include "../gpu/device.cuh"

namespace block_copy {
constexpr int THREADS = 256, STEPS = 4;
using u64 = unsigned long long;

// This block's pair: selected, not indexed, for an index would copy all of them to memory.
template <class... P>
__device__ __forceinline__ u64 select(P... pairs) {
    u64 pair = 0;
    unsigned i = 0;
    ((pair |= blockIdx.y == i++ ? pairs : 0), ...);
    return pair;
}

template <class U>
__device__ __forceinline__ void copy(U* cache, u64 block, u64 pair) {
    const U* from = cache + (pair & 0xffffffffu) * block;
    U* to = cache + (pair >> 32) * block;
    const u64 first = u64(blockIdx.x) * (THREADS * STEPS) + threadIdx.x;
    U v[STEPS];
#pragma unroll
    for (int s = 0; s < STEPS; s++)
        if (first + s * THREADS < block) v[s] = from[first + s * THREADS];
#pragma unroll
    for (int s = 0; s < STEPS; s++)
        if (first + s * THREADS < block) to[first + s * THREADS] = v[s];
}
}  // namespace block_copy

#define BLOCK_COPY(bytes, U)                                                                                              \
    KERNEL void __launch_bounds__(block_copy::THREADS) block_copy_##bytes(                                                \
        U* cache, block_copy::u64 block, block_copy::u64 p0, block_copy::u64 p1, block_copy::u64 p2, block_copy::u64 p3,  \
        block_copy::u64 p4, block_copy::u64 p5, block_copy::u64 p6, block_copy::u64 p7, block_copy::u64 p8,               \
        block_copy::u64 p9, block_copy::u64 p10, block_copy::u64 p11, block_copy::u64 p12, block_copy::u64 p13,           \
        block_copy::u64 p14, block_copy::u64 p15) {                                                                       \
        block_copy::copy<U>(cache, block, block_copy::select(p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, p12, p13,  \
                                                             p14, p15));                                                  \
    }                                                                                                                     \
    EXPORT_KERNEL(block_copy_##bytes)

BLOCK_COPY(16, uint4)
BLOCK_COPY(2, unsigned short)
