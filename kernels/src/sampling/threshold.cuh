// threshold.cuh: threshold.rs on the card. The answer is that of the whole vocabulary, digit by
// digit from histograms; the ranks' histograms lie side by side in the exchange and are added here.
#pragma once
#include "call.cuh"

namespace sampling {

// A chunk's histogram in shared memory, in native 32-bit atomics: how many keys have a digit, and the
// sum of what their units exceed that of the digit's first key by (below 2^19, 8,192 of them: 2^32).
struct Histogram {
    unsigned *counts, *rests;

    __device__ void clear(unsigned level) const {
        for (unsigned bin = threadIdx.x; bin < bins_of(level); bin += THREADS) counts[bin] = rests[bin] = 0;
    }
    __device__ void add(unsigned level, unsigned key) const {
        const unsigned shift = shift_of(level), bin = key >> shift & ((1u << digit_bits(level)) - 1);
        atomicAdd(&counts[bin], 1u);
        if (level < 2) atomicAdd(&rests[bin], unit_of(key) - unit_of(key >> shift << shift));
    }
    // Adds to a rank's histogram; sums of integers, whose order does not matter.
    __device__ void flush(unsigned level, unsigned prefix, u64* words) const {
        const unsigned bins = bins_of(level), shift = shift_of(level);
        for (unsigned bin = threadIdx.x; bin < bins; bin += THREADS) {
            const unsigned count = counts[bin];
            if (count == 0) continue;
            atomicAdd(&words[bin], u64(count));
            if (level == 2) continue;
            const unsigned first = (prefix << digit_bits(level) | bin) << shift;
            atomicAdd(&words[bins + bin], (u64(count) * unit_of(first) + rests[bin]) << rise_of(first));
        }
    }
};

struct Bin {
    u64 count, weight;
};

// A bin of a histogram, over the ranks before `ranks`.
__device__ __forceinline__ Bin bin_of(const Call& call, unsigned row, unsigned bin, unsigned prefix, unsigned ranks) {
    Bin all = {0, 0};
    const unsigned segment = segment_of(call.level, call.second);
    for (unsigned r = 0; r < ranks; r++) {
        const u64* words = call.segment(segment, r, row);
        all.count += words[bin];
        if (call.level < 2) all.weight += words[bins_of(call.level) + bin];
    }
    if (call.level == 2) all.weight = all.count * weight_of(prefix << digit_bits(2) | bin);
    return all;
}

struct Scan {
    u64 before, all;  // sums over the threads before this one, and over all
};
__device__ __forceinline__ Scan block_scan(u64 v) {
    SHARED(u64, totals, [WARPS]);
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    u64 sum = v;
#pragma unroll
    for (unsigned o = 1; o < 32; o <<= 1) {
        const u64 other = __shfl_up_sync(0xffffffffu, sum, o);
        if (lane >= o) sum += other;
    }
    __syncthreads();  // readers of the call before are through
    if (lane == 31) totals[warp] = sum;
    __syncthreads();
    const u64 total = totals[lane % WARPS];
    const u64 before = warp_join<Sum, WARPS>(lane % WARPS < warp ? total : 0);
    return {before + sum - v, warp_join<Sum, WARPS>(total)};
}

// One digit further: a block per row, four bins a thread, the uppermost first.
__device__ void descend(const Call& call) {
    const Row row = call.rows[blockIdx.x];
    if (!row.searches(call.second)) return;
    Search& search = call.search_of(blockIdx.x);
    const Search old = search;  // read by all before the one that finds the digit writes
    const bool starts = call.level == 0, by_count = !call.second && (row.flags & TOP_K);
    if (!starts && !(old.state & OPEN)) return;
    const unsigned prefix = starts ? 0 : old.prefix, bins = bins_of(call.level), first = 4 * threadIdx.x;
    Bin own = {0, 0};
    for (unsigned at = first; at < min(first + 4, bins); at++) {
        const Bin bin = bin_of(call, blockIdx.x, bins - 1 - at, prefix, call.ranks);
        own.count += bin.count, own.weight += bin.weight;
    }
    const Scan weights = block_scan(own.weight), scan = by_count ? block_scan(own.count) : weights;
    u64 missing = old.missing;
    if (starts && by_count) missing = row.top_k;
    if (starts && !by_count) missing = max(part_of(call.second ? old.weight : weights.all, row.top_p), 1ull);
    if (starts && scan.all < missing) {  // all together do not reach it: all stay
        if (threadIdx.x == 0) search = {0, 0, weights.all, 0, 0, row.least, 0};
        return;
    }
    if (missing <= scan.before || missing > scan.before + (by_count ? own.count : own.weight)) return;
    missing -= scan.before;
    u64 above = (starts ? 0 : old.above) + weights.before;
    for (unsigned at = first;; at++) {
        const unsigned digit = bins - 1 - at;
        const Bin bin = bin_of(call, blockIdx.x, digit, prefix, call.ranks);
        if (missing > (by_count ? bin.count : bin.weight)) {
            missing -= by_count ? bin.count : bin.weight, above += bin.weight;
            continue;
        }
        const unsigned found = prefix << digit_bits(call.level) | digit;
        if (call.level < 2) {
            search = {missing, above, 0, found, OPEN, 0, 0};
            return;
        }
        const u64 each = weight_of(found), wanted = by_count ? missing : (missing + each - 1) / each;
        const u64 before = bin_of(call, blockIdx.x, digit, prefix, call.rank).count;
        const unsigned ties = unsigned(wanted > before ? wanted - before : 0);
        search = {0, 0, above + wanted * each, 0, wanted < bin.count ? unsigned(CUT) : 0u, found, ties};
        return;
    }
}

// The histogram of the next digit, of the keys that share the digits found: a block per chunk.
__device__ void count_digit(const Call& call) {
    const Row row = call.rows[blockIdx.y];
    if (!row.searches(call.second)) return;
    const Search search = call.search_of(blockIdx.y);
    if (!(search.state & OPEN)) return;
    SHARED(unsigned, counts, [BINS_MAX]);
    SHARED(unsigned, rests, [BINS_MAX]);
    const Histogram histogram = {&counts[0], &rests[0]};
    histogram.clear(call.level);
    __syncthreads();
    const unsigned above = shift_of(call.level) + digit_bits(call.level);
    each(call.span(), [&](unsigned, float x) {
        const unsigned key = __float_as_uint(x);
        if (key >> above == search.prefix && key >= row.least) histogram.add(call.level, key);
    });
    __syncthreads();
    histogram.flush(call.level, search.prefix, call.segment(segment_of(call.level, call.second), call.rank, blockIdx.y));
}

// A row's threshold.
struct Kept {
    unsigned key;   // keys above stay, keys below go
    bool cut;       // of the ties with this key only the first stay,
    unsigned ties;  // so many of this rank's
};
__device__ __forceinline__ Kept kept_of(const Call& call, const Row& row, unsigned index) {
    if (!row.searches(0)) return {row.least, false, 0};
    const Search& search = call.search_of(index);
    return {search.key, (search.state & CUT) != 0, search.ties};
}

// Counts the ties of a chunk, where some of them go: a block per chunk.
__device__ void count_ties(const Call& call) {
    const Row row = call.rows[blockIdx.y];
    if (!(row.flags & DRAWS)) return;
    const Kept kept = kept_of(call, row, blockIdx.y);
    if (!kept.cut) return;
    u64 ties = 0;
    each(call.span(), [&](unsigned, float x) { ties += __float_as_uint(x) == kept.key; });
    ties = block_join<Sum>(ties);
    if (threadIdx.x == 0) call.chunk_of(blockIdx.y, blockIdx.x).ties = ties;
}

}  // namespace sampling
