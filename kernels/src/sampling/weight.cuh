// weight.cuh: weight.rs on the card, to the bit: keys, weights, places in the order of floats.
// Every product and sum of floats is rounded on its own (the _rn names are never contracted).
#pragma once
#include "../gpu/device.cuh"

namespace sampling {

using u64 = unsigned long long;

constexpr unsigned MANTISSA_BITS = 23, FRACTION_BITS = 40;
constexpr unsigned BITS_OF_ONE = 0x3f800000u;
constexpr unsigned BITS_OF_SMALLEST = (127u - FRACTION_BITS) << MANTISSA_BITS;

// The key of exp(difference); above 0 counts as 0, not a number as never.
__device__ __forceinline__ unsigned key_of(float difference) {
    constexpr float ROUND = 12582912.0f, LOG2_E = 1.44269504088896340736f;
    float y = difference > 0.0f ? 0.0f : __fmul_rn(difference, LOG2_E);
    const bool counts = y > -41.0f;  // also false for not-a-number
    y = counts ? y : 0.0f;
    const float shifted = __fadd_rn(y, ROUND);
    const float f = __fsub_rn(y, __fsub_rn(shifted, ROUND));
    float p = 1.5353362e-4f;
    p = __fadd_rn(__fmul_rn(p, f), 1.3398874e-3f);
    p = __fadd_rn(__fmul_rn(p, f), 9.618437e-3f);
    p = __fadd_rn(__fmul_rn(p, f), 5.5503326e-2f);
    p = __fadd_rn(__fmul_rn(p, f), 2.4022648e-1f);
    p = __fadd_rn(__fmul_rn(p, f), 6.931472e-1f);
    p = __fadd_rn(__fmul_rn(p, f), 1.0f);
    const unsigned bits = min(__float_as_uint(p) + (__float_as_uint(shifted) << MANTISSA_BITS), BITS_OF_ONE);
    return counts && bits > BITS_OF_SMALLEST ? bits - BITS_OF_SMALLEST : 0;
}

// A weight is unit << rise. Keys with the same upper six bits have the same rise, so sums of their
// weights are sums of units.
__device__ __forceinline__ unsigned unit_of(unsigned key) {
    const unsigned mantissa = (key & ((1u << MANTISSA_BITS) - 1)) | 1u << MANTISSA_BITS;
    const unsigned exponent = key >> MANTISSA_BITS;  // 0 ..= 40
    return exponent < MANTISSA_BITS ? mantissa >> (MANTISSA_BITS - exponent) : mantissa;
}
__device__ __forceinline__ unsigned rise_of(unsigned key) {
    const unsigned exponent = key >> MANTISSA_BITS;
    return exponent < MANTISSA_BITS ? 0 : exponent - MANTISSA_BITS;
}

// 0, or 1 ..= 2^40.
__device__ __forceinline__ u64 weight_of(unsigned key) { return key == 0 ? 0 : u64(unit_of(key)) << rise_of(key); }

// `fraction` (in units of 2^-32) of `total`, rounded up.
__device__ __forceinline__ u64 part_of(u64 total, unsigned fraction) {
    const u64 low = (total & 0xffffffffu) * fraction;
    return (total >> 32) * fraction + (low >> 32) + ((low & 0xffffffffu) != 0);
}

// A float's place in the order of floats; not-a-number is below all, the two zeros are equal.
__device__ __forceinline__ unsigned ordered(float x) {
    if (x != x) return 0;
    const unsigned bits = __float_as_uint(__fadd_rn(x, 0.0f));
    return bits >> 31 ? ~bits : bits | 1u << 31;
}
// The float of a candidate's place.
__device__ __forceinline__ float logit_of(u64 candidate) {
    const unsigned place = unsigned(candidate >> 32);
    return __uint_as_float(place >> 31 ? place & ~(1u << 31) : ~place);
}
// Larger is better, equal logits go to the lower id; 0: not a number.
__device__ __forceinline__ u64 candidate(float x, unsigned id) {
    const unsigned place = ordered(x);
    return place == 0 ? 0 : u64(place) << 32 | unsigned(~id);
}

}  // namespace sampling
