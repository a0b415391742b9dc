// probes.cu: every primitive of device.cuh and reduce.cuh in a kernel of its own, so that its answers
// are known on the emulator and on every card (trials/). No op: nothing but tests launches it.
// The launcher guarantees what stands beside each kernel; a warp is 32 threads.
//
// budget: probes_ 64 registers, 4096 bytes of shared memory
#include "../gpu/numbers.cuh"
#include "../gpu/reduce.cuh"

namespace probes {
constexpr unsigned ALL = 0xffffffffu;
__device__ __forceinline__ unsigned thread() { return blockIdx.x * blockDim.x + threadIdx.x; }

// ---- numbers: one thread per number ------------------------------------------------------------
template <class T>
__device__ void from_float(T* out, const float* in, int count) {
    if (thread() < unsigned(count)) out[thread()] = dev::from_float<T>(in[thread()]);
}
template <class T>
__device__ void to_float(float* out, const T* in, int count) {
    if (thread() < unsigned(count)) out[thread()] = dev::to_float(in[thread()]);
}
// One thread per pair.
template <class T>
__device__ void pack(unsigned* out, const float* in, int pairs) {
    const unsigned t = thread();
    if (t < unsigned(pairs)) out[t] = dev::pack2<T>(in[2 * t], in[2 * t + 1]);
}
template <class T>
__device__ void unpack(float* out, const unsigned* in, int pairs) {
    const unsigned t = thread();
    if (t >= unsigned(pairs)) return;
    const float2 v = dev::unpack2<T>(in[t]);
    out[2 * t] = v.x, out[2 * t + 1] = v.y;
}
// One thread per eight numbers: as they are, then doubled.
template <class T>
__device__ void eight(T* same, T* doubled, const T* in, int groups) {
    const unsigned t = thread();
    if (t >= unsigned(groups)) return;
    float v[8];
    dev::load8(v, in + 8 * t);
    dev::store8(same + 8 * t, v);
    for (int i = 0; i < 8; i++) v[i] *= 2.0f;
    dev::store8(doubled + 8 * t, v);
}

// ---- matrices: one warp ------------------------------------------------------------------------
// in: 32 rows of 8 numbers of 16 bits; out: four words a lane.
template <bool TRANSPOSED>
__device__ void matrix(unsigned* out, const uint4* in) {
    SHARED(uint4, rows, [32]);
    rows[threadIdx.x] = in[threadIdx.x];
    __syncwarp();
    unsigned r[4];
    if (TRANSPOSED) dev::ldmatrix_x4_trans(r, &rows[threadIdx.x]);
    else dev::ldmatrix_x4(r, &rows[threadIdx.x]);
    for (int i = 0; i < 4; i++) out[4 * threadIdx.x + i] = r[i];
}
// Registers as they are: four of d, four of a, two of b a lane.
template <class T>
__device__ void multiply(float* d, const unsigned* a, const unsigned* b) {
    const unsigned t = threadIdx.x;
    float sums[4];
    unsigned left[4];
    for (int i = 0; i < 4; i++) sums[i] = d[4 * t + i], left[i] = a[4 * t + i];
    dev::mma_16816<T>(sums, left, b[2 * t], b[2 * t + 1]);
    for (int i = 0; i < 4; i++) d[4 * t + i] = sums[i];
}
}  // namespace probes

