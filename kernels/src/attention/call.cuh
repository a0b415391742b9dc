// call.cuh: what every attention kernel is given, and what a block makes of it.
//
// Rows: the query heads of one KV head (a group) read the same keys, so the queries of a sequence
// are packed for each KV head as rows of (token, head of the group): row r is token r / group and
// head r % group. Every kernel has the same grid: y KV heads, z sequences, x its tiles of rows, for
// each of them `splits` spans of keys.
//
// The launcher guarantees: head_dim is what the kernel's name says; addresses, query_stride rows and
// cache rows are multiples of 16 bytes; cache rows and positions fit 32 and 31 bits; window >= 1 and
// scale > 0; no sequence has more keys than splits * span or than its table has room for.
// The caller guarantees what only the device could check: starts ascend, a context has at least the
// sequence's tokens and no more than the launcher was told, tables name blocks of the cache.
#pragma once
#include "../gpu/numbers.cuh"

namespace attention {

// A block's tables, as far as the reader of a cache needs them. Rows are counted in the whole cache.
struct Blocks {
    const unsigned* table;
    unsigned size, magic, shift, rows;  // tokens of a block; see `number`; rows of a block
    // position / size for positions below 2^31: the launcher made magic = ceil(2^(31 + shift) / size).
    __device__ __forceinline__ unsigned number(unsigned position) const { return __umulhi(2 * position, magic) >> shift; }
    // The block of a position.
    __device__ __forceinline__ unsigned at(unsigned position) const { return table[number(position)]; }
    // The row of a position in its block.
    __device__ __forceinline__ unsigned row(unsigned block, unsigned position) const {
        return block * rows + position - number(position) * size;
    }
};

template <class T> struct Call {
    T* out;                // [tokens, KV heads * group, head_dim]
    float* values;         // [sequences, KV heads, rows, splits, head_dim]: sums of weight * value,
    float2* stats;         // [sequences, KV heads, rows, splits]: largest score and sum of weights
    const T* queries;      // token t's heads at t * query_stride
    const T* cache;        // the layer's keys in block 0
    const unsigned* starts;    // [sequences + 1]
    const unsigned* contexts;  // [sequences]
    const unsigned* tables;    // [sequences, table_stride]
    unsigned query_stride, table_stride, group, head_dim;
    unsigned block_size, block_magic, block_shift, block_rows;
    unsigned window;     // keys a row sees; 2^31 when all
    unsigned more, most;  // sequences of more rows than `more` and at most `most` are this kernel's
    unsigned span, splits, rows;  // keys of a part, parts and rows that `values` has room for
    float scale;         // times log2(e): weights are powers of two

    __device__ __forceinline__ Blocks blocks() const {
        return {tables + size_t(blockIdx.z) * table_stride, block_size, block_magic, block_shift, block_rows};
    }
    // This KV head's keys; its values lie `to_values()` further.
    __device__ __forceinline__ const T* keys() const { return cache + size_t(blockIdx.y) * block_size * head_dim; }
    __device__ __forceinline__ size_t to_values() const { return size_t(gridDim.y) * block_size * head_dim; }
};

// The sequence of this block.
struct Sequence {
    unsigned token, group;   // first token of the batch
    int rows, context, past;  // past: tokens before the first new one

    template <class T> __device__ __forceinline__ Sequence(const Call<T>& call) {
        token = call.starts[blockIdx.z], group = call.group;
        const int tokens = int(call.starts[blockIdx.z + 1] - token);
        context = int(call.contexts[blockIdx.z]), past = context - tokens, rows = tokens * int(group);
    }
    template <class T> __device__ __forceinline__ bool is_for(const Call<T>& call) const {
        return unsigned(rows) > call.more && unsigned(rows) <= call.most;
    }
    __device__ __forceinline__ int position(int row) const { return past + int(unsigned(row) / group); }
    // The first key that a row at `position` sees.
    template <class T> __device__ __forceinline__ int first_seen(const Call<T>& call, int position) const {
        return unsigned(position) < call.window ? 0 : position + 1 - int(call.window);
    }
    // The number of the first span that any row sees, and of spans in all.
    template <class T> __device__ __forceinline__ int first_span(const Call<T>& call) const {
        return first_seen(call, past) / int(call.span);
    }
    template <class T> __device__ __forceinline__ int spans(const Call<T>& call) const {
        return (context - 1) / int(call.span) + 1 - first_span(call);
    }
    // A row's query.
    template <class T> __device__ __forceinline__ const T* query(const Call<T>& call, int row) const {
        const unsigned at = unsigned(row) / group, head = blockIdx.y * group + unsigned(row) % group;
        return call.queries + size_t(token + at) * call.query_stride + size_t(head) * call.head_dim;
    }
    // Where a row's result goes.
    template <class T> __device__ __forceinline__ T* out(const Call<T>& call, int row) const {
        const unsigned at = unsigned(row) / group, head = blockIdx.y * group + unsigned(row) % group;
        return call.out + (size_t(token + at) * gridDim.y * group + head) * call.head_dim;
    }
    // Where one span of a row goes until it is merged.
    template <class T> __device__ __forceinline__ size_t part(const Call<T>& call, int row, int span) const {
        return ((size_t(blockIdx.z) * gridDim.y + blockIdx.y) * call.rows + row) * call.splits + span;
    }
};

// 2^(a - top), where a top of minus infinity (nothing was seen) counts as 0.
__device__ __forceinline__ float weight_of(float a, float top) {
    return dev::fast_exp2(a - (top == -INFINITY ? 0.0f : top));
}

}  // namespace attention

// A kernel of this name, whose body is `function(call)`.
#define ATTENTION(name, T, THREADS, BLOCKS, function)                                                              \
    KERNEL void __launch_bounds__(THREADS, BLOCKS) name(                                                           \
        T* out, float* values, float2* stats, const T* queries, const T* cache, const unsigned* starts,            \
        const unsigned* contexts, const unsigned* tables, unsigned query_stride, unsigned table_stride,            \
        unsigned group, unsigned head_dim, unsigned block_size, unsigned block_magic, unsigned block_shift,        \
        unsigned block_rows, unsigned window, unsigned more, unsigned most, unsigned span, unsigned splits,        \
        unsigned rows, float scale) {                                                                              \
        function(attention::Call<T>{out, values, stats, queries, cache, starts, contexts, tables, query_stride,    \
                                    table_stride, group, head_dim, block_size, block_magic, block_shift,           \
                                    block_rows, window, more, most, span, splits, rows, scale});                   \
    }                                                                                                              \
    EXPORT_KERNEL(name)
