// call.cuh: what a call works on and where it lies: parameters, chunks, searches, the exchange.
// cuda/batch.rs and cuda/layout.rs are the host's side of these layouts.
#pragma once
#include "weight.cuh"

namespace sampling {

constexpr unsigned THREADS = 256, WARPS = THREADS / 32;
constexpr unsigned BLOCK = 64;           // ids that share their first race
constexpr unsigned CHUNK_MAX = 8192;     // ids of a thread block: a multiple of BLOCK
constexpr unsigned CANDIDATES_MAX = 20;  // the most alternatives that a row can report

enum Flag : unsigned {
    DRAWS = 1,      // else greedy
    CHANGED = 2,    // by biases or penalties, before a token is chosen
    LOGPROBS = 4,
    TOP_K = 8,
    TOP_P = 16,
    SAVES = 32,     // keeps the logits of changed tokens: keys take their place, log-probabilities need them
    GIVEN = 64,     // the token is `target`: only its log-probability is wanted
};

struct Row {
    unsigned flags;
    float scale;                          // 1 / temperature
    unsigned least;                       // the smallest key that min-p lets pass, at least 1
    unsigned top_k, top_p;                // a count; a fraction in units of 2^-32
    float repetition, presence, frequency;
    unsigned seed_low, seed_high, stream, position;
    unsigned prompt, output, end;         // where in `tokens` prompt and output begin, and the end
    unsigned saved;                       // where its changed logits are kept: the history's, then the biased
    unsigned candidates;                  // alternatives wanted
    unsigned bias, bias_end;              // where in `tokens` its biases are: ids that ascend, each with bits of a float
    unsigned target;

    __device__ unsigned biases() const { return (bias_end - bias) / 2; }

    // The first search is for top-k, or for top-p where there is no top-k; the second for top-p after it.
    __device__ bool searches(unsigned second) const {
        const unsigned both = TOP_K | TOP_P;
        return (flags & DRAWS) && (second ? (flags & both) == both : (flags & both) != 0);
    }
};

// What one chunk of a row says.
struct Chunk {
    u64 largest[2];    // the best candidate after and before penalties
    u64 own;           // sum of the weights of the model's own logits
    u64 time;          // bits of the winning block's time; all ones: nobody runs
    unsigned at, key;  // the winner's row of the shard
    u64 ties;          // tokens with the threshold's key
    u64 candidates[CANDIDATES_MAX];
};

// A row's search for a threshold, and the threshold.
struct Search {
    u64 missing, above;      // count or weight still missing below the prefix, weight above it
    u64 weight;              // of all that stays, over all ranks
    unsigned prefix, state;  // digits found
    unsigned key, ties;      // keys above stay, keys below go; with CUT the first `ties` of this rank
};
enum State : unsigned { OPEN = 1, CUT = 2 };

// What one rank says of a row, in the first segment of the exchange.
struct Record {
    u64 largest[2];
    u64 time;
    unsigned id, value;  // the winner, and the bits of its own logit or its key
    u64 is_key;
    u64 own;
    u64 candidates[CANDIDATES_MAX];
};

static_assert(sizeof(Row) == 20 * 4 && sizeof(Chunk) == 26 * 8 && sizeof(Search) == 5 * 8 && sizeof(Record) == 26 * 8,
              "layout.rs has these sizes");

// Keys are searched digit by digit: 10, 10 and 9 bits. The upper digit of the largest key is 640.
__device__ __forceinline__ unsigned shift_of(unsigned level) { return level == 0 ? 19 : level == 1 ? 9 : 0; }
__device__ __forceinline__ unsigned digit_bits(unsigned level) { return level == 2 ? 9 : 10; }
__device__ __forceinline__ unsigned bins_of(unsigned level) { return level == 0 ? 641 : level == 1 ? 1024 : 512; }
constexpr unsigned BINS_MAX = 1024;

// Segments of the exchange, each [ranks, rows, words]: records; the histograms of the three levels
// (counts, then weights; the last level has counts alone); levels 1 and 2 of the second search.
constexpr unsigned SEGMENTS = 6;
__device__ __forceinline__ unsigned segment_of(unsigned level, unsigned second) {
    return level == 0 ? 1 : 1 + level + 2 * second;
}
__device__ __forceinline__ unsigned words_of(unsigned segment) {
    return segment == 0 ? 26 : segment == 1 ? 2 * 641 : segment % 2 == 0 ? 2 * 1024 : 512;
}

// The part of a row that a thread block works on.
struct Span {
    float* logits;  // or keys
    unsigned start, count;

