// attention_prefill.cu: out[t,h] = sum_j softmax_j(scale * q[t,h] . k[j]) * v[j] for many rows (see
// call.cuh): prefill, whole or in chunks, behind any prefix.
// Shapes and what the launcher guarantees: call.cuh; 16-bit types. Grid x: (tile of rows, span).
//
// A block takes 128 rows (64 at D = 256), 32 (16) a warp, against the keys they see, 64 (32) keys
// and values at a time through one ring of three tiles (ring.cuh): while a tile is worked on, two
// are on their way. The last tiles of rows see the most keys and come first. Tiles of keys that no
// row of the block sees are never read, those that no row of the warp sees not worked on, and only
// those on an edge are masked.
//
// Cost: compute-bound from some hundred keys on. Each tile that a warp reads from shared memory
// serves 32 rows: reading takes about 1.2 times as long as an H100's mma.sync (62% of what wgmma
// does there) would, so the expected share is 45% of the measured matmul rate at D = 128 and 2,048
// tokens or more, on sm_80 and sm_89, where reading is not the limit, 60%.
// Shared memory at D = 128: 80 KiB, two blocks on an H100's or A100's multiprocessor.
//
// budget: attention_prefill_ 255 registers
#include "ring.cuh"

namespace attention {

template <int D> struct Prefill {
    static constexpr int WARPS = 4, THREADS = WARPS * 32, SLOTS = 3;
    static constexpr int M = D > 128 ? 1 : 2, KEYS = D > 128 ? 32 : 64;
    static constexpr int WARP_ROWS = M * 16, ROWS = WARPS * WARP_ROWS;
    static constexpr int BLOCKS = D > 64 ? 2 : 3;  // on a multiprocessor
};

// Starts copying the warp's queries; rows that do not exist become zeros.
template <class T, int D> __device__ __forceinline__ void fetch_queries(T* to, const Call<T>& call, const Sequence& sequence, int first) {
    constexpr int ROWS = Prefill<D>::WARP_ROWS, CHUNKS = Place<D>::CHUNKS;
    const int own = first + lane() % ROWS;
    const size_t mine = own < sequence.rows ? size_t(sequence.query(call, own) - call.queries) : 0;
#pragma unroll
    for (int i = 0; i < ROWS * CHUNKS / 32; i++) {
        const int n = i * 32 + lane(), r = n / CHUNKS, chunk = n % CHUNKS;
        const size_t at = __shfl_sync(FULL, mine, r);
        dev::cp_async16(to + Place<D>::at(r, chunk), call.queries + at + chunk * 8, first + r < sequence.rows);
    }
}

template <class T, int D> __device__ __forceinline__ void prefill(const Call<T>& call) {
    using Form = Prefill<D>;
    constexpr int KEYS = Form::KEYS, M = Form::M;
    SHARED_DYNAMIC(memory);
    const Sequence sequence(call);
    const int tiles = int(gridDim.x / call.splits), split = int(blockIdx.x % call.splits);
    const int first_row = (tiles - 1 - int(blockIdx.x / call.splits)) * Form::ROWS;
    if (!sequence.is_for(call) || first_row >= sequence.rows || split >= sequence.spans(call)) return;  // the whole block
    const int warp = threadIdx.x / 32, last_row = min(sequence.rows, first_row + Form::ROWS) - 1;
    const int span = int(call.span), from = (sequence.first_span(call) + split) * span;
    const int begin = max(sequence.first_seen(call, sequence.position(first_row)), from);
    const int end = min(sequence.position(last_row) + 1, from + span), first = begin / KEYS * KEYS;

    const int warp_row = first_row + warp * Form::WARP_ROWS;  // may lie behind the last row
    T* queries = reinterpret_cast<T*>(memory) + warp * Form::WARP_ROWS * Place<D>::PITCH;
    fetch_queries<T, D>(queries, call, sequence, warp_row);
    T* slots = reinterpret_cast<T*>(memory) + Form::ROWS * Place<D>::PITCH;
    Ring<T, D, KEYS, Form::SLOTS, Form::WARPS> ring(call, slots, warp, first, begin, end, KEYS);
    Tile<T, D, M, KEYS> tile;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            tile.last[m][h] = sequence.position(min(warp_row + m * 16 + lane() / 4 + h * 8, last_row));
    const int low = sequence.position(min(warp_row, last_row));
    const int high = sequence.position(min(warp_row + Form::WARP_ROWS - 1, last_row));
    attend(tile, ring, SharedQuery<T, D>{queries}, first, low, high, call.window, call.scale);

#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float weight = tile.row_sum(m, h);
            const int row = warp_row + m * 16 + lane() / 4 + h * 8, column = lane() % 4 * 2;
            if (row > last_row) continue;
            if (call.splits == 1) {
                T* out = sequence.out(call, row) + column;
                const float share = 1.0f / weight;
#pragma unroll
                for (int i = 0; i < D / 8; i++)
                    *reinterpret_cast<unsigned*>(out + i * 8) =
                        dev::pack2<T>(tile.out[m][i][h * 2] * share, tile.out[m][i][h * 2 + 1] * share);
            } else {
                const size_t part = sequence.part(call, row, split);
                float* values = call.values + part * D + column;
#pragma unroll
                for (int i = 0; i < D / 8; i++)
                    *reinterpret_cast<float2*>(values + i * 8) = {tile.out[m][i][h * 2], tile.out[m][i][h * 2 + 1]};
                if (column == 0) call.stats[part] = {tile.top[m][h] * call.scale, weight};
            }
        }
}

}  // namespace attention

#define PREFILL(suffix, T, D)                                                                                        \
    ATTENTION(attention_prefill_##suffix##_##D, T, attention::Prefill<D>::THREADS, attention::Prefill<D>::BLOCKS, \
              (attention::prefill<T, D>))
#define PREFILL_ALL(suffix, T) \
    PREFILL(suffix, T, 64) PREFILL(suffix, T, 80) PREFILL(suffix, T, 96) PREFILL(suffix, T, 128) PREFILL(suffix, T, 256)
PREFILL_ALL(f16, f16)
PREFILL_ALL(bf16, bf16)
