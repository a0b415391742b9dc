// sampling.cu: from logits to one token per row, with the very results of the CPU (mod.rs, and the
// files of the same names): ids, keys, thresholds and sums are equal to the bit, on every card and
// for every cut of the vocabulary over ranks.
//
// logits (rows, width) in f32, of this rank's shard; keys take the place of the logits of drawn rows.
// rows (rows) of Row; tokens: every row's prompt and output, and its biases; exchange: six segments (ranks, rows,
// words); scratch: (rows, chunks) of Chunk, (rows) of Search, saved logits. See call.cuh.
//
//   kernel        grid             reads                       leaves
//   largest       chunks x rows    logits, history             the best candidates of the chunk
//   merge         rows             chunks                      record; histograms of zeros
//     -- ranks exchange records; greedy rows without log-probabilities end here --
//   weigh         chunks x rows    logits, history             keys; own sum; histogram of digit 0
//     -- ranks exchange histograms --
//   descend       rows             all ranks' histograms       the digit, at last the threshold
//   count_digit   chunks x rows    keys                        histogram of the next digit
//     -- exchange and descend again, for digits 1 and 2, and twice if top-k and top-p are wanted --
//   count_ties    chunks x rows    keys, where ties are cut    ties of the chunk
//   race          chunks x rows    keys                        the chunk's winner
//   finish        rows             chunks                      record, for the host (outcome.rs)
//     -- ranks exchange records --
//
// No block waits for another of its launch. What several blocks add to is integers, by atomics, whose
// order does not matter; all else has one writer.
//
// Cost: temperature with top-p reads the logits five times and writes them once. 64 x 128,256 are
// 33 MB, which the second cache of an H100 holds: about 9 us a pass at 4 TB/s, 15 us for weigh (45
// instructions a logit), 2 us for each of the six kernels with a block a row: 70 us. Greedy: one pass,
// 12 us. Top-k with top-p: two passes and five launches more, 95 us. Estimates, not measured.
//
// The launcher guarantees 256 threads; chunk a multiple of 64 up to 8,192; dynamic shared memory of 4
// bytes an id of a chunk where a row is changed; width up to 2^18; first a multiple of 64 (where
// width > 0), first + width below 2^32; ranks from 1 on, rank below it; at most 20 candidates; history
// and biases within tokens and below 2^30; for every row the same flags on all ranks.
//
// budget: sampling_ 48 registers, 256 bytes of shared memory
// budget: sampling_weigh 48 registers, 8320 bytes of shared memory
// budget: sampling_count_digit 48 registers, 8192 bytes of shared memory
// budget: sampling_race 48 registers, 2304 bytes of shared memory
#include "candidates.cuh"
#include "penalty.cuh"
#include "race.cuh"
#include "threshold.cuh"

