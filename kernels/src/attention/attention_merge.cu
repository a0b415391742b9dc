// attention_merge.cu: adds up the spans that attention_decode or attention_prefill cut a row's keys
// into: with top = max_s top_s, out = sum_s 2^(top_s - top) * values_s / sum_s 2^(top_s - top) * weight_s.
// Shapes and what the launcher guarantees: call.cuh; grid x: rows.
//
// One block per row of a KV head; groups of head_dim / 8 threads take the spans in turn, so that
// many are on their way at once. A row's sums are read once and are small beside its keys: latency-
// bound, expected 3 to 5 microseconds a launch up to 64 spans.
//
// budget: attention_merge_ 72 registers, 4160 bytes of shared memory
#include "call.cuh"

namespace attention {

constexpr int MERGE_THREADS = 128;

template <class T> __device__ __forceinline__ void merge(const Call<T>& call) {
    SHARED(float4, sums_of_4, [MERGE_THREADS * 2]);  // aligned for load8 and store8
    SHARED(float, weights, [MERGE_THREADS / 8]);
    float* sums = &sums_of_4[0].x;
    const Sequence sequence(call);
    const int row = int(blockIdx.x);
    if (!sequence.is_for(call) || row >= sequence.rows) return;  // the whole block
    const int chunks = int(call.head_dim) / 8, groups = MERGE_THREADS / chunks;
    const int group = int(threadIdx.x) / chunks, chunk = int(threadIdx.x) % chunks;
    const int spans = sequence.spans(call);
    const size_t first = sequence.part(call, row, 0);
    const float2* stats = call.stats + first;
    const float* values = call.values + first * call.head_dim + chunk * 8;

    float top = -INFINITY, weight = 0.0f, v[8] = {};
    for (int s = 0; s < spans; s++) top = fmaxf(top, stats[s].x);
    if (group < groups) {
#pragma unroll 4
        for (int s = group; s < spans; s += groups) {
            const float share = weight_of(stats[s].x, top);
            float more[8];
            dev::load8(more, values + size_t(s) * call.head_dim);
            weight += stats[s].y * share;
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] += more[i] * share;
        }
        dev::store8(sums + threadIdx.x * 8, v);
        if (chunk == 0) weights[group] = weight;
    }
    __syncthreads();
    if (group > 0) return;
    for (int g = 1; g < groups; g++) {
        float more[8];
        dev::load8(more, sums + (g * chunks + chunk) * 8);
        weight += weights[g];
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] += more[i];
    }
    const float share = 1.0f / weight;
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] *= share;
    dev::store8(sequence.out(call, row) + chunk * 8, v);
}

}  // namespace attention

ATTENTION(attention_merge_f16, f16, attention::MERGE_THREADS, 1, attention::merge<f16>)
ATTENTION(attention_merge_bf16, bf16, attention::MERGE_THREADS, 1, attention::merge<bf16>)
