// silu_mul.cu: out[t,c] = silu(gate[t,c]) * up[t,c], silu(x) = x / (1 + exp(-x))
// gate_up (tokens, 2 * half) in T: `cols` gate columns at the front of each row, `cols` up columns
// from column `half` on; what fills the halves up is never written, and never used. out: row t from
// t * out_stride on, `cols` columns in T; it may be gate_up itself (out_stride 2 * half), whose gate
// columns are then overwritten: a number is read and written by one thread alone.
// One thread per group of 8 columns. Two numbers read and one written: bandwidth-bound, expected 80%
// of the copy bandwidth from 2^22 numbers on; some 25 instructions a number, of 50 that an H100 has
// time for (the exact division alone would double them). Where a row of out starts at no multiple of
// 16 bytes (cols of out not a multiple of 8), numbers are written one by one.
// The launcher guarantees gridDim.x == tokens, gridDim.y == cols / 2048 rounded up, blockDim.x == 256,
// half a multiple of 8 and at least cols, addresses multiples of 16.
//
// budget: silu_mul_ 40 registers
#include "../gpu/numbers.cuh"

namespace silu_mul {
constexpr int THREADS = 256, GROUP = 8;

template <class T>
__device__ __forceinline__ void group(T* out, const T* gate_up, int cols, int half, int out_stride) {
    const int c = (blockIdx.y * THREADS + threadIdx.x) * GROUP;
    if (c >= cols) return;
    const T* gate = gate_up + size_t(blockIdx.x) * 2 * half + c;  // 64-bit: tokens * half can pass 2^32
    T* to = out + size_t(blockIdx.x) * out_stride + c;
    float g[GROUP], u[GROUP];
    dev::load8(g, gate);  // ends inside its half, whose size is a multiple of 8
    dev::load8(u, gate + half);
#pragma unroll
    for (int i = 0; i < GROUP; i++) g[i] = __fdividef(g[i], 1.0f + expf(-g[i])) * u[i];
    if (c + GROUP <= cols && out_stride % GROUP == 0) {
        dev::store8(to, g);
    } else {
#pragma unroll
        for (int i = 0; i < GROUP; i++)
            if (c + i < cols) to[i] = dev::from_float<T>(g[i]);
    }
}
}  // namespace silu_mul

#define SILU_MUL(suffix, T)                                                                                       \
    KERNEL void __launch_bounds__(silu_mul::THREADS) silu_mul_##suffix(T* out, const T* gate_up, int cols, int half, \
                                                                       int out_stride) {                          \
        silu_mul::group<T>(out, gate_up, cols, half, out_stride);                                                  \
    }                                                                                                             \
    EXPORT_KERNEL(silu_mul_##suffix)

SILU_MUL(f32, float)
SILU_MUL(f16, f16)
SILU_MUL(bf16, bf16)
