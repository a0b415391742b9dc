// linear_skinny.cu: out[t, r] = sum_c x[t, c] * w[r, c] + bias[r] for 1 to 16 tokens.
// x (tokens, stride) and w (rows padded to 16, cols padded to 32, padding zero) in T; bias (rows) in
// f32 or null; out (tokens, rows) in T or f32. Sums in f32.
// One block per 16 rows of w; its warps take turns along the columns (a part each) and their sums are
// added in the order of the warps, so the result depends on the number of warps and on nothing else.
// Every weight is read once, past the first cache, which is left to x: bandwidth-bound, expected 80%
// of the copy bandwidth from 64 MB of weights on, at one token as at 16. Of w, a warp of 16-bit types
// has 4 KB in flight, of f32 also; 12 warps or more on a multiprocessor make 48 KB.
//
// 16-bit types: 16 rows of w are the left side of m16n8k16, 8 tokens the right one. The order of
// columns inside an instruction is free as long as both sides agree, so a lane takes 16 adjacent
// bytes of its rows and of its token straight to registers: two instructions' worth.
// f32: a warp has four rows, a lane four adjacent columns; lanes are added at the end.
//
// The launcher guarantees gridDim.x == rows padded / 16; blockDim.x 128, 256 or 512; 1 <= tokens <=
// the last number of the kernel's name; cols and stride multiples of 8, stride >= cols; addresses
// multiples of 16; dynamic shared memory of parts * that number * 80 bytes (parts: warps; f32: / 4).
//
// budget: linear_skinny_f16_8 96 registers
// budget: linear_skinny_f16_16 112 registers
// budget: linear_skinny_bf16_8 96 registers
// budget: linear_skinny_bf16_16 112 registers
// budget: linear_skinny_f32_4 72 registers
// budget: linear_skinny_f32_16 128 registers
#include "skinny.cuh"