#define PROBE_TYPE(suffix, T)                                                                             \
    KERNEL void probes_from_float_##suffix(T* out, const float* in, int count) {                          \
        probes::from_float<T>(out, in, count);                                                            \
    }                                                                                                     \
    EXPORT_KERNEL(probes_from_float_##suffix)                                                             \
    KERNEL void probes_to_float_##suffix(float* out, const T* in, int count) {                            \
        probes::to_float<T>(out, in, count);                                                              \
    }                                                                                                     \
    EXPORT_KERNEL(probes_to_float_##suffix)                                                               \
    KERNEL void probes_pack_##suffix(unsigned* out, const float* in, int pairs) {                         \
        probes::pack<T>(out, in, pairs);                                                                  \
    }                                                                                                     \
    EXPORT_KERNEL(probes_pack_##suffix)                                                                   \
    KERNEL void probes_unpack_##suffix(float* out, const unsigned* in, int pairs) {                       \
        probes::unpack<T>(out, in, pairs);                                                                \
    }                                                                                                     \
    EXPORT_KERNEL(probes_unpack_##suffix)                                                                 \
    KERNEL void probes_multiply_##suffix(float* d, const unsigned* a, const unsigned* b) {                \
        probes::multiply<T>(d, a, b);                                                                     \
    }                                                                                                     \
    EXPORT_KERNEL(probes_multiply_##suffix)
#define PROBE_EIGHT(suffix, T)                                                                            \
    KERNEL void probes_eight_##suffix(T* same, T* doubled, const T* in, int groups) {                     \
        probes::eight<T>(same, doubled, in, groups);                                                      \
    }                                                                                                     \
    EXPORT_KERNEL(probes_eight_##suffix)

PROBE_TYPE(f16, f16)
PROBE_TYPE(bf16, bf16)
PROBE_EIGHT(f32, float)
PROBE_EIGHT(f16, f16)
PROBE_EIGHT(bf16, bf16)

KERNEL void probes_matrix(unsigned* out, const uint4* in) { probes::matrix<false>(out, in); }
EXPORT_KERNEL(probes_matrix)
KERNEL void probes_matrix_trans(unsigned* out, const uint4* in) { probes::matrix<true>(out, in); }
EXPORT_KERNEL(probes_matrix_trans)

// Two powers of two, the fast one and the slow; the fast inverse root.
KERNEL void probes_approximate(float* powers, float* roots, const float* in, int count) {
    const unsigned t = probes::thread();
    if (t >= unsigned(count)) return;
    powers[t] = dev::fast_exp2(in[t]);
    roots[t] = rsqrtf(fabsf(in[t]));
}
EXPORT_KERNEL(probes_approximate)

// a * b + c, rounded twice; a - b; a / b: never contracted, whatever the compiler thinks.
KERNEL void probes_rounded(float* out, const float* in, int count) {
    const unsigned t = probes::thread();
    if (t >= unsigned(count)) return;
    const float a = in[3 * t], b = in[3 * t + 1], c = in[3 * t + 2];
    out[3 * t] = __fadd_rn(__fmul_rn(a, b), c);
    out[3 * t + 1] = __fsub_rn(__fmul_rn(a, b), c);
    out[3 * t + 2] = __fdiv_rn(a, b);
}
EXPORT_KERNEL(probes_rounded)

// Ones, first one from below (from 1 on), zeros above, upper half of the square, the same number by
// way of a float, and bytes of it and of its complement in the order that it says.
KERNEL void probes_bits(unsigned* out, const unsigned* in, int count) {
    const unsigned t = probes::thread();
    if (t >= unsigned(count)) return;
    const unsigned v = in[t];
    out[6 * t] = unsigned(__popc(v));
    out[6 * t + 1] = unsigned(__ffs(int(v)));
    out[6 * t + 2] = unsigned(__clz(int(v)));
    out[6 * t + 3] = __umulhi(v, v);
    out[6 * t + 4] = __float_as_uint(__uint_as_float(v));
    out[6 * t + 5] = __byte_perm(v, ~v, v & 0x7777u);
}
EXPORT_KERNEL(probes_bits)

// ---- warps: one warp ---------------------------------------------------------------------------
// Rows of 32: every shuffle at every distance, in segments of 32 and of 8.
KERNEL void probes_shuffles(unsigned* out, const unsigned* in) {
    using probes::ALL;
    const unsigned t = threadIdx.x, v = in[t];
    int row = 0;
    auto put = [&](unsigned value) { out[32 * row++ + t] = value; };
    for (int by = 1; by < 32; by++) {
        put(__shfl_sync(ALL, v, by));
        put(__shfl_xor_sync(ALL, v, by));
        put(__shfl_up_sync(ALL, v, unsigned(by)));
        put(__shfl_down_sync(ALL, v, unsigned(by)));
        put(__shfl_sync(ALL, v, by, 8));
        put(__shfl_xor_sync(ALL, v, by, 8));
        put(__shfl_up_sync(ALL, v, unsigned(by), 8));
        put(__shfl_down_sync(ALL, v, unsigned(by), 8));
    }
}
EXPORT_KERNEL(probes_shuffles)

// Rows of 32: votes of the whole warp, then of each half alone, and a sum of 8 bytes.
KERNEL void probes_votes(unsigned* out, const unsigned* in) {
    using probes::ALL;
    const unsigned t = threadIdx.x, v = in[t];
    out[t] = __ballot_sync(ALL, v & 1);
    out[32 + t] = unsigned(__any_sync(ALL, v & 2));
    out[64 + t] = unsigned(__all_sync(ALL, v & 4));
    if (t < 16) out[96 + t] = __ballot_sync(0x0000ffffu, v & 1);
    else out[96 + t] = __ballot_sync(0xffff0000u, v & 1);
    const unsigned long long wide = (1ull << 40) * v + t;
    const unsigned long long other = __shfl_xor_sync(ALL, wide, 1);
    out[128 + t] = unsigned((wide + other) >> 40);
}
EXPORT_KERNEL(probes_votes)

// ---- blocks ------------------------------------------------------------------------------------
// One block of whole warps; a number for each thread.
KERNEL void probes_sums(float* of_warp, float* of_block, const float* in) {
    of_warp[threadIdx.x] = dev::warp_sum(in[threadIdx.x]);
    of_block[threadIdx.x] = dev::block_sum(in[threadIdx.x]);
}
EXPORT_KERNEL(probes_sums)

// totals: sum, most, least, all bits, in shared memory by block, and over all blocks; they start as
// 0, 0, ~0, 0. The last two are an exchange and a compare-and-swap by one thread.
KERNEL void probes_atomics(unsigned* of_block, unsigned* of_all, const unsigned* in) {
    SHARED(unsigned, total, [4]);
    if (threadIdx.x < 4) total[threadIdx.x] = threadIdx.x == 2 ? ~0u : 0u;
    __syncthreads();
    const unsigned v = in[probes::thread()];
    atomicAdd(&total[0], v), atomicMax(&total[1], v), atomicMin(&total[2], v), atomicOr(&total[3], v);
    atomicAdd(&of_all[0], v), atomicMax(&of_all[1], v), atomicMin(&of_all[2], v), atomicOr(&of_all[3], v);
    __syncthreads();
    if (threadIdx.x < 4) of_block[4 * blockIdx.x + threadIdx.x] = total[threadIdx.x];
    if (probes::thread() == 0) {
        const unsigned before = atomicExch(&of_all[4], 7u);
        of_all[5] = before + atomicCAS(&of_all[4], 7u, 9u);
    }
}
EXPORT_KERNEL(probes_atomics)

// 64 threads. Two groups of copies of 16 bytes a thread, the second from behind; threads from `valid`
// on fill with zeros. What a thread copied itself it may read after its wait.
KERNEL void probes_copies(uint4* out, const uint4* in, int valid) {
    SHARED(uint4, first, [64]);
    SHARED(uint4, second, [64]);
    const unsigned t = threadIdx.x;
    const bool is_valid = t < unsigned(valid);
    dev::cp_async16(&first[t], in + (is_valid ? t : 0), is_valid);
    dev::cp_async_commit();
    dev::cp_async16(&second[63 - t], in + 64 + (is_valid ? t : 0), is_valid);
    dev::cp_async_commit();
    dev::cp_async_wait<1>();
    out[t] = first[t];
    dev::cp_async_wait<0>();
    __syncthreads();
    out[64 + t] = second[t];
    out[128 + t] = dev::load_once(in + t);
}
EXPORT_KERNEL(probes_copies)
