// tile.cuh: one warp's arithmetic on a tile of keys and values, with tensor cores: M times 16 rows
// against KEYS keys. Scores stay in registers: the accumulators of Q K^T have the layout that P V
// takes as its left operand.
//
// A lane holds, of each 16 rows, rows lane / 4 and lane / 4 + 8, and of each 8 columns two.
#pragma once
#include "call.cuh"

namespace attention {

constexpr unsigned FULL = 0xffffffffu;
__device__ __forceinline__ int lane() { return int(threadIdx.x % 32); }

// Where a row's 16-byte chunks lie in shared memory: eight rows one below the other must fall on
// different banks. Where a row is a multiple of 128 bytes its chunks are exchanged (chunk c of row r
// lies where c ^ (r & 7) would); other rows are padded to an odd number of chunks.
//
// Places are counted in numbers. A lane computes its own once; from there to other chunks and rows
// `right` and `below` cost an exclusive or at most, since constants are added to it.
template <int D> struct Place {
    static constexpr int CHUNKS = D / 8;
    static constexpr bool EXCHANGED = D % 64 == 0;
    static constexpr int PITCH = (EXCHANGED ? CHUNKS : CHUNKS | 1) * 8;  // from row to row
    static __device__ __forceinline__ int at(int row, int chunk) {
        return row * PITCH + (EXCHANGED ? chunk ^ (row & 7) : chunk) * 8;
    }
    // The place `chunks` (even) to the right of one in the first two chunks.
    static __device__ __forceinline__ int right(int place, int chunks) {
        return EXCHANGED ? (place ^ (chunks & 7) * 8) + (chunks & ~7) * 8 : place + chunks * 8;
    }
    // The place `rows` below one in a row whose number has none of the same bits below 8.
    static __device__ __forceinline__ int below(int place, int rows) {
        return (EXCHANGED ? place ^ (rows & 7) * 8 : place) + rows * PITCH;
    }
};

// Query rows in shared memory.
template <class T, int D> struct SharedQuery {
    const T* rows;  // the warp's first
    __device__ __forceinline__ void fragment(unsigned (&a)[4], int m, int i) const {
        const int place = Place<D>::right(Place<D>::at(lane() % 16, lane() / 16), i * 2);
        dev::ldmatrix_x4(a, rows + Place<D>::below(place, m * 16));
    }
};

// Sixteen query rows in registers.
template <class T, int D> struct HeldQuery {
    unsigned held[D / 16][4];
    __device__ __forceinline__ void fragment(unsigned (&a)[4], int, int i) const {
#pragma unroll
        for (int e = 0; e < 4; e++) a[e] = held[i][e];
    }
};

template <class T, int D, int M, int KEYS> struct Tile {
    float out[M][D / 8][4];  // sums of weight * value
    float top[M][2], sum[M][2];  // largest score (before scale), this lane's sum of weights
    const int* last;             // in shared memory: the last key that each of the warp's rows sees
    unsigned weights[M][KEYS / 16][4];

    __device__ __forceinline__ explicit Tile(const int* last) : last(last) {
#pragma unroll
        for (int m = 0; m < M; m++) {
#pragma unroll
            for (int i = 0; i < D / 8; i++)
#pragma unroll
                for (int e = 0; e < 4; e++) out[m][i][e] = 0.0f;
#pragma unroll
            for (int h = 0; h < 2; h++) top[m][h] = -INFINITY, sum[m][h] = 0.0f;
        }
    }

    // Weights of the keys from `key` on. `edge`: some row does not see all of them.
    template <class Query>
    __device__ __forceinline__ void soften(const Query& query, const T* keys, int key, bool edge, unsigned window, float scale) {
        float s[M][KEYS / 8][4];
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) s[m][j][e] = 0.0f;
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            unsigned a[M][4];
#pragma unroll
            for (int m = 0; m < M; m++) query.fragment(a[m], m, i);
#pragma unroll
            for (int j = 0; j < KEYS / 16; j++) {
                unsigned b[4];
                const int place = Place<D>::right(Place<D>::at(lane() % 8 + lane() / 16 * 8, lane() / 8 % 2), i * 2);
                dev::ldmatrix_x4(b, keys + Place<D>::below(place, j * 16));
#pragma unroll
                for (int m = 0; m < M; m++) {
                    dev::mma_16816<T>(s[m][2 * j], a[m], b[0], b[1]);
                    dev::mma_16816<T>(s[m][2 * j + 1], a[m], b[2], b[3]);
                }
            }
        }
        if (edge) mask(s, key, window);
        float shrink[M][2];
        bool grew = false;
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                shrink[m][h] = soften_row(s[m], m, h, scale);
                grew |= shrink[m][h] != 1.0f;
            }
        // After the first tiles a larger score is rare.
        if (__any_sync(FULL, grew)) {
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int i = 0; i < D / 8; i++)
#pragma unroll
                    for (int e = 0; e < 4; e++) out[m][i][e] *= shrink[m][e / 2];
        }
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                for (int h = 0; h < 2; h++)
                    weights[m][j / 2][j % 2 * 2 + h] = dev::pack2<T>(s[m][j][h * 2], s[m][j][h * 2 + 1]);
    }

    // A key is seen when it is at most `last` and less than `window` before it: one comparison,
    // since a key behind `last` wraps to a large distance. Selected, not added: a score may be NaN.
    __device__ __forceinline__ void mask(float (&s)[M][KEYS / 8][4], int key, unsigned window) const {
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int distance = last[m * 16 + h * 8 + lane() / 4] - (key + lane() % 4 * 2);
#pragma unroll
                for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                    for (int e = 0; e < 2; e++)
                        if (unsigned(distance - j * 8 - e) >= window) s[m][j][h * 2 + e] = -INFINITY;
            }
    }

    // Scores of one row to weights; how much less the earlier ones weigh now.
    __device__ __forceinline__ float soften_row(float (&s)[KEYS / 8][4], int m, int h, float scale) {
        float largest = top[m][h];
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) largest = fmaxf(largest, fmaxf(s[j][h * 2], s[j][h * 2 + 1]));
        largest = fmaxf(largest, __shfl_xor_sync(FULL, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(FULL, largest, 2));
        const float base = largest == -INFINITY ? 0.0f : largest * scale;
        const float shrink = dev::fast_exp2(top[m][h] * scale - base);
        top[m][h] = largest;
        float weight = 0.0f;
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int e = h * 2; e < h * 2 + 2; e++) {
                s[j][e] = dev::fast_exp2(s[j][e] * scale - base);
                weight += s[j][e];
            }
        sum[m][h] = sum[m][h] * shrink + weight;
        return shrink;
    }

    // Adds weight * value.
    __device__ __forceinline__ void weigh(const T* values) {
#pragma unroll
        for (int j = 0; j < KEYS / 16; j++)
#pragma unroll
            for (int i = 0; i < D / 16; i++) {
                unsigned b[4];
                const int place = Place<D>::right(Place<D>::at(lane() % 16, lane() / 16), i * 2);
                dev::ldmatrix_x4_trans(b, values + Place<D>::below(place, j * 16));
#pragma unroll
                for (int m = 0; m < M; m++) {
                    dev::mma_16816<T>(out[m][2 * i], weights[m][j], b[0], b[1]);
                    dev::mma_16816<T>(out[m][2 * i + 1], weights[m][j], b[2], b[3]);
                }
            }
    }

    // The sum of weights over the four lanes of a row.
    __device__ __forceinline__ float row_sum(int m, int h) const {
        const float two = sum[m][h] + __shfl_xor_sync(FULL, sum[m][h], 1);
        return two + __shfl_xor_sync(FULL, two, 2);
    }
};

}  // namespace attention
