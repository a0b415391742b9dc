// linear_tile.cu: out[t, r] = sum_c x[t, c] * w[r, c] + bias[r] for any number of tokens, in f16 and bf16.
// x (tokens, stride) and w (rows padded to 16, cols padded to 32) in T; bias (rows) in f32 or null;
// out (tokens, rows) in T or f32. Sums in f32.
// One block per tile of BM tokens and BN rows of w; each of its warps has WM x WN of it in registers.
// BK columns of the tile's x and w are a stage in shared memory; STAGES - 1 stages are on their way
// by cp.async while one is multiplied, and the fragments of the next 16 columns are read while the
// present ones are multiplied. Every result is one chain of m16n8k16 over the columns in order, so
// all tiles give the same bits.
//   128x256: arithmetic-bound, expected 70% of what mma.sync can do on an A100, 60% on an H100
//   128x128: as above, 55%; fills the card with half the tokens
//   64x64:   few tokens or few rows
//   64x32:   a batch of up to 64 sequences that decode; bandwidth-bound, expected 60% of the copy bandwidth
//
// The launcher guarantees gridDim.x == tiles of tokens * tiles of rows; blockDim.x == 32 * BM / WM * BN / WN;
// cols and stride multiples of 8, stride >= cols; tokens and rows at least 1; addresses multiples of
// 16; dynamic shared memory of STAGES * (BM + BN) * BK * 2 bytes (96, 64, 64 and 72 KiB).
//
// budget: linear_tile_f16_128x256 255 registers
// budget: linear_tile_bf16_128x256 255 registers
// budget: linear_tile_f16_128x128 255 registers
// budget: linear_tile_bf16_128x128 255 registers
// budget: linear_tile_f16_64x64 128 registers
// budget: linear_tile_bf16_64x64 128 registers
// budget: linear_tile_f16_64x32 104 registers
// budget: linear_tile_bf16_64x32 104 registers
#include "tile.cuh"

namespace linear_tile {
template <class T, int BM, int BN, int BK, int WM, int WN, int STAGES> struct Tile : linear::Tile<T, BM, BN, BK, WM, WN> {
    using Base = linear::Tile<T, BM, BN, BK, WM, WN>;
    using Base::CHUNKS, Base::PARTS, Base::TM, Base::TN, Base::size, Base::m0, Base::n0, Base::wm, Base::wn;
    static constexpr int STAGE = (BM + BN) * BK;  // numbers

    struct Fragments {
        unsigned x[TM][4], w[TN / 2][4];
    };
    __device__ __forceinline__ T* stage(int slot) const { return reinterpret_cast<T*>(this->shared) + slot * STAGE; }

    __device__ __forceinline__ void read(Fragments& f, int slot, int part) const {
        const int lane = threadIdx.x % 32;
        const T *x = stage(slot) + wm * BK, *w = stage(slot) + (BM + wn) * BK;
        x += Base::place(lane % 16, part * 2 + lane / 16), w += Base::place(lane % 8 + lane / 16 * 8, part * 2 + lane / 8 % 2);
#pragma unroll
        for (int i = 0; i < TM; i++) dev::ldmatrix_x4(f.x[i], x + i * 16 * BK);
#pragma unroll
        for (int j = 0; j < TN / 2; j++) dev::ldmatrix_x4(f.w[j], w + j * 16 * BK);
    }

    static __device__ __forceinline__ void multiply(float (&sum)[TM][TN][4], const Fragments& f) {
#pragma unroll
        for (int i = 0; i < TM; i++)
#pragma unroll
            for (int j = 0; j < TN; j++) {
                const unsigned(&w)[4] = f.w[j / 2];
                dev::mma_16816<T>(sum[i][j], f.x[i], w[j % 2 * 2], w[j % 2 * 2 + 1]);
            }
    }

    __device__ __forceinline__ void run(linear::Out<T> out, const T* x, const T* w, const float* bias) {
        this->take();
        const int steps = (size.cols + BK - 1) / BK, padded = (size.cols + 31) / 32 * 32;
        const int row = threadIdx.x / CHUNKS, c = threadIdx.x % CHUNKS * 8;
        x += (m0 + row) * size.stride + c, w += size_t(n0 + row) * padded + c;
        // Columns past `cols` are zeros on both sides, whatever lies there.
        auto fetch = [&](int step, int slot) {
            if (step < steps) {
                T* to = stage(slot);
                const bool is_there = step * BK + c < size.cols;
                Base::template copy<BM>(to, x + step * BK, size.stride, size.tokens - m0, is_there);
                Base::template copy<BN>(to + BM * BK, w + step * BK, padded, size.rows - n0, is_there);
            }
            dev::cp_async_commit();
        };
        for (int step = 0; step < STAGES - 1; step++) fetch(step, step);
        dev::cp_async_wait<STAGES - 2>();
        __syncthreads();
        Fragments f[2];
        float sum[TM][TN][4] = {};
        if (steps > 0) read(f[0], 0, 0);
        for (int step = 0, slot = 0; step < steps; step++) {
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                if (part + 1 < PARTS) {
                    read(f[(part + 1) % 2], slot, part + 1);
                } else {
                    dev::cp_async_wait<STAGES - 2>();
                    __syncthreads();
                    slot = slot == STAGES - 1 ? 0 : slot + 1;
                    if (step + 1 < steps) read(f[0], slot, 0);
                }
                // Into the slot of the step before, which nobody reads any more.
                if (part == 0) fetch(step + STAGES - 1, slot == 0 ? STAGES - 1 : slot - 1);
                multiply(sum, f[part % 2]);
            }
        }
        // Nobody reads a stage any more since the last barrier, and no copy is on its way.
        this->write(out, sum, bias);
    }
};
}  // namespace linear_tile

#define LINEAR_TILE(suffix, T, BM, BN, BK, WM, WN, STAGES, BLOCKS)                                                     \
    KERNEL void __launch_bounds__(linear_tile::Tile<T, BM, BN, BK, WM, WN, STAGES>::THREADS, BLOCKS)                   \
        linear_tile_##suffix##_##BM##x##BN(void* out, const T* __restrict__ x, const T* __restrict__ w,                \
                                           const float* __restrict__ bias, int tokens, int rows, int cols, int stride, \
                                           int out_is_f32) {                                                           \
        SHARED_DYNAMIC(shared);                                                                                        \
        const linear::Sizes size = {tokens, rows, cols, size_t(stride)};                                               \
        linear_tile::Tile<T, BM, BN, BK, WM, WN, STAGES> tile{{size, shared}};                                                     \
        tile.run({out, out_is_f32 != 0}, x, w, bias);                                                                  \
    }                                                                                                                  \
    EXPORT_KERNEL(linear_tile_##suffix##_##BM##x##BN)

// The last number: blocks that shall have room on a multiprocessor.
LINEAR_TILE(f16, f16, 128, 256, 32, 64, 64, 4, 1)
LINEAR_TILE(f16, f16, 128, 128, 32, 64, 64, 4, 2)
LINEAR_TILE(f16, f16, 64, 64, 64, 32, 32, 4, 3)
LINEAR_TILE(f16, f16, 64, 32, 64, 32, 16, 6, 3)
LINEAR_TILE(bf16, bf16, 128, 256, 32, 64, 64, 4, 1)
LINEAR_TILE(bf16, bf16, 128, 128, 32, 64, 64, 4, 2)
LINEAR_TILE(bf16, bf16, 64, 64, 64, 32, 32, 4, 3)
LINEAR_TILE(bf16, bf16, 64, 32, 64, 32, 16, 6, 3)
