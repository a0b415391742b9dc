// codes.cuh: a weight of 4 or 8 bits as it lies on the card, and its numbers:
//   d * (q - z)   q a code without a sign, z 8 or 128 (MIDDLE) or stored (ZERO)
//   d * q + m     (MINIMUM)
// in f32, rounded once, then to T: the bits of the weight that is expanded to T first.
//
// Panel after panel of 16 rows. A panel: its chunks, then d, then z or m where there is one.
//   chunks  [chunk][row16] of 16 bytes: a chunk is 32 columns of 4 bits, or 16 of 8. Its word t has
//           columns 2t, 2t + 1, 2t + 8, 2t + 9, a byte each; of 4 bits, columns 16..32 in the high halves.
//           That is what lane t of a tensor core instruction needs of 16 columns.
//   d, z, m [group][8][2] in f16: row r is number r % 8 * 2 + r / 8, rows 8 apart are neighbours
// Column c is in group (c + skipped) / 32 or / 128: columns may begin inside of a group.
#pragma once
#include "../call.cuh"

namespace codes {
constexpr int ROWS = 16;             // of a panel
constexpr int UNIT = 32;             // columns: groups are whole units
constexpr int CHUNK = 16 * ROWS;     // bytes of one chunk of all rows
constexpr int HEAD = 2 * ROWS;       // bytes of one group's d of all rows
enum Form { MIDDLE = 0, ZERO = 1, MINIMUM = 2 };

template <int BITS> struct Weight {
    const unsigned char* bytes;
    int cols, groups;
    int shift;    // a group is 1 << shift units
    int skipped;  // units of the first group that are not here
    int form;

    __device__ __forceinline__ int heads() const { return form == MIDDLE ? 1 : 2; }
    // Where d begins in a panel: all columns' bits, of 16 rows.
    __device__ __forceinline__ size_t chunk_bytes() const { return size_t(cols) * (ROWS * BITS / 8); }
    __device__ __forceinline__ const unsigned char* panel(int at) const {
        return bytes + at * (chunk_bytes() + size_t(groups) * heads() * HEAD);
    }
    __device__ __forceinline__ int group(int unit) const { return (unit + skipped) >> shift; }
    // What stands where no z is stored: 8 or 128, twice in f16.
    static constexpr unsigned MIDDLES = BITS == 4 ? 0x48004800u : 0x58005800u;
};

// Of a row's group: a number is d * (q - z) + m, where z or m is zero.
struct Head {
    float d;
    float base;  // 2^23 + z
    float m;
};
__device__ __forceinline__ Head head(float d, float offset, int form) {
    const bool is_minimum = form == MINIMUM;
    // Minus zero: d * (q - z) keeps its sign when it is added.
    return {d, 8388608.0f + (is_minimum ? 0.0f : offset), is_minimum ? offset : -0.0f};
}

// Four codes, a byte each, as numbers: two words of two. A byte under the exponent of 2^23 is 2^23 + q.
// d has 11 bits and q - z 9, so their product is exact.
template <class T> __device__ __forceinline__ void numbers(unsigned (&out)[2], unsigned bytes, const Head& h) {
    float v[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        v[i] = fmaf(h.d, __uint_as_float(__byte_perm(bytes, 0x4b000000u, 0x7440u + i)) - h.base, h.m);
    out[0] = dev::pack2<T>(v[0], v[1]), out[1] = dev::pack2<T>(v[2], v[3]);
}

// The codes of 16 columns, the first (0) or the second (1) of a word of 4 bits each; of 8 bits, all.
template <int BITS> __device__ __forceinline__ unsigned bytes_of(unsigned word, int half) {
    return BITS == 4 ? word >> 4 * half & 0x0f0f0f0fu : word;
}

}  // namespace codes
