// ring.cuh: tiles of keys and values on their way through shared memory: keys, values, keys, ... in
// a ring of SLOTS, copied SLOTS - 1 tiles ahead by cp.async. WARPS warps share a ring (1: a warp
// has it to itself, and no barrier of the block is needed), each copies its part of every tile.
//
// A tile's rows lie wherever the block table says, so each lane looks one row up and hands it to
// the lanes that copy it: any block size costs the same. Positions outside begin..end are filled
// with zeros and never read: what lies there may be not a number, which a weight of zero would not
// silence.
#pragma once
#include "tile.cuh"

namespace attention {

template <class T, int D, int KEYS, int SLOTS, int WARPS> struct Ring {
    static constexpr int ROWS = KEYS / WARPS;  // that a warp copies
    static constexpr int SLOT = KEYS * Place<D>::PITCH;
    static constexpr int BYTES = SLOTS * SLOT * 2;
    static constexpr bool AHEAD_OF_KEYS = SLOTS % 2 == 0;  // values are what is SLOTS - 1 tiles ahead of keys

    T* slots;
    const T* keys;
    size_t to_values;
    Blocks blocks;
    int begin, end, step;  // positions that are read; from tile to tile
    int tile;              // first position of the tile that is copied next
    int mine;              // the warp's first row of a tile
    int full, empty;       // slots: the next to be read, the next to be filled
    unsigned row;          // lane l: where position tile + mine + l lies

    template <class Call>
    __device__ __forceinline__ Ring(const Call& call, void* memory, int warp, int first, int begin, int end, int step)
        : slots(static_cast<T*>(memory)), keys(call.keys()), to_values(call.to_values()), blocks(call.blocks()), begin(begin),
          end(end), step(step), tile(first), mine(warp * ROWS), full(0), empty(0) {
        find();
#pragma unroll
        for (int s = 0; s < SLOTS - 1; s++)
            if (s % 2 == 0) fetch<false>();
            else fetch<true>();
    }

    __device__ __forceinline__ void find() {
        const int position = tile + mine + lane() % ROWS;
        row = position >= begin && position < end ? blocks.row(unsigned(position)) : 0;
    }

    // Starts copying the next tile, if there is one.
    template <bool VALUES> __device__ __forceinline__ void fetch() {
        constexpr int CHUNKS = Place<D>::CHUNKS;
        if (tile < end) {
            T* slot = slots + empty * SLOT;
            const T* from = VALUES ? keys + to_values : keys;
#pragma unroll
            for (int i = 0; i < ROWS * CHUNKS / 32; i++) {
                const int n = i * 32 + lane(), r = n / CHUNKS, chunk = n % CHUNKS, position = tile + mine + r;
                const T* chunks = from + size_t(__shfl_sync(FULL, row, r)) * D + chunk * 8;
                dev::cp_async16(slot + Place<D>::at(mine + r, chunk), chunks, position >= begin && position < end);
            }
            if (VALUES) {
                tile += step;
                find();  // its answer is not needed before the next tile
            }
        }
        dev::cp_async_commit();
        empty = empty + 1 == SLOTS ? 0 : empty + 1;
    }

    // The next tile, once it is there; the slot of the one before is filled again.
    template <bool FETCH_VALUES> __device__ __forceinline__ const T* next() {
        dev::cp_async_wait<SLOTS - 2>();
        if (WARPS == 1) __syncwarp();
        else __syncthreads();
        fetch<FETCH_VALUES>();
        const T* slot = slots + full * SLOT;
        full = full + 1 == SLOTS ? 0 : full + 1;
        return slot;
    }
};

// The warp's rows, which stand at positions low..high, against every tile of the ring.
template <class T, int D, int M, int KEYS, int SLOTS, int WARPS, class Query>
__device__ __forceinline__ void attend(Tile<T, D, M, KEYS>& tile, Ring<T, D, KEYS, SLOTS, WARPS>& ring, const Query& query,
                                       int first, int low, int high, unsigned window, float scale) {
    using R = Ring<T, D, KEYS, SLOTS, WARPS>;
    for (int key = first; key < ring.end; key += ring.step) {
        // Rows from `high` on see no more, rows up to `low` no less; the same for all lanes.
        const bool seen = key <= high && (low < key + KEYS || unsigned(low - (key + KEYS - 1)) < window);
        const bool edge = key + KEYS - 1 > low || unsigned(high - key) >= window;
        const T* keys = ring.template next<R::AHEAD_OF_KEYS>();
        if (seen) tile.soften(query, keys, key, edge, window, scale);
        const T* values = ring.template next<!R::AHEAD_OF_KEYS>();
        if (seen) tile.weigh(values);
    }
}

}  // namespace attention
