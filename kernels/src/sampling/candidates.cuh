// candidates.cuh: the most likely tokens, best first, for log-probabilities.
#pragma once
#include "call.cuh"

namespace sampling {

// The `wanted` largest of get(0) .. get(count - 1), in descending order; 0 where there are no more.
// All differ, or are 0. One round each: the block's largest, whose thread then looks for its next.
// Every thread gets the largest.
template <class Get>
__device__ u64 take_largest(unsigned count, unsigned wanted, u64* taken, Get&& get) {
    auto own_below = [&](u64 limit) {
        u64 best = 0;
        for (unsigned i = threadIdx.x; i < count; i += THREADS) {
            const u64 one = get(i);
            if (one < limit) best = max(best, one);
        }
        return best;
    };
    u64 own = own_below(~0ull), largest = 0;
    for (unsigned n = 0; n < max(wanted, 1u); n++) {
        const u64 top = block_join<Max>(own);
        if (n == 0) largest = top;
        if (threadIdx.x == 0 && n < wanted) taken[n] = top;
        if (top > 0 && own == top) own = own_below(top);
    }
    return largest;
}

}  // namespace sampling
