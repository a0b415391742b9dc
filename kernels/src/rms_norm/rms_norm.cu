// rms_norm.cu: out[t,c] = x[t,c] * weight[c] / sqrt(mean_c(x[t,:]^2) + eps)
// The fused form first adds x into the f32 residual stream and normalises that. The stream form
// normalises an f32 residual stream as it lies: the first layer's, which the embedding wrote.
// x, out (tokens, cols) in T, x of the stream form in f32; residual (tokens, cols), weight (cols) in f32.
// One block per row; a row stays in registers between its two passes, so x is read once and out
// written once: bandwidth-bound, expected 80% of the copy bandwidth from 64 rows on.
// The launcher guarantees gridDim.x == tokens, cols a multiple of 8 and at most 2048 * WIDTH, blockDim.x
// as THREADS_OF has it, addresses multiples of 16.
//
// budget: rms_norm_ 64 registers, 128 bytes of shared memory
#include "../gpu/numbers.cuh"
#include "../gpu/reduce.cuh"

namespace rms_norm {
// Rows of up to 2048 * WIDTH columns: a thread holds 4 groups of 8 at most, so the widest take more threads.
template <int WIDTH>
constexpr int THREADS_OF = WIDTH == 8 ? 512 : 256;

// X: T, or float of a residual stream. A thread holds the groups threadIdx.x + s * THREADS.
template <class T, class X, bool RESIDUAL, int WIDTH>
__device__ void row(T* __restrict__ out, float* __restrict__ residual, const X* __restrict__ x,
                    const float* __restrict__ weight, int cols, float eps) {
    constexpr int THREADS = THREADS_OF<WIDTH>, STEPS = WIDTH * 256 / THREADS;
    const size_t start = size_t(blockIdx.x) * cols;  // 64-bit: tokens * cols can pass 2^32
    float v[STEPS][8], squares = 0.0f;
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        const int c = (threadIdx.x + s * THREADS) * 8;
        if (c < cols) {
            dev::load8(v[s], x + start + c);
            if (RESIDUAL) {
                float r[8];
                dev::load8(r, residual + start + c);
#pragma unroll
                for (int i = 0; i < 8; i++) v[s][i] += r[i];
                dev::store8(residual + start + c, v[s]);
            }
#pragma unroll
            for (int i = 0; i < 8; i++) squares += v[s][i] * v[s][i];
        }
    }
    const float scale = rsqrtf(dev::block_sum(squares) / cols + eps);
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        const int c = (threadIdx.x + s * THREADS) * 8;
        if (c < cols) {
            float w[8];
            dev::load8(w, weight + c);
#pragma unroll
            for (int i = 0; i < 8; i++) w[i] *= v[s][i] * scale;
            dev::store8(out + start + c, w);
        }
    }
}
}  // namespace rms_norm

// 1024 threads of a multiprocessor, 64 registers each: left to itself, ptxas made them 32 for some and spilled.
#define RMS_NORM_BOUNDS(WIDTH) \
    __launch_bounds__(rms_norm::THREADS_OF<WIDTH>, 1024 / rms_norm::THREADS_OF<WIDTH>)

#define RMS_NORM(suffix, T, WIDTH)                                                                                    \
    KERNEL void RMS_NORM_BOUNDS(WIDTH) rms_norm_##suffix##_##WIDTH(T* out, const T* x, const float* weight, int cols, \
                                                                   float eps) {                                       \
        rms_norm::row<T, T, false, WIDTH>(out, nullptr, x, weight, cols, eps);                                        \
    }                                                                                                                 \
    EXPORT_KERNEL(rms_norm_##suffix##_##WIDTH)                                                                        \
    KERNEL void RMS_NORM_BOUNDS(WIDTH) rms_norm_residual_##suffix##_##WIDTH(                                          \
        T* out, float* residual, const T* x, const float* weight, int cols, float eps) {                              \
        rms_norm::row<T, T, true, WIDTH>(out, residual, x, weight, cols, eps);                                        \
    }                                                                                                                 \
    EXPORT_KERNEL(rms_norm_residual_##suffix##_##WIDTH)

#define RMS_NORM_STREAM(suffix, T, WIDTH)                                          \
    KERNEL void RMS_NORM_BOUNDS(WIDTH) rms_norm_stream_##suffix##_##WIDTH(         \
        T* out, const float* x, const float* weight, int cols, float eps) {        \
        rms_norm::row<T, float, false, WIDTH>(out, nullptr, x, weight, cols, eps); \
    }                                                                              \
    EXPORT_KERNEL(rms_norm_stream_##suffix##_##WIDTH)

RMS_NORM(f32, float, 1)
RMS_NORM(f32, float, 2)
RMS_NORM(f32, float, 4)
RMS_NORM(f32, float, 8)
RMS_NORM(f16, f16, 1)
RMS_NORM(f16, f16, 2)
RMS_NORM(f16, f16, 4)
RMS_NORM(f16, f16, 8)
RMS_NORM(bf16, bf16, 1)
RMS_NORM(bf16, bf16, 2)
RMS_NORM(bf16, bf16, 4)
RMS_NORM(bf16, bf16, 8)
RMS_NORM_STREAM(f16, f16, 1)
RMS_NORM_STREAM(f16, f16, 2)
RMS_NORM_STREAM(f16, f16, 4)
RMS_NORM_STREAM(f16, f16, 8)
RMS_NORM_STREAM(bf16, bf16, 1)
RMS_NORM_STREAM(bf16, bf16, 2)
RMS_NORM_STREAM(bf16, bf16, 4)
RMS_NORM_STREAM(bf16, bf16, 8)