namespace linear_skinny {
using linear::ROWS, linear::PITCH, linear::MOST_THREADS;
constexpr int STEP = 32;   // columns of one step of 16-bit types: four lanes of 8
constexpr int DEPTH = 4;   // steps on their way from memory

// A warp's sums over its part of the columns, into sums[part][TOKENS][PITCH]; the number of parts.
template <class T, int TOKENS> struct Multiply {
    static __device__ __forceinline__ int run(float* sums, const T* x, const T* w, linear::Sizes size) {
        constexpr int GROUPS = TOKENS / 8;
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
        const int steps = (size.cols + STEP - 1) / STEP, padded = steps * STEP;
        // Rows g and g + 8, which is 8 * padded numbers on.
        const uint4* near = reinterpret_cast<const uint4*>(w + (size_t(blockIdx.x) * ROWS + g) * padded) + t;
        const uint4* far = near + padded;
        uint4 a[DEPTH][2], b[DEPTH][GROUPS];
        auto fetch = [&](int u, int step) {
            const uint4 zero = {0, 0, 0, 0};
            a[u][0] = a[u][1] = zero;
            if (step < steps) {
                a[u][0] = dev::load_once(near + step * (STEP / 8));
                a[u][1] = dev::load_once(far + step * (STEP / 8));
            }
            const int c = step * STEP + t * 8;
#pragma unroll
            for (int n = 0; n < GROUPS; n++) {
                const int token = n * 8 + g;
                b[u][n] = zero;
                if (token < size.tokens && c < size.cols)
                    b[u][n] = *reinterpret_cast<const uint4*>(x + token * size.stride + c);
            }
        };
#pragma unroll
        for (int u = 0; u < DEPTH; u++) fetch(u, warp * DEPTH + u);
        // Two sums for each result, so that an instruction need not wait for the one before it.
        float even[GROUPS][4] = {}, odd[GROUPS][4] = {};
        for (int first = warp * DEPTH; first < steps; first += warps * DEPTH) {
#pragma unroll
            for (int u = 0; u < DEPTH; u++) {
                const uint4 w0 = a[u][0], w8 = a[u][1];
                const unsigned front[4] = {w0.x, w8.x, w0.y, w8.y}, back[4] = {w0.z, w8.z, w0.w, w8.w};
#pragma unroll
                for (int n = 0; n < GROUPS; n++) {
                    dev::mma_16816<T>(even[n], front, b[u][n].x, b[u][n].y);
                    dev::mma_16816<T>(odd[n], back, b[u][n].z, b[u][n].w);
                }
                fetch(u, first + warps * DEPTH + u);
            }
        }
#pragma unroll
        for (int n = 0; n < GROUPS; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int token = n * 8 + t * 2 + i % 2, row = g + i / 2 * 8;
                sums[(warp * TOKENS + token) * PITCH + row] = even[n][i] + odd[n][i];
            }
        return warps;
    }
};

// Adds each of the first LEFT numbers over the lanes. Every exchange halves what a lane still has to
// add, so lane l ends with those from l * LEFT / 32 on (with fewer than 32, two or more lanes with the same).
template <int LEFT, int LANES = 16, int N> __device__ __forceinline__ void sum_over_lanes(float (&v)[N]) {
    if constexpr (LANES > 0) {
        if constexpr (LEFT == 1) {
            v[0] += __shfl_xor_sync(0xffffffffu, v[0], LANES);
            sum_over_lanes<1, LANES / 2>(v);
        } else {
            const bool upper = threadIdx.x & LANES;
#pragma unroll
            for (int i = 0; i < LEFT / 2; i++) {
                const float kept = upper ? v[i + LEFT / 2] : v[i], given = upper ? v[i] : v[i + LEFT / 2];
                v[i] = kept + __shfl_xor_sync(0xffffffffu, given, LANES);
            }
            sum_over_lanes<LEFT / 2, LANES / 2>(v);
        }
    }
}

template <int TOKENS> struct Multiply<float, TOKENS> {
    static __device__ __forceinline__ int run(float* sums, const float* x, const float* w, linear::Sizes size) {
        constexpr int QUARTER = 4, WIDTH = 128, DEPTH = 2;
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const int quarter = warp % 4, part = warp / 4, parts = blockDim.x / 128;
        const int cols = size.cols, padded = (cols + STEP - 1) / STEP * STEP;
        const float* mine = w + (size_t(blockIdx.x) * ROWS + quarter * QUARTER) * padded;
        uint4 a[DEPTH][QUARTER];
        auto fetch = [&](int u, int c) {
            if (c >= cols) return;
#pragma unroll
            for (int r = 0; r < QUARTER; r++)
                a[u][r] = dev::load_once(reinterpret_cast<const uint4*>(mine + size_t(r) * padded + c));
        };
        const int begin = part * WIDTH * DEPTH + lane * 4, next = parts * WIDTH * DEPTH;
#pragma unroll
        for (int u = 0; u < DEPTH; u++) fetch(u, begin + u * WIDTH);
        float sum[TOKENS * QUARTER] = {};  // [token][row]
        for (int first = begin; first < cols; first += next) {
#pragma unroll
            for (int u = 0; u < DEPTH; u++) {
                const int c = first + u * WIDTH;
                if (c >= cols) break;
#pragma unroll
                for (int token = 0; token < TOKENS; token++) {
                    if (token >= size.tokens) break;
                    const float4 v = *reinterpret_cast<const float4*>(x + token * size.stride + c);
#pragma unroll
                    for (int r = 0; r < QUARTER; r++) {
                        float& s = sum[token * QUARTER + r];
                        s += __uint_as_float(a[u][r].x) * v.x, s += __uint_as_float(a[u][r].y) * v.y;
                        s += __uint_as_float(a[u][r].z) * v.z, s += __uint_as_float(a[u][r].w) * v.w;
                    }
                }
                fetch(u, c + next);
            }
        }
        constexpr int COUNT = TOKENS * QUARTER, OWN = COUNT > 32 ? COUNT / 32 : 1;
        sum_over_lanes<COUNT>(sum);
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            const int at = lane * COUNT / 32 + i, token = at / QUARTER, row = quarter * QUARTER + at % QUARTER;
            if (lane * COUNT % 32 == 0) sums[(part * TOKENS + token) * PITCH + row] = sum[i];
        }
        return parts;
    }
};

template <class T, int TOKENS>
__device__ __forceinline__ void run(linear::Out<T> out, const T* x, const T* w, const float* bias, linear::Sizes size) {
    SHARED_DYNAMIC(shared);
    float* sums = reinterpret_cast<float*>(shared);
    const int parts = Multiply<T, TOKENS>::run(sums, x, w, size);
    linear::add_parts<T, TOKENS>(out, sums, parts, bias, size);
}
}  // namespace linear_skinny

#define LINEAR_SKINNY(suffix, T, TOKENS)                                                                            \
    KERNEL void __launch_bounds__(linear_skinny::MOST_THREADS) linear_skinny_##suffix##_##TOKENS(                   \
        void* out, const T* __restrict__ x, const T* __restrict__ w, const float* __restrict__ bias, int tokens,    \
        int rows, int cols, int stride, int out_is_f32) {                                                           \
        linear_skinny::run<T, TOKENS>({out, out_is_f32 != 0}, x, w, bias, {tokens, rows, cols, size_t(stride)});    \
    }                                                                                                               \
    EXPORT_KERNEL(linear_skinny_##suffix##_##TOKENS)

LINEAR_SKINNY(f32, float, 4)
LINEAR_SKINNY(f32, float, 16)
LINEAR_SKINNY(f16, f16, 8)
LINEAR_SKINNY(f16, f16, 16)
LINEAR_SKINNY(bf16, bf16, 8)
LINEAR_SKINNY(bf16, bf16, 16)
