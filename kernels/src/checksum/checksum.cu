// checksum.cu: the checksum of mod.rs: out = spread(!bytes) + the sum over chunks of
//   spread(mix(.. mix(mix(index, lane 0), lane 1) .., lane 7))
// data (bytes); out (1). Chunks of 4 KiB in rows of 64 bytes; word w of each row enters lane w.
// Four threads per chunk, two lanes each, 16 bytes of a row each: eight chunks per warp, whose figures
// the warp adds and gives to `out` in one atomic addition, whose order cannot matter.
// Read once: bandwidth-bound, expected 75% of the copy bandwidth from 64 MiB on (below, too few
// chunks to fill the card); three instructions for two bytes, of nine that an H100 has time for per byte.
// The launcher guarantees data a multiple of 16, blockDim.x == 128, gridDim.x == bytes / 128 KiB
// rounded up, and that checksum_start with one thread ran before.
//
// budget: checksum_start 16 registers
// budget: checksum_add 48 registers
#include "../gpu/device.cuh"

namespace checksum {
using u64 = unsigned long long;
constexpr int THREADS = 128, CHUNK = 4096, ROW = 64, PER_CHUNK = 4, AHEAD = 8;

__device__ __forceinline__ u64 mix(u64 sum, u64 word) {
    u64 product = (sum ^ word) * 0x9E3779B185EBCA87ull;
    return product << 31 | product >> 33;
}
__device__ __forceinline__ u64 spread(u64 v) {
    v = (v ^ v >> 30) * 0xBF58476D1CE4E5B9ull;
    v = (v ^ v >> 27) * 0x94D049BB133111EBull;
    return v ^ v >> 31;
}

// The two lanes of one thread.
struct Lanes {
    u64 first, second;
    __device__ __forceinline__ void enter(uint4 v) {
        first = mix(first, u64(v.y) << 32 | v.x);
        second = mix(second, u64(v.w) << 32 | v.z);
    }
};

// 16 bytes of which `left` are there; the others are zeros.
__device__ __forceinline__ uint4 load_part(const unsigned char* p, long long left) {
    if (left >= 16) return *reinterpret_cast<const uint4*>(p);
    unsigned words[4] = {};
#pragma unroll
    for (int i = 0; i < 16; i++)
        if (i < left) words[i / 4] |= unsigned(p[i]) << (i % 4 * 8);
    return {words[0], words[1], words[2], words[3]};
}

__device__ __forceinline__ void add(u64* __restrict__ out, const unsigned char* __restrict__ data, u64 bytes) {
    const int part = threadIdx.x % PER_CHUNK;
    const u64 chunk = u64(blockIdx.x) * (THREADS / PER_CHUNK) + threadIdx.x / PER_CHUNK;
    const u64 start = chunk * CHUNK;
    const unsigned char* p = data + start + part * 16;
    Lanes lanes = {u64(2 * part + 1), u64(2 * part + 2)};
    if (start + CHUNK <= bytes) {
        for (int row = 0; row < CHUNK / ROW; row += AHEAD) {
            uint4 v[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; i++) v[i] = *reinterpret_cast<const uint4*>(p + (row + i) * ROW);
#pragma unroll
            for (int i = 0; i < AHEAD; i++) lanes.enter(v[i]);
        }
    } else if (start < bytes) {
        const int rows = int((bytes - start + ROW - 1) / ROW);
        for (int row = 0; row < rows; row++)
            lanes.enter(load_part(p + row * ROW, static_cast<long long>(bytes - start) - row * ROW - part * 16));
    }
    u64 figure = chunk;
#pragma unroll
    for (int i = 0; i < PER_CHUNK; i++) {
        figure = mix(figure, __shfl_sync(0xffffffffu, lanes.first, i, PER_CHUNK));
        figure = mix(figure, __shfl_sync(0xffffffffu, lanes.second, i, PER_CHUNK));
    }
    figure = start < bytes ? spread(figure) : 0;
#pragma unroll
    for (int o = PER_CHUNK; o < 32; o <<= 1) figure += __shfl_xor_sync(0xffffffffu, figure, o);
    if (threadIdx.x % 32 == 0) atomicAdd(out, figure);
}
}  // namespace checksum

KERNEL void checksum_start(unsigned long long* out, unsigned long long of_length) { *out = of_length; }
EXPORT_KERNEL(checksum_start)

KERNEL void __launch_bounds__(checksum::THREADS) checksum_add(unsigned long long* out, const unsigned char* data,
                                                             unsigned long long bytes) {
    checksum::add(out, data, bytes);
}
EXPORT_KERNEL(checksum_add)
