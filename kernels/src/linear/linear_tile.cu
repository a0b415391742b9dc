// linear_tile.cu: out[t, r] = sum_c x[t, c] * w[r, c] + bias[r] for any number of tokens, in f16 and bf16.
// x (tokens, stride) and w (rows padded to 16, cols padded to 32) in T; bias (rows) in f32 or null;
// out (tokens, rows) in T or f32. Sums in f32.
// One block per tile of BM tokens and BN rows of w; each of its warps has WM x WN of it in registers.
// BK columns of the tile's x and w are a stage in shared memory; STAGES - 1 stages are on their way
// by cp.async while one is multiplied, and the fragments of the next 16 columns are read while the
// present ones are multiplied. Every result is one chain of m16n8k16 over the columns in order, so
// all tiles give the same bits.
//   128x256: arithmetic-bound, expected 70% of what mma.sync can do on an A100, 60% on an H100
//   128x128: as above, 55%; fills the card with half the tokens
//   64x64:   few tokens or few rows
//   64x32:   a batch of up to 64 sequences that decode; bandwidth-bound, expected 60% of the copy bandwidth
//
// The launcher guarantees gridDim.x == tiles of tokens * tiles of rows; blockDim.x == 32 * BM / WM * BN / WN;
// cols and stride multiples of 8, stride >= cols; tokens and rows at least 1; addresses multiples of
// 16; dynamic shared memory of STAGES * (BM + BN) * BK * 2 bytes (96, 64, 64 and 72 KiB).
//
// budget: linear_tile_f16_128x256 255 registers
// budget: linear_tile_bf16_128x256 255 registers
// budget: linear_tile_f16_128x128 255 registers
// budget: linear_tile_bf16_128x128 255 registers
// budget: linear_tile_f16_64x64 128 registers
// budget: linear_tile_bf16_64x64 128 registers
// budget: linear_tile_f16_64x32 104 registers
// budget: linear_tile_bf16_64x32 104 registers
#include "call.cuh"

