// poison.cu: p[i] = 0xFF for i < bytes.
// A thread writes STEPS groups of 16 bytes, as far as they go; the bytes before the first multiple of
// 16 and behind the last one are written one by one by the first threads of the first block.
// Written once: bandwidth-bound, expected 90% of the fill bandwidth from 16 MiB on.
// The launcher guarantees head = bytes before the first multiple of 16 (at most `bytes`), blockDim.x
// == 256, gridDim.x == (bytes - head) / 16 KiB rounded up, at least 1. Any address, any length.
//
// budget: poison_fill 32 registers
#include "../gpu/device.cuh"

namespace poison {
constexpr int THREADS = 256, STEPS = 4;

__device__ __forceinline__ void fill(unsigned char* __restrict__ p, unsigned long long bytes, unsigned head) {
    const size_t groups = (bytes - head) / 16, first = size_t(blockIdx.x) * (THREADS * STEPS) + threadIdx.x;
    uint4* body = reinterpret_cast<uint4*>(p + head);
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        const size_t at = first + s * THREADS;
        if (at < groups) body[at] = uint4{~0u, ~0u, ~0u, ~0u};
    }
    if (blockIdx.x > 0) return;
    const size_t behind = head + groups * 16 + threadIdx.x;
    if (threadIdx.x < head) p[threadIdx.x] = 0xFF;
    if (behind < bytes) p[behind] = 0xFF;
}
}  // namespace poison

KERNEL void __launch_bounds__(poison::THREADS) poison_fill(unsigned char* p, unsigned long long bytes, unsigned head) {
    poison::fill(p, bytes, head);
}
EXPORT_KERNEL(poison_fill)
