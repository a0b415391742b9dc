// rope_kv.cu: for each head x of q and k of each token, in place
//   x = x * weight / sqrt(mean(x^2) + eps)                          where there are weights (Qwen3)
//   (x[i], x[i+half]) = (x[i] cos - x[i+half] sin, x[i+half] cos + x[i] sin)   i < half = dim / 2
// and then k and v of each token into its slot of the cache; v itself stays as it is. A token whose slot is
// NO_SLOT (all ones) fills up a batch of a fixed size: nothing of it goes to the cache.
// qkv (tokens, query + 2 kv heads, dim) and cache (block, layer, k and v, head, token of the block, dim)
// in T; cos, sin (positions, half) and the weights (dim) in f32; positions, slots (tokens).
// A group of `lanes` threads per head of a token, V pairs a thread and step: 8 pairs are two accesses of
// 16 bytes to the head (dim 128: 8 threads a head, 4 heads a warp), one pair a step is for head sizes
// whose halves are no multiples of 8. A head stays in registers: qkv is read once, q and k written once,
// k and v written to the cache once. Bandwidth-bound, expected 75% of the copy bandwidth from 1,024
// tokens on; the tables are read from the first cache by all heads of a token.
// The launcher guarantees gridDim.x == tokens, blockDim.x == 128, gridDim.y == heads / (128 / lanes)
// rounded up, lanes = 1 << lanes_log2 a power of two up to 32, V * STEPS * lanes >= half, with V == 8
// half a multiple of 8 and addresses multiples of 16, at most 2^32 slots. Its caller promises that
// positions lie in the tables and slots in the cache, and that no two tokens share a slot.
//
// budget: rope_kv_ 56 registers
#include "../gpu/numbers.cuh"

namespace rope_kv {
constexpr int THREADS = 128;
constexpr unsigned long long NO_SLOT = ~0ull;

// Whose head, and where its row goes.
struct Shape {
    int query_heads, kv_heads, dim, lanes_log2, block_size, layer;
    unsigned long long block_numbers;  // of a block: all layers, keys and values
};

template <int V, class T>
__device__ __forceinline__ void load(float (&f)[V], const T* p) {
    if constexpr (V == 8) dev::load8(f, p);
    else f[0] = dev::to_float(*p);
}
template <int V, class T>
__device__ __forceinline__ void store(T* p, const float (&f)[V]) {
    if constexpr (V == 8) dev::store8(p, f);
    else *p = dev::from_float<T>(f[0]);
}

// Where head `at` (k heads, then v heads) of a token lies in the cache.
__device__ __forceinline__ size_t place(const Shape& shape, int at, unsigned slot) {
    const int part = at >= shape.kv_heads, head = at - part * shape.kv_heads;
    const unsigned block = slot / shape.block_size, offset = slot % shape.block_size;
    const size_t rows = (size_t(shape.layer) * 2 + part) * shape.kv_heads + head;
    return block * shape.block_numbers + (rows * shape.block_size + offset) * shape.dim;
}

template <class T, int V, int STEPS>
__device__ __forceinline__ void head(T* __restrict__ qkv, T* __restrict__ cache, const float* __restrict__ cos,
                                     const float* __restrict__ sin, const unsigned* __restrict__ positions,
                                     const unsigned long long* __restrict__ slots, const float* __restrict__ query_weight,
                                     const float* __restrict__ key_weight, float eps, const Shape& shape) {
    const int lanes = 1 << shape.lanes_log2, lane = threadIdx.x & (lanes - 1), half = shape.dim / 2;
    const int heads = shape.query_heads + 2 * shape.kv_heads;
    const int head = blockIdx.y * (THREADS >> shape.lanes_log2) + (threadIdx.x >> shape.lanes_log2);
    const bool is_value = head >= shape.query_heads + shape.kv_heads;
    const size_t angle = size_t(positions[blockIdx.x]) * half;  // read early, needed late
    const unsigned long long slot = slots[blockIdx.x];
    T* row = qkv + (size_t(blockIdx.x) * heads + head) * shape.dim;  // 64-bit: tokens * heads * dim can pass 2^32
    // The numbers of a thread; none for a group without a head, which still meets its warp.
    const int end = head < heads ? half : 0;
    float a[STEPS][V], b[STEPS][V];
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        const int i = (lane + s * lanes) * V;
        if (i >= end) break;
        load<V>(a[s], row + i);
        load<V>(b[s], row + half + i);
    }
    if (query_weight) {
        float squares = 0.0f;
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            if ((lane + s * lanes) * V >= end) break;
#pragma unroll
            for (int j = 0; j < V; j++) squares += a[s][j] * a[s][j] + b[s][j] * b[s][j];
        }
        for (int o = lanes / 2; o > 0; o >>= 1) squares += __shfl_xor_sync(0xffffffffu, squares, o);
        const float scale = rsqrtf(__fdividef(squares, float(shape.dim)) + eps);
        const float* weight = head < shape.query_heads ? query_weight : key_weight;
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            const int i = (lane + s * lanes) * V;
            if (i >= end || is_value) break;
            float w[V], u[V];
            load<V>(w, weight + i);
            load<V>(u, weight + half + i);
#pragma unroll
            for (int j = 0; j < V; j++) a[s][j] *= scale * w[j], b[s][j] *= scale * u[j];
        }
    }
    if (head >= heads) return;
    if (!is_value) {
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            const int i = (lane + s * lanes) * V;
            if (i >= end) break;
            float c[V], d[V];
            load<V>(c, cos + angle + i);
            load<V>(d, sin + angle + i);
#pragma unroll
            for (int j = 0; j < V; j++) {
                const float x = a[s][j], y = b[s][j];
                a[s][j] = x * c[j] - y * d[j];
                b[s][j] = y * c[j] + x * d[j];
            }
            store<V>(row + i, a[s]);
            store<V>(row + half + i, b[s]);
        }
    }
    if (head < shape.query_heads || slot == NO_SLOT) return;
    T* kept = cache + place(shape, head - shape.query_heads, unsigned(slot));
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        const int i = (lane + s * lanes) * V;
        if (i >= end) break;
        store<V>(kept + i, a[s]);
        store<V>(kept + half + i, b[s]);
    }
}
}  // namespace rope_kv

#define ROPE_KV(suffix, T, V, STEPS)                                                                                       \
    KERNEL void __launch_bounds__(rope_kv::THREADS) rope_kv_##suffix##_##V(                                                \
        T* qkv, T* cache, const float* cos, const float* sin, const unsigned* positions, const unsigned long long* slots,  \
        const float* query_weight, const float* key_weight, float eps, int query_heads, int kv_heads, int dim,             \
        int lanes_log2, int block_size, int layer, unsigned long long block_numbers) {                                     \
        rope_kv::head<T, V, STEPS>(qkv, cache, cos, sin, positions, slots, query_weight, key_weight, eps,                  \
                                   {query_heads, kv_heads, dim, lanes_log2, block_size, layer, block_numbers});            \
    }                                                                                                                      \
    EXPORT_KERNEL(rope_kv_##suffix##_##V)

ROPE_KV(f32, float, 8, 1)
ROPE_KV(f32, float, 1, 4)
ROPE_KV(f16, f16, 8, 1)
ROPE_KV(f16, f16, 1, 4)
ROPE_KV(bf16, bf16, 8, 1)
ROPE_KV(bf16, bf16, 1, 4)
