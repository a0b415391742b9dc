// penalty.cuh: penalty.rs on the card. A thread block counts the tokens of its chunk in shared
// memory and marks those with a bias, then every logit is changed by one thread, so that nothing depends on an order.
#pragma once
#include "call.cuh"

namespace sampling {

// Of a token: how often in the output, and whether in the prompt and among the biases.
constexpr unsigned IN_PROMPT = 1u << 31, BIASED = 1u << 30;

// `seen` has a word an id of the span. Walks the row's whole history, which costs 4 bytes a token and
// chunk out of the second cache. `saved`, if any, gets the logit of every token of the history.
__device__ __forceinline__ void count_seen(const Call& call, const Row& row, const Span& span, unsigned* seen,
                                           float* saved) {
    for (unsigned i = threadIdx.x; i < span.count; i += THREADS) seen[i] = 0;
    __syncthreads();
    for (unsigned t = row.prompt + threadIdx.x; t < row.end; t += THREADS) {
        const unsigned at = call.tokens[t] - (call.first + span.start);  // ids below wrap, far above
        if (at >= span.count) continue;
        if (t < row.output) atomicOr(&seen[at], IN_PROMPT);
        else atomicAdd(&seen[at], 1u);
        if (saved) saved[t - row.prompt] = span.logits[at];
    }
    for (unsigned b = threadIdx.x; b < row.biases(); b += THREADS) {
        const unsigned at = call.biased(row, b) - (call.first + span.start);
        if (at >= span.count) continue;
        atomicOr(&seen[at], BIASED);
        if (saved) saved[row.end - row.prompt + b] = span.logits[at];
    }
    __syncthreads();
}

// The bias of an id that has one.
__device__ __forceinline__ float bias_of(const Call& call, const Row& row, unsigned id) {
    unsigned low = 0, high = row.biases() - 1;
    while (low < high) {
        const unsigned middle = (low + high) / 2;
        if (call.biased(row, middle) < id) low = middle + 1;
        else high = middle;
    }
    return __uint_as_float(call.tokens[row.bias + 2 * low + 1]);
}

__device__ __forceinline__ float changed(const Call& call, const Row& row, float x, unsigned seen, unsigned id) {
    if (seen & BIASED) x = __fadd_rn(x, bias_of(call, row, id));
    unsigned times = seen & ~(IN_PROMPT | BIASED);
    if ((seen & ~BIASED) == 0) return x;
    x = x > 0.0f ? __fdiv_rn(x, row.repetition) : __fmul_rn(x, row.repetition);
    if (times > 0) x = __fsub_rn(x, row.presence);
    for (; times > 0; times--) {
        const float less = __fsub_rn(x, row.frequency);
        if (less == x) break;  // and would stay so
        x = less;
    }
    return x;
}

}  // namespace sampling
