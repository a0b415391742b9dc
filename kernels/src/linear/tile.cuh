// tile.cuh: what kernels with a tile of the result share, whatever their weights are stored as: which
// tile and which part of it a block and a warp have, where chunks of x lie in shared memory, and the way
// of sums out.
#pragma once
#include "call.cuh"

namespace linear {
constexpr int GROUP_TOKENS = 2048;  // whose x stays in the second cache while w passes

// BM tokens and BN rows of w, WM x WN of them a warp's; BK columns are a stage.
template <class T, int BM, int BN, int BK, int WM, int WN> struct Tile {
    static constexpr int THREADS = BM / WM * (BN / WN) * 32;
    static constexpr int CHUNKS = BK / 8;            // of 16 bytes, in a row of x of a stage
    static constexpr int PARTS = BK / 16;            // of a stage: the columns of one instruction
    static constexpr int TM = WM / 16, TN = WN / 8;  // a warp's instructions for one part
    static constexpr int PITCH = WN + 8;             // from row to row on the way out: no bank twice at once

    const Sizes size;
    unsigned char* shared;
    int m0 = 0, n0 = 0;  // the tile's first token and row
    int wm = 0, wn = 0;  // the warp's, inside the tile

    // Where a chunk of a stage lies: eight rows of one chunk meet no bank twice. Rows that are a multiple
    // of 8 apart are moved alike.
    static __device__ __forceinline__ int place(int row, int chunk) {
        return row * BK + ((chunk ^ row * CHUNKS / 8) & (CHUNKS - 1)) * 8;
    }

    // Inside a group of tokens, the tiles that share rows of w are neighbours: w is read once for the
    // whole group, whose x stays near.
    __device__ __forceinline__ void take() {
        constexpr int GROUP = GROUP_TOKENS / BM;
        const int tiles_m = (size.tokens + BM - 1) / BM, tiles_n = (size.rows + BN - 1) / BN;
        const int group = blockIdx.x / (GROUP * tiles_n), at = blockIdx.x % (GROUP * tiles_n);
        const int high = min(GROUP, tiles_m - group * GROUP);
        m0 = (group * GROUP + at % high) * BM, n0 = at / high * BN;
        const int warp = threadIdx.x / 32;
        wm = warp / (BN / WN) * WM, wn = warp % (BN / WN) * WN;
    }

    // ROWS rows of a stage, from row 0 of `to` on; `from` is this thread's chunk of its first row.
    template <int ROWS>
    static __device__ __forceinline__ void copy(T* to, const T* from, size_t stride, int rows_left, bool is_there) {
        constexpr int STEP = THREADS / CHUNKS;
        const int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
        to += place(row, chunk);
#pragma unroll
        for (int i = 0; i < ROWS; i += STEP)
            dev::cp_async16(to + i * BK, from + i * stride, is_there && row + i < rows_left);
    }

    // Sixteen tokens of the warp at a time pass through shared memory, so that a lane writes eight
    // neighbours at once.
    __device__ __forceinline__ void write(Out<T> out, const float (&sum)[TM][TN][4], const float* bias) const {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, rows = size.rows;
        float* own = reinterpret_cast<float*>(shared) + warp * 16 * PITCH;
        const int n = lane % TN * 8, row = n0 + wn + n;
        float add[8];
#pragma unroll
        for (int e = 0; e < 8; e++) add[e] = bias && row + e < rows ? bias[row + e] : 0.0f;
#pragma unroll
        for (int i = 0; i < TM; i++) {
            __syncwarp();
#pragma unroll
            for (int j = 0; j < TN; j++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    float2* to = reinterpret_cast<float2*>(own + (lane / 4 + h * 8) * PITCH + j * 8 + lane % 4 * 2);
                    *to = {sum[i][j][h * 2], sum[i][j][h * 2 + 1]};
                }
            __syncwarp();
#pragma unroll
            for (int m = lane / TN; m < 16; m += 32 / TN) {
                const int token = m0 + wm + i * 16 + m;
                if (token >= size.tokens || row >= rows) continue;
                float v[8];
                dev::load8(v, own + m * PITCH + n);
#pragma unroll
                for (int e = 0; e < 8; e++) v[e] += add[e];
                const size_t at = size_t(token) * rows + row;
                if (rows % 8 == 0) out.put8(at, v);
                else
#pragma unroll
                    for (int e = 0; e < 8; e++)
                        if (row + e < rows) out.put(at + e, v[e]);
            }
        }
    }
};

}  // namespace linear