namespace linear_tile {
constexpr int GROUP_TOKENS = 2048;  // whose x stays in the second cache while w passes

template <class T, int BM, int BN, int BK, int WM, int WN, int STAGES> struct Tile {
    static constexpr int THREADS = BM / WM * (BN / WN) * 32;
    static constexpr int CHUNKS = BK / 8;            // of 16 bytes, in a row of a stage
    static constexpr int PARTS = BK / 16;            // of a stage: the columns of one instruction
    static constexpr int STAGE = (BM + BN) * BK;     // numbers
    static constexpr int TM = WM / 16, TN = WN / 8;  // a warp's instructions for one part
    static constexpr int PITCH = WN + 8;             // from row to row on the way out: no bank twice at once

    struct Fragments {
        unsigned x[TM][4], w[TN / 2][4];
    };
    const linear::Sizes size;
    T* stages;
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

    __device__ __forceinline__ void read(Fragments& f, int slot, int part) const {
        const int lane = threadIdx.x % 32;
        const T *x = stages + slot * STAGE + wm * BK, *w = stages + slot * STAGE + (BM + wn) * BK;
        x += place(lane % 16, part * 2 + lane / 16), w += place(lane % 8 + lane / 16 * 8, part * 2 + lane / 8 % 2);
#pragma unroll
        for (int i = 0; i < TM; i++) dev::ldmatrix_x4(f.x[i], x + i * 16 * BK);
#pragma unroll
        for (int j = 0; j < TN / 2; j++) dev::ldmatrix_x4(f.w[j], w + j * 16 * BK);
    }

    static __device__ __forceinline__ void multiply(float (&sum)[TM][TN][4], const Fragments& f) {
#pragma unroll
        for (int i = 0; i < TM; i++)
#pragma unroll
            for (int j = 0; j < TN; j++) {
                const unsigned(&w)[4] = f.w[j / 2];
                dev::mma_16816<T>(sum[i][j], f.x[i], w[j % 2 * 2], w[j % 2 * 2 + 1]);
            }
    }

    // Sixteen tokens of the warp at a time pass through shared memory, so that a lane writes eight
    // neighbours at once.
    __device__ __forceinline__ void write(linear::Out<T> out, const float (&sum)[TM][TN][4], const float* bias) const {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, rows = size.rows;
        float* own = reinterpret_cast<float*>(stages) + warp * 16 * PITCH;
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

    __device__ __forceinline__ void run(linear::Out<T> out, const T* x, const T* w, const float* bias) {
        take();
        const int steps = (size.cols + BK - 1) / BK, padded = (size.cols + 31) / 32 * 32;
        const int row = threadIdx.x / CHUNKS, c = threadIdx.x % CHUNKS * 8;
        x += (m0 + row) * size.stride + c, w += size_t(n0 + row) * padded + c;
        // Columns past `cols` are zeros on both sides, whatever lies there.
        auto fetch = [&](int step, int slot) {
            if (step < steps) {
                T* to = stages + slot * STAGE;
                const bool is_there = step * BK + c < size.cols;
                copy<BM>(to, x + step * BK, size.stride, size.tokens - m0, is_there);
                copy<BN>(to + BM * BK, w + step * BK, padded, size.rows - n0, is_there);
            }
            dev::cp_async_commit();
        };
        for (int step = 0; step < STAGES - 1; step++) fetch(step, step);
        dev::cp_async_wait<STAGES - 2>();
        __syncthreads();
        Fragments f[2];
        float sum[TM][TN][4] = {};
        if (steps > 0) read(f[0], 0, 0);
        for (int step = 0, slot = 0; step < steps; step++) {
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                if (part + 1 < PARTS) {
                    read(f[(part + 1) % 2], slot, part + 1);
                } else {
                    dev::cp_async_wait<STAGES - 2>();
                    __syncthreads();
                    slot = slot == STAGES - 1 ? 0 : slot + 1;
                    if (step + 1 < steps) read(f[0], slot, 0);
                }
                // Into the slot of the step before, which nobody reads any more.
                if (part == 0) fetch(step + STAGES - 1, slot == 0 ? STAGES - 1 : slot - 1);
                multiply(sum, f[part % 2]);
            }
        }
        // Nobody reads a stage any more since the last barrier, and no copy is on its way.
        write(out, sum, bias);
    }
};
}  // namespace linear_tile

#define LINEAR_TILE(suffix, T, BM, BN, BK, WM, WN, STAGES, BLOCKS)                                                     \
    KERNEL void __launch_bounds__(linear_tile::Tile<T, BM, BN, BK, WM, WN, STAGES>::THREADS, BLOCKS)                   \
        linear_tile_##suffix##_##BM##x##BN(void* out, const T* __restrict__ x, const T* __restrict__ w,                \
                                           const float* __restrict__ bias, int tokens, int rows, int cols, int stride, \
                                           int out_is_f32) {                                                           \
        SHARED_DYNAMIC(shared);                                                                                        \
        const linear::Sizes size = {tokens, rows, cols, size_t(stride)};                                               \
        linear_tile::Tile<T, BM, BN, BK, WM, WN, STAGES> tile{size, reinterpret_cast<T*>(shared)};                     \
        tile.run({out, out_is_f32 != 0}, x, w, bias);                                                                  \
    }                                                                                                                  \
    EXPORT_KERNEL(linear_tile_##suffix##_##BM##x##BN)

// The last number: blocks that shall have room on a multiprocessor.
LINEAR_TILE(f16, f16, 128, 256, 32, 64, 64, 4, 1)
LINEAR_TILE(f16, f16, 128, 128, 32, 64, 64, 4, 2)
LINEAR_TILE(f16, f16, 64, 64, 64, 32, 32, 4, 3)
LINEAR_TILE(f16, f16, 64, 32, 64, 32, 16, 6, 3)
LINEAR_TILE(bf16, bf16, 128, 256, 32, 64, 64, 4, 1)
LINEAR_TILE(bf16, bf16, 128, 128, 32, 64, 64, 4, 2)
LINEAR_TILE(bf16, bf16, 64, 64, 64, 32, 32, 4, 3)
LINEAR_TILE(bf16, bf16, 64, 32, 64, 32, 16, 6, 3)
