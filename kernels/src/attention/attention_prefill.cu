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
// Registers are sm_100's, which takes most; the other targets take 210 to 243. All leave room for
// two blocks.
// budget: attention_prefill_64_ 240 registers, 512 bytes of shared memory
// budget: attention_prefill_80_ 255 registers, 512 bytes of shared memory
// budget: attention_prefill_96_ 228 registers, 512 bytes of shared memory
// budget: attention_prefill_128_ 255 registers, 512 bytes of shared memory
// budget: attention_prefill_256_ 246 registers, 256 bytes of shared memory
#include "ring.cuh"

namespace attention {

template <int D> struct Prefill {
    static constexpr int WARPS = 4, THREADS = WARPS * 32, SLOTS = 3;
    static constexpr int M = D > 128 ? 1 : 2, KEYS = D > 128 ? 16 : D > 80 ? 32 : 64;
    static constexpr int WARP_ROWS = M * 16, ROWS = WARPS * WARP_ROWS;
    static constexpr int BLOCKS = 2;  // on a multiprocessor
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

// What a block has to do.
template <class T, int D> struct Share {
    Sequence sequence;
    int split, first_row, last_row, warp_row;  // the warp's first row may lie behind the last
    bool is_any;

    __device__ __forceinline__ explicit Share(const Call<T>& call) : sequence(call) {
        using Form = Prefill<D>;
        const int tiles = int(gridDim.x / call.splits), tile = tiles - 1 - int(blockIdx.x / call.splits);
        split = int(blockIdx.x % call.splits), first_row = tile * Form::ROWS;
        last_row = min(sequence.rows, first_row + Form::ROWS) - 1;
        warp_row = first_row + int(threadIdx.x / 32) * Form::WARP_ROWS;
        is_any = sequence.is_for(call) && first_row < sequence.rows && split < sequence.spans(call);
    }
};

template <class T, int D, class Sums> __device__ __forceinline__ void store(const Call<T>& call, const Sums& tile) {
    const Share<T, D> share(call);  // again: its numbers need not outlive the loop over the keys
#pragma unroll
    for (int m = 0; m < Prefill<D>::M; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float weight = tile.row_sum(m, h);
            const int row = share.warp_row + m * 16 + lane() / 4 + h * 8, column = lane() % 4 * 2;
            if (row > share.last_row) continue;
            if (call.splits == 1) {
                T* out = share.sequence.out(call, row) + column;
                const float by = 1.0f / weight;
#pragma unroll
                for (int i = 0; i < D / 8; i++)
                    *reinterpret_cast<unsigned*>(out + i * 8) =
                        dev::pack2<T>(tile.out[m][i][h * 2] * by, tile.out[m][i][h * 2 + 1] * by);
            } else {
                const size_t part = share.sequence.part(call, row, share.split);
                float* values = call.values + part * D + column;
#pragma unroll
                for (int i = 0; i < D / 8; i++)
                    *reinterpret_cast<float2*>(values + i * 8) = {tile.out[m][i][h * 2], tile.out[m][i][h * 2 + 1]};
                if (column == 0) call.stats[part] = {tile.top[m][h] * call.scale, weight};
            }
        }
}

template <class T, int D> __device__ __forceinline__ void prefill(const Call<T>& call) {
    using Form = Prefill<D>;
    constexpr int KEYS = Form::KEYS;
    SHARED_DYNAMIC(memory);
    SHARED(int, last, [Form::ROWS]);
    const Share<T, D> share(call);
    if (!share.is_any) return;  // the whole block
    const Sequence& sequence = share.sequence;
    const int warp = threadIdx.x / 32, last_row = share.last_row, span = int(call.span);
    const int from = (sequence.first_span(call) + share.split) * span;
    const int begin = max(sequence.first_seen(call, sequence.position(share.first_row)), from);
    const int end = min(sequence.position(last_row) + 1, from + span), first = begin / KEYS * KEYS;

    T* queries = reinterpret_cast<T*>(memory) + warp * Form::WARP_ROWS * Place<D>::PITCH;
    fetch_queries<T, D>(queries, call, sequence, share.warp_row);
    if (threadIdx.x < Form::ROWS) last[threadIdx.x] = sequence.position(min(share.first_row + int(threadIdx.x), last_row));
    T* slots = reinterpret_cast<T*>(memory) + Form::ROWS * Place<D>::PITCH;
    Ring<T, D, KEYS, Form::SLOTS, Form::WARPS> ring(call, slots, warp, first, begin, end, KEYS);
    Tile<T, D, Form::M, KEYS> tile(last + warp * Form::WARP_ROWS);
    const int low = sequence.position(min(share.warp_row, last_row));
    const int high = sequence.position(min(share.warp_row + Form::WARP_ROWS - 1, last_row));
    attend(tile, ring, SharedQuery<T, D>{queries}, first, low, high, call.window, call.scale);
    store<T, D>(call, tile);
}

}  // namespace attention

#define PREFILL(suffix, T, D)                                                                                        \
    ATTENTION(attention_prefill_##D##_##suffix, T, attention::Prefill<D>::THREADS, attention::Prefill<D>::BLOCKS, \
              (attention::prefill<T, D>))
#define PREFILL_ALL(suffix, T) \
    PREFILL(suffix, T, 64) PREFILL(suffix, T, 80) PREFILL(suffix, T, 96) PREFILL(suffix, T, 128) PREFILL(suffix, T, 256)
PREFILL_ALL(f16, f16)
PREFILL_ALL(bf16, bf16)
