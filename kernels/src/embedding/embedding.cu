// embedding.cu: out[t] = table[ids[t] - first_row], zeros where this rank's rows do not have the id, so
// that the sum over ranks is the whole embedding.
// table (rows, stride) in T; ids (tokens); out (tokens, hidden) in OUT: T or f32 (the residual stream).
// A block has 2,048 columns of one token, a thread eight of them: bandwidth-bound, and a few microseconds
// at any number of tokens that a step has; expected 80% of the copy bandwidth from 1,024 tokens on.
// The launcher guarantees gridDim == (tokens, parts of 2,048 columns), blockDim.x == 256, hidden and
// stride multiples of 8, stride >= hidden, addresses multiples of 16.
//
// budget: embedding_ 32 registers
#include "../gpu/numbers.cuh"

namespace embedding {
constexpr int THREADS = 256;

template <class T, class OUT>
__device__ __forceinline__ void row(OUT* __restrict__ out, const T* __restrict__ table,
                                    const unsigned* __restrict__ ids, unsigned first_row, unsigned rows, int hidden,
                                    int stride) {
    const int c = (blockIdx.y * THREADS + threadIdx.x) * 8;
    if (c >= hidden) return;
    // An id below the first row wraps far beyond the last one.
    const unsigned at = ids[blockIdx.x] - first_row;
    float v[8] = {};
    if (at < rows) dev::load8(v, table + size_t(at) * stride + c);
    dev::store8(out + size_t(blockIdx.x) * hidden + c, v);
}
}  // namespace embedding

#define EMBEDDING(name, T, OUT)                                                                         \
    KERNEL void __launch_bounds__(embedding::THREADS)                                                   \
        embedding_##name(OUT* out, const T* table, const unsigned* ids, unsigned first_row,             \
                         unsigned rows, int hidden, int stride) {                                       \
        embedding::row<T, OUT>(out, table, ids, first_row, rows, hidden, stride);                       \
    }                                                                                                   \
    EXPORT_KERNEL(embedding_##name)

EMBEDDING(f32_f32, float, float)
EMBEDDING(f16_f32, f16, float)
EMBEDDING(f16_f16, f16, f16)
EMBEDDING(bf16_f32, bf16, float)
EMBEDDING(bf16_bf16, bf16, bf16)