namespace sampling {

__device__ void largest(const Call& call, unsigned* seen) {
    const Row row = call.rows[blockIdx.y];
    const Span span = call.span();
    const bool changes = row.flags & CHANGED;
    if (changes) count_seen(call, row, span, seen, nullptr);
    const unsigned first = call.first + span.start;
    unsigned best = 0, best_at = 0;
    each(span, [&](unsigned at, float x) {
        const unsigned place = ordered(changes ? changed(call, row, x, seen[at], first + at) : x);
        if (place > best) best = place, best_at = at;  // places ascend: equal ones later on are no better
    });
    const u64 after = block_join<Max>(best == 0 ? 0 : u64(best) << 32 | unsigned(~(first + best_at)));
    Chunk& chunk = call.chunk_of(blockIdx.y, blockIdx.x);
    u64 before = 0;
    if (row.flags & LOGPROBS)
        before = take_largest(span.count, row.candidates, chunk.candidates,
                              [&](unsigned at) { return candidate(span.logits[at], first + at); });
    if (threadIdx.x == 0) chunk.largest[0] = after, chunk.largest[1] = before;
}

__device__ void merge(const Call& call) {
    const Row row = call.rows[blockIdx.x];
    u64 after = 0, before = 0;
    for (unsigned c = threadIdx.x; c < call.chunks(); c += THREADS) {
        const Chunk& chunk = call.chunk_of(blockIdx.x, c);
        after = max(after, chunk.largest[0]), before = max(before, chunk.largest[1]);
    }
    after = block_join<Max>(after), before = block_join<Max>(before);
    Record& record = call.record(call.rank, blockIdx.x);
    if (threadIdx.x == 0) record.largest[0] = after, record.largest[1] = before;
    for (unsigned segment = 1; segment < SEGMENTS; segment++) {
        if (!row.searches(segment > segment_of(2, 0))) continue;
        u64* words = call.segment(segment, call.rank, blockIdx.x);
        for (unsigned w = threadIdx.x; w < words_of(segment); w += THREADS) words[w] = 0;
    }
}

__device__ void weigh(const Call& call, unsigned* seen) {
    const Row row = call.rows[blockIdx.y];
    if (!(row.flags & (DRAWS | LOGPROBS))) return;
    SHARED(unsigned, counts, [BINS_MAX]);
    SHARED(unsigned, rests, [BINS_MAX]);
    const Histogram histogram = {&counts[0], &rests[0]};
    const Span span = call.span();
    const bool draws = row.flags & DRAWS, logprobs = row.flags & LOGPROBS, searches = row.searches(0);
    const bool changes = draws && (row.flags & CHANGED);
    if (searches) histogram.clear(0);
    if (changes) count_seen(call, row, span, seen, row.flags & SAVES ? call.saved_of(row) : nullptr);
    __syncthreads();
    const float max_after = logit_of(call.largest(blockIdx.y, 0)), max_before = logit_of(call.largest(blockIdx.y, 1));
    u64 own = 0;
    each(span, [&](unsigned at, float x) {
        if (logprobs) own += weight_of(key_of(__fsub_rn(x, max_before)));
        if (!draws) return;
        if (changes) x = changed(call, row, x, seen[at], call.first + span.start + at);
        const unsigned key = key_of(__fmul_rn(__fsub_rn(x, max_after), row.scale));
        span.logits[at] = __uint_as_float(key);
        if (searches && key >= row.least) histogram.add(0, key);
    });
    if (logprobs) {
        own = block_join<Sum>(own);
        if (threadIdx.x == 0) call.chunk_of(blockIdx.y, blockIdx.x).own = own;
    }
    if (!searches) return;
    __syncthreads();
    histogram.flush(0, 0, call.segment(segment_of(0, 0), call.rank, blockIdx.y));
}

// The own logit of `id`, if it was seen or biased: bit 32, and the logit's bits below.
__device__ u64 saved_logit(const Call& call, const Row& row, unsigned id) {
    u64 found = 0;
    for (unsigned t = row.prompt + threadIdx.x; t < row.end; t += THREADS)
        if (call.tokens[t] == id) found = 1ull << 32 | __float_as_uint(call.saved_of(row)[t - row.prompt]);
    for (unsigned b = threadIdx.x; b < row.biases(); b += THREADS)
        if (call.biased(row, b) == id)
            found = 1ull << 32 | __float_as_uint(call.saved_of(row)[row.end - row.prompt + b]);
    return block_join<Max>(found);  // all that were found are the same
}

__device__ void finish(const Call& call) {
    const Row row = call.rows[blockIdx.x];
    if (!(row.flags & (DRAWS | LOGPROBS))) return;
    const unsigned chunks = call.chunks();
    Runner best = {~0ull, 0};
    u64 own = 0;
    for (unsigned c = threadIdx.x; c < chunks; c += THREADS) {
        const Chunk& chunk = call.chunk_of(blockIdx.x, c);
        if (row.flags & LOGPROBS) own += chunk.own;
        const Runner other = {row.flags & DRAWS ? chunk.time : ~0ull, c};
        if (other.is_ahead_of(best)) best = other;
    }
    own = block_join<Sum>(own);
    best = block_first(best);
    Record& record = call.record(call.rank, blockIdx.x);
    if (row.candidates > 0) {
        const auto get = [&](unsigned i) {
            return call.chunk_of(blockIdx.x, i / row.candidates).candidates[i % row.candidates];
        };
        take_largest(chunks * row.candidates, row.candidates, record.candidates, get);
    }
    u64 time = best.time;
    unsigned at = 0, value = 0;
    bool is_key = false;
    if (!(row.flags & DRAWS)) {  // greedy: the largest, or the given, if it is this rank's
        at = (row.flags & GIVEN ? row.target : ~unsigned(call.largest(blockIdx.x, 0))) - call.first;
        if (at < call.width) time = 0, value = __float_as_uint(call.logits[size_t(blockIdx.x) * call.width + at]);
    } else if (time != ~0ull) {
        const Chunk& chunk = call.chunk_of(blockIdx.x, best.place);
        at = chunk.at, value = chunk.key, is_key = true;
    }
    if (is_key && (row.flags & SAVES)) {
        const u64 saved = saved_logit(call, row, call.first + at);
        if (saved > 0) value = unsigned(saved), is_key = false;
    }
    if (threadIdx.x > 0) return;
    record.time = time, record.id = call.first + at, record.value = value;
    record.is_key = is_key, record.own = own;
}

}  // namespace sampling

// All kernels have the parameters of a call. `seen`: a word an id, given where a row is changed.
#define SAMPLING(name, body)                                                                                             \
    KERNEL void __launch_bounds__(sampling::THREADS) sampling_##name(                                                    \
        float* logits, const sampling::Row* rows, const unsigned* tokens, sampling::u64* exchange,                       \
        sampling::u64* scratch, unsigned width, unsigned first, unsigned chunk, unsigned row_count, unsigned ranks,      \
        unsigned rank, unsigned level, unsigned second) {                                                                \
        const sampling::Call call = {logits, rows, tokens, exchange, scratch, width, first,                              \
                                     chunk,  row_count, ranks, rank, level, second};                                     \
        body;                                                                                                            \
    }                                                                                                                    \
    EXPORT_KERNEL(sampling_##name)

#define SAMPLING_SEEN(name)                                             \
    SAMPLING(name, {                                                    \
        SHARED_DYNAMIC(seen);                                           \
        sampling::name(call, reinterpret_cast<unsigned*>(&seen[0]));    \
    })

SAMPLING_SEEN(largest)
SAMPLING(merge, sampling::merge(call))
SAMPLING_SEEN(weigh)
SAMPLING(descend, sampling::descend(call))
SAMPLING(count_digit, sampling::count_digit(call))
SAMPLING(count_ties, sampling::count_ties(call))
SAMPLING(race, sampling::race(call))
SAMPLING(finish, sampling::finish(call))
