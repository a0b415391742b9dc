// attention_decode.cu: out[t,h] = sum_j softmax_j(scale * q[t,h] . k[j]) * v[j] for few rows (see
// call.cuh): decoding, and whatever else brings at most 64 rows of a KV head.
// Shapes and what the launcher guarantees: call.cuh; 16-bit types. Grid x: (tile of 16 rows, span).
//
// A block takes 16 rows against one span of keys. Its warps share nothing until the end: each reads
// its own tiles of 16 keys and values through its own ring in shared memory (ring.cuh), so no warp
// waits for another. Then the warps' sums are merged, and go to `out`, or, when the keys are cut
// into several spans, to `values` and `stats` for attention_merge.cu.
//
// Cost: keys and values are read once from memory for the whole group, nothing else is of that
// size: bandwidth-bound. With tensor cores 16 rows cost what one costs, about 1/15 of their time.
// In flight are 2 of 3 slots of every warp, each of keys and values: 64 KiB a block at D = 128, two
// blocks on an H100's multiprocessor (about 20 KiB cover its latency). Expected there: 80% of the
// copy bandwidth when the batch has some MiB of keys, 70% from 16 MiB in all on; less below, where
// starting a block and the merge (each some microseconds) show.
//
// Registers are sm_100's, which takes most; up to D = 128 the other targets take 105 to 175.
// budget: attention_decode_64_ 131 registers, 256 bytes of shared memory
// budget: attention_decode_80_ 159 registers, 256 bytes of shared memory
// budget: attention_decode_96_ 181 registers, 256 bytes of shared memory
// budget: attention_decode_128_ 201 registers, 256 bytes of shared memory
// budget: attention_decode_256_ 255 registers, 128 bytes of shared memory
#include "ring.cuh"

namespace attention {

template <int D> struct Decode {
    static constexpr int KEYS = 16, SLOTS = 3, WARPS = D > 128 ? 2 : 4, THREADS = WARPS * 32;
    static constexpr int PITCH = D + 8;  // of a row of sums: shifts rows by eight banks
};

template <class T, int D> __device__ __forceinline__ HeldQuery<T, D> hold(const Call<T>& call, const Sequence& sequence, int first) {
    HeldQuery<T, D> query;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = first + lane() / 4 + h * 8;
        const bool is_row = row < sequence.rows;
        const T* from = sequence.query(call, is_row ? row : first) + lane() % 4 * 2;
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            query.held[i][h] = is_row ? *reinterpret_cast<const unsigned*>(from + i * 16) : 0u;
            query.held[i][2 + h] = is_row ? *reinterpret_cast<const unsigned*>(from + i * 16 + 8) : 0u;
        }
    }
    return query;
}

template <class T, int D> __device__ __forceinline__ void decode(const Call<T>& call) {
    using Form = Decode<D>;
    constexpr int WARPS = Form::WARPS, KEYS = Form::KEYS, PITCH = Form::PITCH;
    using Keys = Ring<T, D, KEYS, Form::SLOTS, 1>;
    SHARED_DYNAMIC(memory);
    SHARED(int, last, [WARPS][16]);
    const Sequence sequence(call);
    const int first_row = int(blockIdx.x / call.splits) * 16, split = int(blockIdx.x % call.splits);
    if (!sequence.is_for(call) || first_row >= sequence.rows || split >= sequence.spans(call)) return;  // the whole block
    const int warp = threadIdx.x / 32, rows = min(sequence.rows - first_row, 16);
    const int low = sequence.position(first_row), high = sequence.position(first_row + rows - 1);
    const int span = int(call.span), from = (sequence.first_span(call) + split) * span;
    const int begin = max(sequence.first_seen(call, low), from), end = min(high + 1, from + span);
    const int first = begin / KEYS * KEYS + warp * KEYS;

    Keys ring(call, memory + warp * Keys::BYTES, 0, first, begin, end, WARPS * KEYS);
    const HeldQuery<T, D> query = hold<T, D>(call, sequence, first_row);
    if (lane() < 16) last[warp][lane()] = sequence.position(first_row + min(lane(), rows - 1));
    Tile<T, D, 1, KEYS> tile(last[warp]);
    attend(tile, ring, query, first, low, high, call.window, call.scale);

    // The warps' sums, where their rings were.
    float* sums = reinterpret_cast<float*>(memory);
    float2* stats = reinterpret_cast<float2*>(sums + WARPS * 16 * PITCH);
    __syncthreads();
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = warp * 16 + lane() / 4 + h * 8;
        const float weight = tile.row_sum(0, h);
        if (lane() % 4 == 0) stats[row] = {tile.top[0][h] * call.scale, weight};
#pragma unroll
        for (int i = 0; i < D / 8; i++)
            *reinterpret_cast<float2*>(sums + row * PITCH + i * 8 + lane() % 4 * 2) = {tile.out[0][i][h * 2],
                                                                                       tile.out[0][i][h * 2 + 1]};
    }
    __syncthreads();
    for (int n = threadIdx.x; n < rows * (D / 8); n += Form::THREADS) {
        const int row = n / (D / 8), chunk = n % (D / 8);
        float top = -INFINITY, weight = 0.0f, v[8] = {};
#pragma unroll
        for (int w = 0; w < WARPS; w++) top = fmaxf(top, stats[w * 16 + row].x);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float2 part = stats[w * 16 + row];
            const float share = weight_of(part.x, top);
            float more[8];
            dev::load8(more, sums + (w * 16 + row) * PITCH + chunk * 8);
            weight += part.y * share;
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] += more[i] * share;
        }
        if (call.splits == 1) {
            const float share = 1.0f / weight;
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] *= share;
            dev::store8(sequence.out(call, first_row + row) + chunk * 8, v);
        } else {
            const size_t part = sequence.part(call, first_row + row, split);
            dev::store8(call.values + part * D + chunk * 8, v);
            if (chunk == 0) call.stats[part] = {top, weight};
        }
    }
}

}  // namespace attention

#define DECODE(suffix, T, D) \
    ATTENTION(attention_decode_##D##_##suffix, T, attention::Decode<D>::THREADS, 1, (attention::decode<T, D>))
#define DECODE_ALL(suffix, T) \
    DECODE(suffix, T, 64) DECODE(suffix, T, 80) DECODE(suffix, T, 96) DECODE(suffix, T, 128) DECODE(suffix, T, 256)
DECODE_ALL(f16, f16)
DECODE_ALL(bf16, bf16)
