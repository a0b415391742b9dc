// linear_tile_codes.cu: out[t, r] = sum_c x[t, c] * w[r, c] + bias[r] for any number of tokens, w of 4 or 8
// bits (codes.cuh), whose numbers are rounded to T in registers.
// x (tokens, stride) in T; w (rows padded to 16, cols); bias (rows) in f32 or null; out (tokens, rows) in
// T or f32. Sums in f32.
// One block per tile of BM tokens and BN rows of w, as in linear_tile.cu. A stage in shared memory has BK
// columns: x, w's chunks as they lie in memory, and of every 32 columns the scales of their group. Chunks
// of 16 rows lie side by side there, so the 32 lanes' words meet no bank twice. Every result is one chain
// of m16n8k16 over the columns in order, so all tiles give the same bits, those of linear_tile.cu for the
// expanded weight.
//   128x128: a warp expands a number for 64 tokens; expected 60% of linear_tile's rate. Not measured.
//   64x32:   a batch of up to 64 sequences that decode
//
// The launcher guarantees gridDim.x == tiles of tokens * tiles of rows; blockDim.x == 32 * BM / WM * BN / WN;
// cols a multiple of 32; stride a multiple of 8, stride >= cols; tokens and rows at least 1; addresses
// multiples of 16; groups enough for (cols / 32 + skipped) units; dynamic shared memory of STAGES *
// (BM * BK * 2 + BN * BK * BITS / 8 + BK / 32 * BN * 4) bytes, and of a warp's way out: 16 * (WN + 8) * 4
// for each.
//
// budget: linear_tile_codes_f16_4_128x128 255 registers
// budget: linear_tile_codes_f16_8_128x128 255 registers
// budget: linear_tile_codes_bf16_4_128x128 255 registers
// budget: linear_tile_codes_bf16_8_128x128 255 registers
// budget: linear_tile_codes_f16_4_64x32 128 registers
// budget: linear_tile_codes_f16_8_64x32 128 registers
// budget: linear_tile_codes_bf16_4_64x32 128 registers
// budget: linear_tile_codes_bf16_8_64x32 128 registers
#include "../tile.cuh"
#include "codes.cuh"

namespace linear_tile_codes {

template <class T, int BITS, int BM, int BN, int BK, int WM, int WN, int STAGES>
struct Tile : linear::Tile<T, BM, BN, BK, WM, WN> {
    using Base = linear::Tile<T, BM, BN, BK, WM, WN>;
    using Base::CHUNKS, Base::PARTS, Base::TM, Base::TN, Base::THREADS;
    using Base::size, Base::m0, Base::n0, Base::wm, Base::wn;
    static constexpr int X_BYTES = BM * BK * 2, W_BYTES = BN * BK * BITS / 8;
    static constexpr int UNITS = BK / codes::UNIT, PANELS = BN / codes::ROWS;
    static constexpr int HEADS_BYTES = UNITS * PANELS * codes::HEAD;  // d, and as many of z or m
    static constexpr int STAGE = X_BYTES + W_BYTES + 2 * HEADS_BYTES;
    static constexpr int W_COLS = 128 / BITS;  // of a chunk of w

    const codes::Weight<BITS> w;

    struct Fragments {
        unsigned x[TM][4], codes[TN], scales[TN / 2], offsets[TN / 2];
    };

    __device__ __forceinline__ unsigned char* stage(int slot) const { return this->shared + slot * STAGE; }

    // 16 bytes of panel `panel` from byte `at` on, zeros where there are no such rows or columns.
    __device__ __forceinline__ void copy16(unsigned char* to, int panel, size_t at, bool is_there) const {
        const bool is_row = panel * codes::ROWS < size.rows;
        // An address of its own for each copy: carried from stage to stage they take more registers than
        // there are.
        dev::cp_async16(to, w.panel(is_row ? panel : 0) + at, is_there && is_row);
    }

    __device__ __forceinline__ void copy_codes(unsigned char* to, int step) const {
        const int panel0 = n0 / codes::ROWS;
#pragma unroll
        for (int i = threadIdx.x; i < W_BYTES / 16; i += THREADS) {
            const int row = i % BN, chunk = step * (BK / W_COLS) + i / BN;
            const size_t at = (size_t(chunk) * codes::ROWS + row % codes::ROWS) * 16;
            copy16(to + i * 16, panel0 + row / codes::ROWS, at, chunk * W_COLS < size.cols);
        }
        const size_t scales = w.chunk_bytes(), offsets = scales + size_t(w.groups) * codes::HEAD;
        to += W_BYTES;
        for (int i = threadIdx.x; i < HEADS_BYTES / 16; i += THREADS) {
            const int panel = panel0 + i / 2 % PANELS, unit = step * UNITS + i / 2 / PANELS;
            const bool is_there = unit * codes::UNIT < size.cols;
            const size_t at = size_t(w.group(unit)) * codes::HEAD + i % 2 * 16;
            copy16(to + i * 16, panel, scales + at, is_there);
            if (w.form != codes::MIDDLE) copy16(to + HEADS_BYTES + i * 16, panel, offsets + at, is_there);
        }
    }

