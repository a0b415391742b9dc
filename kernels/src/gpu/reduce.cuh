// reduce.cuh: sums over a warp and over a block; every thread gets the result.
#pragma once
#include "device.cuh"

namespace dev {

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}

// The launcher guarantees whole warps. One barrier: a second call in the same kernel needs a
// __syncthreads() between the two.
__device__ __forceinline__ float block_sum(float v) {
    SHARED(float, partial, [32]);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    v = warp_sum(v);
    if (lane == 0) partial[warp] = v;
    __syncthreads();
    return warp_sum(lane < warps ? partial[lane] : 0.0f);
}

}  // namespace dev
