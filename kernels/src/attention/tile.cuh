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
// different banks. Where a row is a multiple of 128 bytes its chunks are exchanged; other rows are
// padded to an odd number of chunks.
template <int D> struct Place {
    static constexpr int CHUNKS = D / 8;
    static constexpr bool EXCHANGED = D % 64 == 0;
    static constexpr int PITCH = (EXCHANGED ? CHUNKS : CHUNKS | 1) * 8;  // numbers from row to row
    static __device__ __forceinline__ int at(int row, int chunk) {
        return row * PITCH + (EXCHANGED ? chunk ^ (row & 7) : chunk) * 8;
    }
};

// Query rows in shared memory.
template <class T, int D> struct SharedQuery {
    const T* rows;  // the warp's first
    __device__ __forceinline__ void fragment(unsigned (&a)[4], int m, int i) const {
        dev::ldmatrix_x4(a, rows + Place<D>::at(m * 16 + lane() % 16, i * 2 + lane() / 16));
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
    int last[M][2];              // the last key that the row sees
    unsigned weights[M][KEYS / 16][4];

    __device__ __forceinline__ Tile() {
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
                dev::ldmatrix_x4(b, keys + Place<D>::at(j * 16 + lane() % 8 + lane() / 16 * 8, i * 2 + lane() / 8 % 2));
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
            for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int at = key + j * 8 + lane() % 4 * 2 + e % 2;
                    if (unsigned(last[m][e / 2] - at) >= window) s[m][j][e] = -INFINITY;
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
                dev::ldmatrix_x4_trans(b, values + Place<D>::at(j * 16 + lane() % 16, i * 2 + lane() / 16));
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
