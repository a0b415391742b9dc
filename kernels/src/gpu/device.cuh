// device.cuh: the only file of the kernels that knows whether nvcc or the emulator compiles them.
// Everything the language lacks (PTX instructions, shared memory declarations, kernel entry points)
// has its two forms here; the kernels themselves have no conditional code. What both forms share
// (packs of numbers, reductions) is in numbers.cuh and reduce.cuh.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cstdint>

using bf16 = __nv_bfloat16;
using f16 = __half;
#define KERNEL extern "C" __global__
#define EXPORT_KERNEL(name)
#define SHARED(type, name, dims) __shared__ type name dims
#define SHARED_DYNAMIC(name) extern __shared__ __align__(128) unsigned char name[]

namespace dev {
__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(bf16 v) { return __bfloat162float(v); }
__device__ __forceinline__ float to_float(f16 v) { return __half2float(v); }
template <class T> __device__ __forceinline__ T from_float(float v);
template <> __device__ __forceinline__ float from_float<float>(float v) { return v; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float v) { return __float2bfloat16_rn(v); }
template <> __device__ __forceinline__ f16 from_float<f16>(float v) { return __float2half_rn(v); }
// Two numbers of 16 bits in a word, the first in the low half.
template <class T> __device__ __forceinline__ unsigned pack2(float low, float high);
template <> __device__ __forceinline__ unsigned pack2<bf16>(float low, float high) {
    unsigned r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
template <> __device__ __forceinline__ unsigned pack2<f16>(float low, float high) {
    unsigned r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
template <class T> __device__ __forceinline__ float2 unpack2(unsigned v);
template <> __device__ __forceinline__ float2 unpack2<bf16>(unsigned v) {
    return {__uint_as_float(v << 16), __uint_as_float(v & 0xffff0000u)};
}
template <> __device__ __forceinline__ float2 unpack2<f16>(unsigned v) {
    return __half22float2(*reinterpret_cast<const __half2*>(&v));
}
__device__ __forceinline__ float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ unsigned shared_address(const void* p) {
    return static_cast<unsigned>(__cvta_generic_to_shared(p));
}
// Copies 16 bytes to shared memory; `valid` false fills with zeros and does not read `from`. The rest
// of the line of 128 bytes is brought as far as the second cache: neighbours ask for it at once or soon.
__device__ __forceinline__ void cp_async16(void* to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
                 ::"r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
// The same address, which the compiler does not take apart: one that many others are a product away
// from stays a sum in registers instead of being added up again for each.
template <class T> __device__ __forceinline__ const T* whole(const T* address) {
    asm("" : "+l"(address));
    return address;
}
// 16 bytes that are read once: past the first cache, with the rest of its line as above.
__device__ __forceinline__ uint4 load_once(const uint4* p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}
// Four 8x8 matrices of 16-bit numbers: lanes 8i..8i+7 give the row addresses of matrix i.
__device__ __forceinline__ void ldmatrix_x4(unsigned (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
// d (16x8, f32) += a (16x16) * b (16x8).
template <class T> __device__ __forceinline__ void mma_16816(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);
template <> __device__ __forceinline__ void mma_16816<bf16>(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <> __device__ __forceinline__ void mma_16816<f16>(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
}  // namespace dev

#else  // the emulator
#include "../../emulator/names.h"

struct alignas(2) bf16 {
    uint16_t bits;
};
struct alignas(2) f16 {
    uint16_t bits;
};
#define KERNEL extern "C"
#define EXPORT_KERNEL(name) static emu::Register register_##name(#name, [](void** arguments) { emu::call(name, arguments); }, name);
#define SHARED(type, name, dims)                                                                 \
    auto& name = *reinterpret_cast<type(*) dims>([] {                                            \
        static char key; /* one per declaration and per template instance */                     \
        return emu::static_shared(&key, sizeof(type dims), alignof(type));                       \
    }())
#define SHARED_DYNAMIC(name) unsigned char* name = emu::dynamic_shared()

#include "../../emulator/matrix.h"

namespace dev {
inline float to_float(float v) { return v; }
inline float to_float(bf16 v) { return emu::bf16_to_float(v.bits); }
inline float to_float(f16 v) { return emu::f16_to_float(v.bits); }
template <class T> inline T from_float(float v);
template <> inline float from_float<float>(float v) { return v; }
template <> inline bf16 from_float<bf16>(float v) { return {emu::float_to_bf16(v)}; }
template <> inline f16 from_float<f16>(float v) { return {emu::float_to_f16(v)}; }
template <class T> inline unsigned pack2(float low, float high) {
    return from_float<T>(low).bits | unsigned(from_float<T>(high).bits) << 16;
}
template <class T> inline float2 unpack2(unsigned v) {
    return {to_float(T{uint16_t(v)}), to_float(T{uint16_t(v >> 16)})};
}
inline float fast_exp2(float x) { return std::exp2(x); }
inline void cp_async16(void* to, const void* from, bool valid, EMU_SITE) { emu::cp_async(to, from, 16, valid ? 16 : 0, site); }
inline void cp_async_commit() { emu::cp_async_commit(); }
template <int N> inline void cp_async_wait() { emu::cp_async_wait(N); }
inline uint4 load_once(const uint4* p, EMU_SITE) {
    emu::touch(p, 16, emu::Access::once, site);
    return *p;
}
template <class T> inline const T* whole(const T* address) { return address; }
inline void ldmatrix_x4(unsigned (&r)[4], const void* row, EMU_SITE) { emu::ldmatrix(r, row, false, "ldmatrix", site); }
inline void ldmatrix_x4_trans(unsigned (&r)[4], const void* row, EMU_SITE) { emu::ldmatrix(r, row, true, "ldmatrix.trans", site); }
template <class T> inline void mma_16816(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, EMU_SITE);
template <> inline void mma_16816<bf16>(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, emu::Site site) {
    emu::mma_16816_bf16(d, a, b0, b1, site);
}
template <> inline void mma_16816<f16>(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, emu::Site site) {
    emu::mma_16816_f16(d, a, b0, b1, site);
}
}  // namespace dev
#endif