    __device__ unsigned key(unsigned at) const { return at < count ? __float_as_uint(logits[at]) : 0; }
};

struct Call {
    float* logits;
    const Row* rows;
    const unsigned* tokens;
    u64 *exchange, *scratch;
    unsigned width, first, chunk, row_count, ranks, rank;
    unsigned level, second;  // of the search

    __device__ unsigned chunks() const { return (width + chunk - 1) / chunk; }
    // Of a grid of [chunks, rows].
    __device__ Span span() const {
        const unsigned start = blockIdx.x * chunk;
        return {logits + size_t(blockIdx.y) * width + start, start, min(chunk, width - start)};
    }
    __device__ Chunk& chunk_of(unsigned row, unsigned at) const {
        return reinterpret_cast<Chunk*>(scratch)[size_t(row) * chunks() + at];
    }
    __device__ Search& search_of(unsigned row) const {
        Chunk* end = reinterpret_cast<Chunk*>(scratch) + size_t(row_count) * chunks();
        return reinterpret_cast<Search*>(end)[row];
    }
    __device__ unsigned biased(const Row& row, unsigned b) const { return tokens[row.bias + 2 * b]; }
    __device__ float* saved_of(const Row& row) const {
        return reinterpret_cast<float*>(&search_of(row_count)) + row.saved;
    }
    __device__ u64* segment(unsigned segment, unsigned of_rank, unsigned row) const {
        size_t before = 0;
        for (unsigned s = 0; s < segment; s++) before += words_of(s);
        return exchange + before * ranks * row_count + (size_t(of_rank) * row_count + row) * words_of(segment);
    }
    __device__ Record& record(unsigned of_rank, unsigned row) const {
        return *reinterpret_cast<Record*>(segment(0, of_rank, row));
    }
    // The best candidate of all ranks.
    __device__ u64 largest(unsigned row, unsigned before_penalties) const {
        u64 best = 0;
        for (unsigned r = 0; r < ranks; r++) best = max(best, record(r, row).largest[before_penalties]);
        return best;
    }
};

// f(place, number) for every number of a span; four are on their way at once.
template <class F>
__device__ __forceinline__ void each(const Span& span, F&& f) {
    for (unsigned first = threadIdx.x; first < span.count; first += 4 * THREADS) {
        float x[4];
#pragma unroll
        for (unsigned u = 0; u < 4; u++)
            x[u] = first + u * THREADS < span.count ? span.logits[first + u * THREADS] : 0.0f;
#pragma unroll
        for (unsigned u = 0; u < 4; u++)
            if (first + u * THREADS < span.count) f(first + u * THREADS, x[u]);
    }
}

struct Sum {
    static __device__ u64 join(u64 a, u64 b) { return a + b; }
};
struct Max {
    static __device__ u64 join(u64 a, u64 b) { return max(a, b); }
};
// Over groups of so many lanes.
template <class Op, int LANES = 32>
__device__ __forceinline__ u64 warp_join(u64 v) {
#pragma unroll
    for (int o = LANES / 2; o > 0; o >>= 1) v = Op::join(v, __shfl_xor_sync(0xffffffffu, v, o));
    return v;
}
// Over the block; every thread gets the result. May be called again at once. Warps that have nothing
// (0, which changes neither a sum nor a maximum) say so in one vote.
template <class Op>
__device__ u64 block_join(u64 v) {
    SHARED(u64, partial, [WARPS]);
    if (__any_sync(0xffffffffu, v != 0)) v = warp_join<Op>(v);
    __syncthreads();  // readers of the call before are through
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_join<Op, WARPS>(partial[threadIdx.x % WARPS]);
}

}  // namespace sampling
