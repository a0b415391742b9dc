// linear_tile_f32.cu: out[t, r] = sum_c x[t, c] * w[r, c] + bias[r] for any number of tokens, all in f32.
// x (tokens, stride) and w (rows padded to 16, cols padded to 32); bias (rows) or null; out (tokens, rows).
// One block per tile of 64 tokens and 64 rows of w; a thread has 8 tokens and 4 rows of it in registers.
// 32 columns of the tile's x and w are a stage in shared memory; two stages are on their way by cp.async
// while a third is multiplied. No tensor cores, whose f32 has 10 bits of mantissa: arithmetic-bound,
// expected 60% of the f32 rate. Every result is one chain over the columns in order.
//
// The launcher guarantees gridDim.x == tiles of tokens * tiles of rows; blockDim.x == 128; cols and stride
// multiples of 8, stride >= cols; tokens and rows at least 1; addresses multiples of 16; dynamic
// shared memory of 48 KiB.
//
// budget: linear_tile_f32_64x64 96 registers
#include "../gpu/numbers.cuh"

namespace linear_tile_f32 {
constexpr int BM = 64, BN = 64, BK = 32, STAGES = 3, THREADS = 128;
constexpr int CHUNKS = BK / 4, STAGE = (BM + BN) * BK;
constexpr int TM = 8, TN = 4;  // tokens and rows of a thread

// Where a chunk of 16 bytes lies: eight rows of one chunk meet no bank twice. Rows that are a multiple
// of 8 apart are moved alike.
__device__ __forceinline__ int place(int row, int chunk) { return row * BK + ((chunk ^ row) & (CHUNKS - 1)) * 4; }

// 64 rows of a stage; `from` is this thread's chunk of its first row.
__device__ __forceinline__ void copy(float* to, const float* from, size_t stride, int rows_left, bool is_there) {
    constexpr int STEP = THREADS / CHUNKS;
    const int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    to += place(row, chunk);
#pragma unroll
    for (int i = 0; i < 64; i += STEP)
        dev::cp_async16(to + i * BK, from + i * stride, is_there && row + i < rows_left);
}
}  // namespace linear_tile_f32

KERNEL void __launch_bounds__(linear_tile_f32::THREADS)
    linear_tile_f32_64x64(float* out, const float* __restrict__ x, const float* __restrict__ w,
                          const float* __restrict__ bias, int tokens, int rows, int cols, int stride,
                          int /* out_is_f32: always */) {
    using namespace linear_tile_f32;
    SHARED_DYNAMIC(shared);
    float* stages = reinterpret_cast<float*>(shared);
    const int tiles_m = (tokens + BM - 1) / BM, m0 = blockIdx.x % tiles_m * BM, n0 = blockIdx.x / tiles_m * BN;
    const int steps = (cols + BK - 1) / BK, padded = steps * BK;
    {
        const int row = threadIdx.x / CHUNKS, c = threadIdx.x % CHUNKS * 4;
        x += size_t(m0 + row) * stride + c, w += size_t(n0 + row) * padded + c;
    }
    // Columns past `cols` are zeros on both sides, whatever lies there.
    auto fetch = [&](int step) {
        if (step < steps) {
            float* to = stages + step % STAGES * STAGE;
            const bool is_there = step * BK + int(threadIdx.x) % CHUNKS * 4 < cols;
            copy(to, x + step * BK, stride, tokens - m0, is_there);
            copy(to + BM * BK, w + step * BK, padded, rows - n0, is_there);
        }
        dev::cp_async_commit();
    };
    // A warp has 32 tokens and 32 rows; its lanes' are 4 and 8 apart.
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int m = warp / 2 * 32 + lane / 8, n = warp % 2 * 32 + lane % 8;
    float sum[TM][TN] = {};
    for (int step = 0; step < STAGES - 1; step++) fetch(step);
    for (int step = 0; step < steps; step++) {
        dev::cp_async_wait<STAGES - 2>();
        __syncthreads();
        fetch(step + STAGES - 1);  // into the slot that nobody reads any more
        const float* a = stages + step % STAGES * STAGE + m * BK;
        const float* b = stages + step % STAGES * STAGE + (BM + n) * BK;
#pragma unroll 2
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            // place(m + i * 4, chunk): every other row of four is moved by half a row more.
            const int even = ((chunk ^ m) & (CHUNKS - 1)) * 4, odd = even ^ 16;
            const int at = ((chunk ^ n) & (CHUNKS - 1)) * 4;
            float4 v[TN];
#pragma unroll
            for (int j = 0; j < TN; j++) v[j] = *reinterpret_cast<const float4*>(b + j * 8 * BK + at);
#pragma unroll
            for (int i = 0; i < TM; i++) {
                const float4 u = *reinterpret_cast<const float4*>(a + i * 4 * BK + (i % 2 ? odd : even));
#pragma unroll
                for (int j = 0; j < TN; j++) {
                    sum[i][j] += u.x * v[j].x, sum[i][j] += u.y * v[j].y;
                    sum[i][j] += u.z * v[j].z, sum[i][j] += u.w * v[j].w;
                }
            }
        }
    }
#pragma unroll
    for (int j = 0; j < TN; j++) {
        const int row = n0 + n + j * 8;
        if (row >= rows) continue;
        const float add = bias ? bias[row] : 0.0f;
#pragma unroll
        for (int i = 0; i < TM; i++) {
            const int token = m0 + m + i * 4;
            if (token < tokens) out[size_t(token) * rows + row] = sum[i][j] + add;
        }
    }
}
EXPORT_KERNEL(linear_tile_f32_64x64)
