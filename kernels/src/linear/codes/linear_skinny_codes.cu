// linear_skinny_codes.cu: out[t, r] = sum_c x[t, c] * w[r, c] + bias[r] for 1 to 16 tokens, w of 4 or 8
// bits (codes.cuh), whose numbers are rounded to T in registers.
// x (tokens, stride) in T; w (rows padded to 16, cols); bias (rows) in f32 or null; out (tokens, rows) in
// T or f32. Sums in f32.
// One block per panel of w; its warps take turns along the columns (a part each) and their sums are added
// in the order of the warps, so the result depends on the number of warps and on nothing else. Every
// weight is read once, past the first cache, which is left to x; a warp has 4 KB of codes in flight, of 4 bits
// for more than 8 tokens 2 KB.
// A lane has 32 columns of its own of a step of 128, and their scales: 16 bytes of 4-bit codes of two
// rows. Each number costs about 4 instructions (a byte moved, a subtraction, a multiply-add, half a
// rounding), so 8 bits are bandwidth-bound and 4 bits near the balance of both on an H100; expected 60%
// of the copy bandwidth for 4 bits, 75% for 8. Not measured.
//
// The launcher guarantees gridDim.x == rows padded / 16; blockDim.x 128, 256 or 512; 1 <= tokens <= the
// last number of the kernel's name; cols a multiple of 32; stride a multiple of 8, stride >= cols;
// addresses multiples of 16; groups enough for (cols / 32 + skipped) units; dynamic shared memory of
// warps * that number * 80 bytes.
//
// budget: linear_skinny_codes_f16_4_8 112 registers
// budget: linear_skinny_codes_f16_4_16 112 registers
// budget: linear_skinny_codes_f16_8_8 112 registers
// budget: linear_skinny_codes_f16_8_16 112 registers
// budget: linear_skinny_codes_bf16_4_8 112 registers
// budget: linear_skinny_codes_bf16_4_16 112 registers
// budget: linear_skinny_codes_bf16_8_8 112 registers
// budget: linear_skinny_codes_bf16_8_16 112 registers
#include "../skinny.cuh"
#include "codes.cuh"

namespace linear_skinny_codes {
using linear::PITCH;
constexpr int STEP = 128;  // columns of one step: four lanes of 32

// 32 columns of two rows, eight apart.
template <int CHUNKS> struct Codes {
    uint4 near[CHUNKS], far[CHUNKS];
    unsigned scales, offsets;  // near's in the low half, far's in the high one
};

// Word `at` of 16 bytes.
__device__ __forceinline__ unsigned word(const uint4& v, int at) {
    return at == 0 ? v.x : at == 1 ? v.y : at == 2 ? v.z : v.w;
}

template <class T, int BITS, int TOKENS>
__device__ __forceinline__ int multiply(float* sums, const T* x, const codes::Weight<BITS>& w, linear::Sizes size) {
    // Steps on their way: as many as registers hold. Which steps a warp has does not depend on it.
    constexpr int GROUPS = TOKENS / 8, CHUNKS = BITS / 4, DEPTH = BITS == 4 && TOKENS == 8 ? 4 : 2;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const int steps = (size.cols + STEP - 1) / STEP;
    const unsigned char* panel = w.panel(blockIdx.x);
    const unsigned char* heads = panel + w.chunk_bytes() + g * 4;
    const size_t to_offsets = size_t(w.groups) * codes::HEAD;
    const uint4* chunks = reinterpret_cast<const uint4*>(panel) + g;
    Codes<CHUNKS> a[DEPTH];
    auto fetch = [&](int u, int step) {
        const uint4 zero = {0, 0, 0, 0};
        const int unit = step * (STEP / codes::UNIT) + t;
        const bool is_there = unit * codes::UNIT < size.cols;
#pragma unroll
        for (int i = 0; i < CHUNKS; i++) {
            a[u].near[i] = a[u].far[i] = zero;
            if (!is_there) continue;
            const uint4* chunk = chunks + size_t(unit * CHUNKS + i) * codes::ROWS;
            a[u].near[i] = dev::load_once(chunk);
            a[u].far[i] = dev::load_once(chunk + 8);
        }
        // Zeros where there is nothing: any other scale times no x could be not-a-number.
        a[u].scales = 0, a[u].offsets = w.form == codes::MIDDLE ? w.MIDDLES : 0;
        if (!is_there) return;
        const unsigned char* head = heads + size_t(w.group(unit)) * codes::HEAD;
        a[u].scales = *reinterpret_cast<const unsigned*>(head);
        if (w.form != codes::MIDDLE) a[u].offsets = *reinterpret_cast<const unsigned*>(head + to_offsets);
    };
#pragma unroll
    for (int u = 0; u < DEPTH; u++) fetch(u, warp + warps * u);
    float sum[GROUPS][4] = {};
    for (int first = warp; first < steps; first += warps * DEPTH) {
#pragma unroll
        for (int u = 0; u < DEPTH; u++) {
            const float2 d = dev::unpack2<f16>(a[u].scales), offset = dev::unpack2<f16>(a[u].offsets);
            const codes::Head near = codes::head(d.x, offset.x, w.form), far = codes::head(d.y, offset.y, w.form);
            const int step = first + warps * u, c = step * STEP + t * codes::UNIT;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                uint4 b[GROUPS][2] = {};
#pragma unroll
                for (int n = 0; n < GROUPS; n++) {
                    const int token = n * 8 + g;
                    if (token >= size.tokens || c >= size.cols) continue;
                    const uint4* from = reinterpret_cast<const uint4*>(x + token * size.stride + c + half * 16);
                    b[n][0] = from[0], b[n][1] = from[1];
                }
                const uint4 &w0 = a[u].near[half % CHUNKS], &w8 = a[u].far[half % CHUNKS];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    unsigned up[2], down[2];
                    codes::numbers<T>(up, codes::bytes_of<BITS>(word(w0, i), half), near);
                    codes::numbers<T>(down, codes::bytes_of<BITS>(word(w8, i), half), far);
                    const unsigned both[4] = {up[0], down[0], up[1], down[1]};
#pragma unroll
                    for (int n = 0; n < GROUPS; n++)
                        dev::mma_16816<T>(sum[n], both, word(b[n][0], i), word(b[n][1], i));
                }
            }
            fetch(u, step + warps * DEPTH);
        }
    }
