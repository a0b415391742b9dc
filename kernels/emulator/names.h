// names.h: CUDA's own names, as far as our kernels use them. What PTX alone offers stands with its
// emulated twin in src/gpu/device.cuh.
#pragma once
#include <algorithm>
#include <cmath>

#include "copies.h"
#include "fibers.h"
#include "meet.h"
#include "registry.h"
#include "shared.h"
#include "touch.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define threadIdx (emu::thread_index())
#define blockIdx (emu::block_index())
#define blockDim (emu::block_size())
#define gridDim (emu::grid_size())
constexpr int warpSize = 32;

struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

inline void __syncthreads(EMU_SITE) { emu::block_wait(0, unsigned(emu::block->count()), "__syncthreads", site); }
inline void __syncwarp(unsigned mask = ~0u, EMU_SITE) {
    emu::warp_wait(mask, site);
}
inline void __threadfence() {}

template <class T>
inline T __shfl_sync(unsigned mask, T v, int from, int width = 32, EMU_SITE) {
    unsigned l = emu::lane();
    return emu::shuffle(mask, v, (l & ~unsigned(width - 1)) | unsigned(from & (width - 1)), "__shfl_sync", site);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T v, int x, int width = 32, EMU_SITE) {
    unsigned l = emu::lane(), from = l ^ unsigned(x);
    bool inside = from < (l & ~unsigned(width - 1)) + unsigned(width);
    return emu::shuffle(mask, v, inside ? from : l, "__shfl_xor_sync", site);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, EMU_SITE) {
    unsigned l = emu::lane();
    bool inside = (l & unsigned(width - 1)) + by < unsigned(width);
    return emu::shuffle(mask, v, inside ? l + by : l, "__shfl_down_sync", site);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, EMU_SITE) {
    unsigned l = emu::lane();
    return emu::shuffle(mask, v, (l & unsigned(width - 1)) >= by ? l - by : l, "__shfl_up_sync", site);
}
inline unsigned __ballot_sync(unsigned mask, int holds, EMU_SITE) {
    return emu::vote(mask, holds, "__ballot_sync", site);
}
inline int __any_sync(unsigned mask, int holds, EMU_SITE) { return emu::vote(mask, holds, "__any_sync", site) != 0; }
inline int __all_sync(unsigned mask, int holds, EMU_SITE) {
    return emu::vote(mask, holds, "__all_sync", site) == mask;
}

// Fibers switch only where threads wait, so plain memory is atomic enough. The race checker hears of
// the whole, not of its load and its store.
template <class T, class F>
__attribute__((no_sanitize("thread"))) inline T emu_atomic(T* p, emu::Site site, F&& change) {
    emu::touch(p, sizeof(T), emu::Access::atomic, site);
    T old;
    memcpy(&old, p, sizeof(T));
    T now = change(old);
    memcpy(p, &now, sizeof(T));
    return old;
}
template <class T>
inline T atomicAdd(T* p, T v, EMU_SITE) { return emu_atomic(p, site, [&](T old) { return T(old + v); }); }
template <class T>
inline T atomicMax(T* p, T v, EMU_SITE) { return emu_atomic(p, site, [&](T old) { return std::max(old, v); }); }
template <class T>
inline T atomicMin(T* p, T v, EMU_SITE) { return emu_atomic(p, site, [&](T old) { return std::min(old, v); }); }
template <class T>
inline T atomicOr(T* p, T v, EMU_SITE) { return emu_atomic(p, site, [&](T old) { return T(old | v); }); }
template <class T>
inline T atomicExch(T* p, T v, EMU_SITE) { return emu_atomic(p, site, [&](T) { return v; }); }
template <class T>
inline T atomicCAS(T* p, T if_is, T v, EMU_SITE) {
    return emu_atomic(p, site, [&](T old) { return old == if_is ? v : old; });
}

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __clz(int v) { return v ? __builtin_clz(unsigned(v)) : 32; }
// Byte i of the result: the one that nibble i of `order` names, 0..3 of `low` and 4..7 of `high`.
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned order) {
    const uint64_t both = low | uint64_t(high) << 32;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) result |= unsigned(both >> 8 * (order >> 4 * i & 7) & 0xff) << 8 * i;
    return result;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline float rsqrtf(float v) { return 1.0f / std::sqrt(v); }
inline float __expf(float v) { return std::exp(v); }
inline float __fdividef(float a, float b) { return a / b; }
// One rounding each, never contracted (the emulator is compiled with -ffp-contract=off).
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline float __uint_as_float(unsigned u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}
inline unsigned __float_as_uint(float f) {
    unsigned u;
    memcpy(&u, &f, 4);
    return u;
}
inline long long __double_as_longlong(double d) {
    long long u;
    memcpy(&u, &d, 8);
    return u;
}
inline double __longlong_as_double(long long u) {
    double d;
    memcpy(&d, &u, 8);
    return d;
}
using std::max;
using std::min;
