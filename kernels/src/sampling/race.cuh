// race.cuh: race.rs and random.rs on the card: the exponential race in two heats, its random numbers
// by counter. A runner's time depends on nothing but its weight and number, and the least (time,
// place) wins, so no order of threads matters. The host skips runners that cannot win, which never
// changes who does; here each thread has one runner, and a warp's logarithm costs the same for one.
#pragma once
#include "threshold.cuh"

namespace sampling {

// logarithm.rs says what these are.
__device__ constexpr double LG[7] = {6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01,
                                     2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01,
                                     1.479819860511658591e-01};
constexpr double LN2_HIGH = 6.93147180369123816490e-01, LN2_LOW = 1.90821492927058770002e-10;

// Philox4x32-10, word `index` of four.
__device__ __forceinline__ unsigned philox(unsigned c0, unsigned c1, unsigned c2, unsigned c3, unsigned k0, unsigned k1,
                                           unsigned index) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const unsigned low0 = 0xD2511F53u * c0, high0 = __umulhi(0xD2511F53u, c0);
        const unsigned low1 = 0xCD9E8D57u * c2, high1 = __umulhi(0xCD9E8D57u, c2);
        c0 = high1 ^ c1 ^ k0, c1 = low1;
        c2 = high0 ^ c3 ^ k1, c3 = low0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return index == 0 ? c0 : index == 1 ? c1 : index == 2 ? c2 : c3;
}

// As `minus_ln_1m` of logarithm.rs, operation for operation; none is contracted.
__device__ __forceinline__ double minus_ln_1m(double u) {
    constexpr u64 ONE = 0x3ff0000000000000ull, ROOT_HALF = 0x3fe6a09e667f3bcdull;
    const double v = __dsub_rn(1.0, u);
    const u64 shifted = u64(__double_as_longlong(v)) + (ONE - ROOT_HALF);
    const double power = double(int(shifted >> 52) - 1023);
    const double mantissa = __longlong_as_double(static_cast<long long>((shifted & 0x000fffffffffffffull) + ROOT_HALF));
    const double f = __dsub_rn(mantissa, 1.0), s = __ddiv_rn(f, __dadd_rn(2.0, f));
    const double z = __dmul_rn(s, s), w = __dmul_rn(z, z);
    auto step = [](double c, double x, double rest) { return __dadd_rn(c, __dmul_rn(x, rest)); };
    const double even = __dmul_rn(w, step(LG[1], w, step(LG[3], w, LG[5])));
    const double odd = __dmul_rn(z, step(LG[0], w, step(LG[2], w, step(LG[4], w, LG[6]))));
    const double half = __dmul_rn(__dmul_rn(0.5, f), f);
    const double low = __dadd_rn(__dmul_rn(s, __dadd_rn(half, __dadd_rn(odd, even))), __dmul_rn(power, LN2_LOW));
    return -__dsub_rn(__dmul_rn(power, LN2_HIGH), __dsub_rn(__dsub_rn(half, low), f));
}

enum Heat : unsigned { OF_TOKENS = 0, OF_BLOCKS = 1 };

struct Runner {
    u64 time;  // times are positive, so their bits order as they do; all ones: does not run
    unsigned place;

    __device__ bool is_ahead_of(const Runner& other) const {
        return time < other.time || (time == other.time && place < other.place);
    }
};

// Who has `number` in a heat needs E / weight, with E exponentially distributed.
__device__ __forceinline__ Runner run(const Row& row, Heat heat, u64 weight, unsigned number, unsigned place) {
    if (weight == 0) return {~0ull, place};
    const unsigned word = philox(number / 4, row.position, row.stream, heat, row.seed_low, row.seed_high, number % 4);
    const double uniform = (double(word) + 0.5) / 4294967296.0;
    return {u64(__double_as_longlong(__ddiv_rn(minus_ln_1m(uniform), double(weight)))), place};
}

template <int LANES = 32>
__device__ __forceinline__ Runner warp_first(Runner own) {
#pragma unroll
    for (int o = LANES / 2; o > 0; o >>= 1) {
        const Runner other = {__shfl_xor_sync(0xffffffffu, own.time, o), __shfl_xor_sync(0xffffffffu, own.place, o)};
        if (other.is_ahead_of(own)) own = other;
    }
    return own;
}
// Every thread gets the result.
__device__ __forceinline__ Runner block_first(Runner own) {
    SHARED(u64, times, [WARPS]);
    SHARED(unsigned, places, [WARPS]);
    if (__any_sync(0xffffffffu, own.time != ~0ull)) own = warp_first(own);
    if (threadIdx.x % 32 == 0) times[threadIdx.x / 32] = own.time, places[threadIdx.x / 32] = own.place;
    __syncthreads();
    return warp_first<WARPS>({times[threadIdx.x % WARPS], places[threadIdx.x % WARPS]});
}