#pragma unroll
    for (int n = 0; n < GROUPS; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int token = n * 8 + t * 2 + i % 2, row = g + i / 2 * 8;
            sums[(warp * TOKENS + token) * PITCH + row] = sum[n][i];
        }
    return warps;
}

template <class T, int BITS, int TOKENS>
__device__ __forceinline__ void run(linear::Out<T> out, const T* x, const codes::Weight<BITS>& w, const float* bias,
                                    linear::Sizes size) {
    SHARED_DYNAMIC(shared);
    float* sums = reinterpret_cast<float*>(shared);
    const int parts = multiply<T, BITS, TOKENS>(sums, x, w, size);
    linear::add_parts<T, TOKENS>(out, sums, parts, bias, size);
}
}  // namespace linear_skinny_codes

#define LINEAR_SKINNY_CODES(suffix, T, BITS, TOKENS)                                                                    \
    KERNEL void __launch_bounds__(linear::MOST_THREADS) linear_skinny_codes_##suffix##_##BITS##_##TOKENS(              \
        void* out, const T* __restrict__ x, const unsigned char* __restrict__ w, const float* __restrict__ bias,       \
        int tokens, int rows, int cols, int stride, int out_is_f32, int groups, int shift, int skipped, int form) {    \
        const codes::Weight<BITS> weight = {w, cols, groups, shift, skipped, form};                                    \
        linear_skinny_codes::run<T, BITS, TOKENS>({out, out_is_f32 != 0}, x, weight, bias,                             \
                                                  {tokens, rows, cols, size_t(stride)});                               \
    }                                                                                                                  \
    EXPORT_KERNEL(linear_skinny_codes_##suffix##_##BITS##_##TOKENS)

LINEAR_SKINNY_CODES(f16, f16, 4, 8)
LINEAR_SKINNY_CODES(f16, f16, 4, 16)
LINEAR_SKINNY_CODES(f16, f16, 8, 8)
LINEAR_SKINNY_CODES(f16, f16, 8, 16)
LINEAR_SKINNY_CODES(bf16, bf16, 4, 8)
LINEAR_SKINNY_CODES(bf16, bf16, 4, 16)
LINEAR_SKINNY_CODES(bf16, bf16, 8, 8)
LINEAR_SKINNY_CODES(bf16, bf16, 8, 16)
