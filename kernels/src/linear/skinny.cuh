// skinny.cuh: what kernels for few tokens share, whatever their weights are stored as: a block has 16 rows
// of w, its warps a part of the columns each, and their sums are added at the end.
#pragma once
#include "call.cuh"

namespace linear {
constexpr int ROWS = 16, MOST_THREADS = 512;
constexpr int PITCH = 20;  // from one token's 16 sums to the next: no bank is written twice at once

// Adds the warps' sums[part][TOKENS][PITCH], in the order of the parts, and writes the block's rows.
template <class T, int TOKENS>
__device__ __forceinline__ void add_parts(Out<T> out, const float* sums, int parts, const float* bias, Sizes size) {
    __syncthreads();
    for (int i = threadIdx.x; i < ROWS * size.tokens; i += blockDim.x) {
        const int lane = i % ROWS, token = i / ROWS, row = blockIdx.x * ROWS + lane;
        if (row >= size.rows) continue;
        float sum = 0.0f;
        for (int part = 0; part < parts; part++) sum += sums[(part * TOKENS + token) * PITCH + lane];
        out.put(size_t(token) * size.rows + row, bias ? sum + bias[row] : sum);
    }
}

}  // namespace linear