    __device__ __forceinline__ void read(Fragments& f, int slot, int part) const {
        const int lane = threadIdx.x % 32, unit = part / 2;
        const T* x = reinterpret_cast<const T*>(stage(slot)) + wm * BK;
        x += Base::place(lane % 16, part * 2 + lane / 16);
#pragma unroll
        for (int i = 0; i < TM; i++) dev::ldmatrix_x4(f.x[i], x + i * 16 * BK);
        // Lane 4g + t has word t of row g of each eight.
        const unsigned char* chunks = stage(slot) + X_BYTES + (part * 16 / W_COLS * BN + wn) * 16 + lane * 4;
#pragma unroll
        for (int j = 0; j < TN; j++) f.codes[j] = *reinterpret_cast<const unsigned*>(chunks + j * 128);
        const unsigned char* heads = stage(slot) + X_BYTES + W_BYTES;
        heads += (unit * PANELS + wn / codes::ROWS) * codes::HEAD + lane / 4 * 4;
#pragma unroll
        for (int j = 0; j < TN / 2; j++) {
            const unsigned* head = reinterpret_cast<const unsigned*>(heads + j * codes::HEAD);
            f.scales[j] = head[0];
            f.offsets[j] = w.form == codes::MIDDLE ? w.MIDDLES : head[HEADS_BYTES / 4];
        }
    }

    __device__ __forceinline__ void multiply(float (&sum)[TM][TN][4], const Fragments& f, int part) const {
#pragma unroll
        for (int j = 0; j < TN; j++) {
            const float2 d = dev::unpack2<f16>(f.scales[j / 2]), offset = dev::unpack2<f16>(f.offsets[j / 2]);
            const bool is_far = j % 2;
            const codes::Head head = codes::head(is_far ? d.y : d.x, is_far ? offset.y : offset.x, w.form);
            unsigned b[2];
            codes::numbers<T>(b, codes::bytes_of<BITS>(f.codes[j], part % 2), head);
#pragma unroll
            for (int i = 0; i < TM; i++) dev::mma_16816<T>(sum[i][j], f.x[i], b[0], b[1]);
        }
    }

    __device__ __forceinline__ void run(linear::Out<T> out, const T* x, const float* bias) {
        this->take();
        const int steps = (size.cols + BK - 1) / BK;
        const int row = threadIdx.x / CHUNKS, c = threadIdx.x % CHUNKS * 8;
        x += (m0 + row) * size.stride + c;
        // Columns past `cols` are zeros on both sides, whatever lies there.
        auto fetch = [&](int step, int slot) {
            if (step < steps) {
                T* to = reinterpret_cast<T*>(stage(slot));
                const bool is_there = step * BK + c < size.cols;
                Base::template copy<BM>(to, x + step * BK, size.stride, size.tokens - m0, is_there);
                copy_codes(stage(slot) + X_BYTES, step);
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
                multiply(sum, f[part % 2], part);
            }
        }
        // Nobody reads a stage any more since the last barrier, and no copy is on its way.
        this->write(out, sum, bias);
    }
};
}  // namespace linear_tile_codes

#define LINEAR_TILE_CODES(suffix, T, BITS, BM, BN, BK, WM, WN, STAGES, BLOCKS)                                          \
    KERNEL void __launch_bounds__(linear_tile_codes::Tile<T, BITS, BM, BN, BK, WM, WN, STAGES>::THREADS, BLOCKS)       \
        linear_tile_codes_##suffix##_##BITS##_##BM##x##BN(                                                             \
            void* out, const T* __restrict__ x, const unsigned char* __restrict__ w, const float* __restrict__ bias,   \
            int tokens, int rows, int cols, int stride, int out_is_f32, int groups, int shift, int skipped, int form) { \
        SHARED_DYNAMIC(shared);                                                                                        \
        const linear::Sizes size = {tokens, rows, cols, size_t(stride)};                                               \
        const codes::Weight<BITS> weight = {w, cols, groups, shift, skipped, form};                                    \
        linear_tile_codes::Tile<T, BITS, BM, BN, BK, WM, WN, STAGES> tile{{size, shared}, weight};                     \
        tile.run({out, out_is_f32 != 0}, x, bias);                                                                     \
    }                                                                                                                  \
    EXPORT_KERNEL(linear_tile_codes_##suffix##_##BITS##_##BM##x##BN)

// The last number: blocks that shall have room on a multiprocessor.
LINEAR_TILE_CODES(f16, f16, 4, 128, 128, 32, 64, 64, 4, 2)
LINEAR_TILE_CODES(f16, f16, 8, 128, 128, 32, 64, 64, 4, 2)
LINEAR_TILE_CODES(f16, f16, 4, 64, 32, 64, 32, 16, 4, 3)
LINEAR_TILE_CODES(f16, f16, 8, 64, 32, 64, 32, 16, 4, 3)
LINEAR_TILE_CODES(bf16, bf16, 4, 128, 128, 32, 64, 64, 4, 2)
LINEAR_TILE_CODES(bf16, bf16, 8, 128, 128, 32, 64, 64, 4, 2)
LINEAR_TILE_CODES(bf16, bf16, 4, 64, 32, 64, 32, 16, 4, 3)
LINEAR_TILE_CODES(bf16, bf16, 8, 64, 32, 64, 32, 16, 4, 3)