// Both heats on a chunk: a block per chunk. A block of 64 tokens runs for the sum of the weights that
// stay; then the tokens of the winning block run among themselves.
__device__ void race(const Call& call) {
    const Row row = call.rows[blockIdx.y];
    if (!(row.flags & DRAWS)) return;
    SHARED(u64, sums, [CHUNK_MAX / BLOCK]);
    SHARED(unsigned, tied, [CHUNK_MAX / BLOCK]);  // ties in a block,
    SHARED(unsigned, left, [CHUNK_MAX / BLOCK]);  // and how many stay from its first one on
    const Span span = call.span();
    const Kept kept = kept_of(call, row, blockIdx.y);
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, blocks = (span.count + BLOCK - 1) / BLOCK;
    const u64 each_tie = weight_of(kept.key);
    const unsigned from = kept.cut ? kept.key + 1 : kept.key;
    for (unsigned first = warp; first < blocks; first += 4 * WARPS) {
        unsigned low[4], high[4];  // eight loads are on their way at once
#pragma unroll
        for (unsigned u = 0; u < 4; u++) {
            const unsigned at = (first + u * WARPS) * BLOCK + lane;
            low[u] = span.key(at), high[u] = span.key(at + 32);
        }
#pragma unroll
        for (unsigned u = 0; u < 4; u++) {
            const unsigned b = first + u * WARPS;
            if (b >= blocks) continue;
            u64 sum = (low[u] >= from ? weight_of(low[u]) : 0) + (high[u] >= from ? weight_of(high[u]) : 0);
            if (__any_sync(0xffffffffu, sum > 0)) sum = warp_join<Sum>(sum);  // in most blocks nothing stays
            unsigned ties = 0;
            if (kept.cut)
                ties = __popc(__ballot_sync(0xffffffffu, low[u] == kept.key)) +
                       __popc(__ballot_sync(0xffffffffu, high[u] == kept.key));
            if (lane == 0) sums[b] = sum, tied[b] = ties;
        }
    }
    u64 before = 0;  // ties of the chunks before
    if (kept.cut) {
        for (unsigned c = threadIdx.x; c < blockIdx.x; c += THREADS) before += call.chunk_of(blockIdx.y, c).ties;
        before = block_join<Sum>(before);
    }
    __syncthreads();
    const unsigned b = threadIdx.x;
    u64 weight = b < blocks ? sums[b] : 0;
    if (b < blocks && kept.cut) {
        for (unsigned i = 0; i < b; i++) before += tied[i];
        left[b] = kept.ties > before ? unsigned(kept.ties - before) : 0;
        weight += min(left[b], tied[b]) * each_tie;
    }
    const unsigned start = call.first + span.start;
    const Runner block = block_first(run(row, OF_BLOCKS, weight, start / BLOCK + b, b));
    if (warp > 0) return;
    Chunk& chunk = call.chunk_of(blockIdx.y, blockIdx.x);
    if (block.time == ~0ull) {
        if (lane == 0) chunk.time = ~0ull;
        return;
    }
    const unsigned at = block.place * BLOCK + lane, low = span.key(at), high = span.key(at + 32);
    bool low_stays = low >= kept.key, high_stays = high >= kept.key;
    if (kept.cut) {
        const unsigned low_ties = __ballot_sync(0xffffffffu, low == kept.key);
        const unsigned high_ties = __ballot_sync(0xffffffffu, high == kept.key), before_lane = (1u << lane) - 1;
        const unsigned stay = left[block.place];
        if (low == kept.key) low_stays = unsigned(__popc(low_ties & before_lane)) < stay;
        if (high == kept.key) high_stays = unsigned(__popc(low_ties) + __popc(high_ties & before_lane)) < stay;
    }
    Runner own = run(row, OF_TOKENS, low_stays ? weight_of(low) : 0, start + at, at);
    const Runner other = run(row, OF_TOKENS, high_stays ? weight_of(high) : 0, start + at + 32, at + 32);
    if (other.is_ahead_of(own)) own = other;
    own = warp_first(own);
    if (lane == 0) chunk.time = block.time, chunk.at = span.start + own.place, chunk.key = span.key(own.place);
}

}  // namespace sampling
