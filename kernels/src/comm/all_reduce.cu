// all_reduce.cu: buffer[r][i] = buffer[0][i] + buffer[1][i] + .. for every rank r
// buffer[r] (count) in T, one per rank, all on this card. Numbers are widened to f32, added in the
// order of ranks (0 first) and rounded to T once: the bits of the CPU's group, on every rank.
// One thread per group of 16 bytes, which it alone reads and writes on every rank; four ranks are
// read ahead. Every buffer is read and written once: bandwidth-bound, expected 80% of the copy
// bandwidth from 16 MiB over all ranks on.
// The launcher guarantees 2 <= ranks <= 16, buffers that do not overlap, at multiples of 16,
// blockDim.x == 256, gridDim.x == groups / 256 rounded up; and its caller, that no rank still works
// on its buffer.
//
// budget: all_reduce_ 80 registers
#include "../gpu/numbers.cuh"

namespace all_reduce {
constexpr int THREADS = 256, MOST_RANKS = 16, AHEAD = 4;

// As many numbers as 16 bytes hold. They wait as they lie in memory and are widened when added.
template <class T> struct Group {
    static constexpr int SIZE = 8;
    using Words = uint4;
    static __device__ __forceinline__ void widen(float (&f)[SIZE], Words v) { dev::Eight<T>::unpack(f, v); }
    static __device__ __forceinline__ void store(T* p, const float (&f)[SIZE]) { dev::store8(p, f); }
};
template <> struct Group<float> {
    static constexpr int SIZE = 4;
    using Words = float4;
    static __device__ __forceinline__ void widen(float (&f)[SIZE], Words v) {
        f[0] = v.x, f[1] = v.y, f[2] = v.z, f[3] = v.w;
    }
    static __device__ __forceinline__ void store(float* p, const float (&f)[SIZE]) {
        *reinterpret_cast<float4*>(p) = float4{f[0], f[1], f[2], f[3]};
    }
};

template <class T>
__device__ __forceinline__ void sum(T* const (&buffers)[MOST_RANKS], int ranks, size_t count) {
    constexpr int SIZE = Group<T>::SIZE;
    const size_t at = (size_t(blockIdx.x) * THREADS + threadIdx.x) * SIZE;
    if (at >= count) return;
    if (at + SIZE > count) {  // the last numbers, less than a group
        for (size_t i = at; i < count; i++) {
            float total = dev::to_float(buffers[0][i]);
#pragma unroll
            for (int r = 1; r < MOST_RANKS; r++)
                if (r < ranks) total += dev::to_float(buffers[r][i]);
#pragma unroll
            for (int r = 0; r < MOST_RANKS; r++)
                if (r < ranks) buffers[r][i] = dev::from_float<T>(total);
        }
        return;
    }
    using Words = typename Group<T>::Words;
    float total[SIZE];
    Group<T>::widen(total, *reinterpret_cast<const Words*>(buffers[0] + at));
#pragma unroll
    for (int first = 1; first < MOST_RANKS; first += AHEAD) {
        Words words[AHEAD];
#pragma unroll
        for (int r = first; r < first + AHEAD && r < MOST_RANKS; r++)
            if (r < ranks) words[r - first] = *reinterpret_cast<const Words*>(buffers[r] + at);
#pragma unroll
        for (int r = first; r < first + AHEAD && r < MOST_RANKS; r++) {
            if (r >= ranks) continue;
            float v[SIZE];
            Group<T>::widen(v, words[r - first]);
#pragma unroll
            for (int i = 0; i < SIZE; i++) total[i] += v[i];
        }
    }
#pragma unroll
    for (int r = 0; r < MOST_RANKS; r++)
        if (r < ranks) Group<T>::store(buffers[r] + at, total);
}
}  // namespace all_reduce

#define ALL_REDUCE(suffix, T)                                                                                        \
    KERNEL void __launch_bounds__(all_reduce::THREADS) all_reduce_##suffix(                                          \
        T* b0, T* b1, T* b2, T* b3, T* b4, T* b5, T* b6, T* b7, T* b8, T* b9, T* b10, T* b11, T* b12, T* b13, T* b14, \
        T* b15, int ranks, unsigned long long count) {                                                               \
        all_reduce::sum<T>({b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11, b12, b13, b14, b15}, ranks, count);     \
    }                                                                                                                \
    EXPORT_KERNEL(all_reduce_##suffix)

ALL_REDUCE(f32, float)
ALL_REDUCE(f16, f16)
ALL_REDUCE(bf16, bf16)
