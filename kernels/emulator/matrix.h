// matrix.h: what the tensor core instructions do, with the register layouts of the PTX ISA
// (sections "ldmatrix" and "mma.m16n8k16"), and the 16-bit float formats.
#pragma once
#include "block.h"

namespace emu {

inline float bits_to_float(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
inline uint32_t float_to_bits(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}
inline float bf16_to_float(uint16_t bits) { return bits_to_float(uint32_t(bits) << 16); }
// To nearest, ties to even; every NaN becomes 0x7fff, as on the device.
inline uint16_t float_to_bf16(float v) {
    if (v != v) return 0x7fff;
    uint32_t u = float_to_bits(v);
    return uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
inline float f16_to_float(uint16_t bits) {
    uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = bits >> 10 & 31, mantissa = bits & 1023;
    if (exponent == 31) return bits_to_float(sign | 0x7f800000u | mantissa << 13);
    if (exponent) return bits_to_float(sign | (exponent + 112) << 23 | mantissa << 13);
    float small = float(mantissa) * 5.9604644775390625e-8f;  // 2^-24
    return sign ? -small : small;
}
inline uint16_t float_to_f16(float v) {
    if (v != v) return 0x7fff;
    uint32_t u = float_to_bits(v), sign = u >> 16 & 0x8000, rest = u & 0x7fffffffu;
    if (rest >= 0x477ff000u) return uint16_t(sign | 0x7c00);  // 65,520 and more round to infinity
    if (rest < 0x38800000u) {                                 // below 2^-14: subnormal
        float scaled = bits_to_float(rest) * 16777216.0f;     // in units of 2^-24, exact
        uint32_t whole = uint32_t(scaled);
        float left = scaled - float(whole);
        if (left > 0.5f || (left == 0.5f && (whole & 1))) whole++;
        return uint16_t(sign | whole);
    }
    uint32_t rounded = rest + 0xfff + (rest >> 13 & 1);
    return uint16_t(sign | ((rounded >> 13) - (112u << 10)));
}

// Lane l receives, of matrix i, numbers 2*(l%4) and 2*(l%4)+1 of row l/4 (of column l/4 when
// transposed). Eight rows that fall on the same banks are counted as conflicts.
void ldmatrix(unsigned (&r)[4], const void* row, bool transposed, const char* what, Site site);

// D(16x8) += A(16x16) * B(16x8). With g = lane / 4 and t = 2 * (lane % 4): a0..a3 hold A[g][t..],
// A[g+8][t..], A[g][t+8..], A[g+8][t+8..]; b0, b1 hold B[t..][g], B[t+8..][g]; d0, d1 hold
// D[g][t], D[g][t+1]; d2, d3 the same columns of row g+8.
void mma_16816_bf16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Site site);
void mma_16816_f16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Site site);

}  // namespace emu
