// numbers.cuh: eight numbers at a time, whatever their type: one 16-byte access for 16-bit types,
// two for f32. Addresses are multiples of 16.
#pragma once
#include "device.cuh"

namespace dev {

template <class T> struct Eight {
    static __device__ __forceinline__ void unpack(float (&f)[8], uint4 v) {
        float2 a = unpack2<T>(v.x), b = unpack2<T>(v.y), c = unpack2<T>(v.z), d = unpack2<T>(v.w);
        f[0] = a.x, f[1] = a.y, f[2] = b.x, f[3] = b.y, f[4] = c.x, f[5] = c.y, f[6] = d.x, f[7] = d.y;
    }
    static __device__ __forceinline__ void load(float (&f)[8], const T* p) { unpack(f, *reinterpret_cast<const uint4*>(p)); }
    static __device__ __forceinline__ void store(T* p, const float (&f)[8]) {
        uint4 v;
        v.x = pack2<T>(f[0], f[1]), v.y = pack2<T>(f[2], f[3]), v.z = pack2<T>(f[4], f[5]), v.w = pack2<T>(f[6], f[7]);
        *reinterpret_cast<uint4*>(p) = v;
    }
};
template <> struct Eight<float> {
    static __device__ __forceinline__ void load(float (&f)[8], const float* p) {
        float4 a = reinterpret_cast<const float4*>(p)[0], b = reinterpret_cast<const float4*>(p)[1];
        f[0] = a.x, f[1] = a.y, f[2] = a.z, f[3] = a.w, f[4] = b.x, f[5] = b.y, f[6] = b.z, f[7] = b.w;
    }
    static __device__ __forceinline__ void store(float* p, const float (&f)[8]) {
        float4 a = {f[0], f[1], f[2], f[3]}, b = {f[4], f[5], f[6], f[7]};
        reinterpret_cast<float4*>(p)[0] = a, reinterpret_cast<float4*>(p)[1] = b;
    }
};

template <class T> __device__ __forceinline__ void load8(float (&f)[8], const T* p) { Eight<T>::load(f, p); }
template <class T> __device__ __forceinline__ void store8(T* p, const float (&f)[8]) { Eight<T>::store(p, f); }

}  // namespace dev
