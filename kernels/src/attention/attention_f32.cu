// attention_f32.cu: out[t,h] = sum_j softmax_j(scale * q[t,h] . k[j]) * v[j] in f32 throughout, any
// number of rows. Plain: it says what models in f32 are to give, on any head size that is a
// multiple of 4 up to 256.
// Shapes and what the launcher guarantees: call.cuh; grid x: rows, one span.
//
// One block of four warps per row of a KV head; a warp takes 32 keys at a time, a key a lane for the
// scores, then a lane every 32nd column for the values. The warps' sums are added at the end.
// Cost: keys and values are read once for every row, not once for a group, and a row's dot product
// walks along its key: expected 20% of the copy bandwidth over its own reads.
//
// budget: attention_f32 160 registers, 5152 bytes of shared memory
#include "../gpu/reduce.cuh"
#include "call.cuh"

namespace attention {

constexpr int F32_WARPS = 4, F32_THREADS = F32_WARPS * 32, MOST_DIM = 256, COLUMNS = MOST_DIM / 32;

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
    return v;
}

__device__ __forceinline__ float dot(const float* a, const float* b, int count) {
    float sums[4] = {};
    for (int i = 0; i < count; i += 4) {
        const float4 x = *reinterpret_cast<const float4*>(a + i), y = *reinterpret_cast<const float4*>(b + i);
        sums[0] += x.x * y.x, sums[1] += x.y * y.y, sums[2] += x.z * y.z, sums[3] += x.w * y.w;
    }
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

__device__ __forceinline__ void single(const Call<float>& call) {
    SHARED(float4, query, [MOST_DIM / 4]);
    SHARED(float, sums, [F32_WARPS][MOST_DIM]);
    SHARED(float2, stats, [F32_WARPS]);
    const Sequence sequence(call);
    const int row = int(blockIdx.x), dim = int(call.head_dim), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (!sequence.is_for(call) || row >= sequence.rows) return;  // the whole block
    if (int(threadIdx.x) < dim / 4) query[threadIdx.x] = reinterpret_cast<const float4*>(sequence.query(call, row))[threadIdx.x];
    const int position = sequence.position(row), begin = sequence.first_seen(call, position), end = position + 1;
    const Blocks blocks = call.blocks();
    const float *keys = call.keys(), *values = keys + call.to_values();
    float top = -INFINITY, weight = 0.0f, v[COLUMNS] = {};
    __syncthreads();

    for (int key = begin + warp * 32; key < end; key += F32_THREADS) {
        const int count = min(end - key, 32);
        const unsigned own = unsigned(key + min(lane, count - 1)), at = blocks.row(blocks.at(own), own);
        const float product = dot(reinterpret_cast<const float*>(query), keys + size_t(at) * dim, dim);
        const float score = lane < count ? product * call.scale : -INFINITY;
        const float larger = fmaxf(top, warp_max(score)), shrink = dev::fast_exp2(top - larger);
        const float share = dev::fast_exp2(score - larger);
        top = larger, weight = weight * shrink + dev::warp_sum(share);
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) v[i] *= shrink;
        for (int k = 0; k < count; k++) {
            const float* from = values + size_t(__shfl_sync(0xffffffffu, at, k)) * dim;
            const float by = __shfl_sync(0xffffffffu, share, k);
#pragma unroll
            for (int i = 0; i < COLUMNS; i++)
                if (lane + i * 32 < dim) v[i] += by * from[lane + i * 32];
        }
    }
    if (lane == 0) stats[warp] = {top, weight};
#pragma unroll
    for (int i = 0; i < COLUMNS; i++)
        if (lane + i * 32 < dim) sums[warp][lane + i * 32] = v[i];
    __syncthreads();
    top = -INFINITY;
    for (int w = 0; w < F32_WARPS; w++) top = fmaxf(top, stats[w].x);
    float* out = sequence.out(call, row);
    for (int d = threadIdx.x; d < dim; d += F32_THREADS) {
        float sum = 0.0f, all = 0.0f;
        for (int w = 0; w < F32_WARPS; w++) {
            const float share = weight_of(stats[w].x, top);
            sum += sums[w][d] * share, all += stats[w].y * share;
        }
        out[d] = sum / all;
    }
}

}  // namespace attention

ATTENTION(attention_f32, float, attention::F32_THREADS, 1, attention::single)
