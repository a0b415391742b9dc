// call.cuh: what every kernel of linear is given: sizes, and where sums go: rows of T, or of f32 (logits,
// the residual stream). One kernel serves both.
#pragma once
#include "../gpu/numbers.cuh"

namespace linear {

struct Sizes {
    int tokens, rows, cols;
    size_t stride;  // numbers from one row of x to the next
};

template <class T> struct Out {
    void* numbers;
    bool is_f32;

    __device__ __forceinline__ void put(size_t at, float v) const {
        if (is_f32) static_cast<float*>(numbers)[at] = v;
        else static_cast<T*>(numbers)[at] = dev::from_float<T>(v);
    }
    // `at` is a multiple of 8.
    __device__ __forceinline__ void put8(size_t at, const float (&v)[8]) const {
        if (is_f32) dev::store8(static_cast<float*>(numbers) + at, v);
        else dev::store8(static_cast<T*>(numbers) + at, v);
    }
};

}  // namespace linear
