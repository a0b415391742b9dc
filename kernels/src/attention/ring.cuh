// ring.cuh: keys and values on their way through shared memory, in a ring of SLOTS that hold KEYS of
// each: while one slot is worked on, SLOTS - 1 are being filled by cp.async. WARPS warps share a ring
// and each copies its part of every slot; a ring that a warp has to itself needs no barrier of the
// block.
//
// A slot's rows lie wherever the block table says, so each lane looks one row up and hands it to
// the lanes that copy it: any block size costs the same. Positions outside begin..end are filled
// with zeros and never read, nor are their blocks looked up: what lies there may be not a number,
// which a weight of zero would not silence.
#pragma once
#include "tile.cuh"

namespace attention {

template <class T, int D, int KEYS, int SLOTS, int WARPS> struct Ring {
    static constexpr int ROWS = KEYS / WARPS;  // of keys, and of values, that a warp copies
    static constexpr int PART = KEYS * Place<D>::PITCH;  // from a slot's keys to its values
    static constexpr int BYTES = SLOTS * PART * 2 * 2;
    // A lane stays in its column when lanes are whole rows.
    static constexpr bool HAS_COLUMN = 32 % Place<D>::CHUNKS == 0;
    static constexpr unsigned NOWHERE = 0xffffffffu;  // no cache has so many rows

    using At = Place<D>;
    T* slots;
    const T *keys, *values;  // those of cache row 0, from the lane's column on where it has one
    Blocks blocks;
    int begin, end;  // positions that are read
    int step;        // from slot to slot
    int mine;        // the warp's first row of a slot
    int slot;        // that is read next; the one before it is filled next
    unsigned block;  // lane l: in which the warp's row l of the slot lies that is filled next

    // Starts with the positions from `first` on.
    template <class Call>
    __device__ __forceinline__ Ring(const Call& call, void* memory, int warp, int first, int begin, int end, int step)
        : slots(static_cast<T*>(memory)), blocks(call.blocks()), begin(begin), end(end), step(step), mine(warp * ROWS), slot(0), block(0) {
        const T* own = call.keys() + (HAS_COLUMN ? lane() % At::CHUNKS * 8 : 0);
        keys = dev::whole(own), values = dev::whole(own + call.to_values());
        find(first);
#pragma unroll
        for (int s = 0; s < SLOTS - 1; s++) fetch(first + s * step, s);
    }

    __device__ __forceinline__ int position(int first) const { return first + mine + lane() % ROWS; }
    __device__ __forceinline__ bool is_read(int position) const { return position >= begin && position < end; }

    // Asks for the blocks of the positions from `first` on. Nothing is made of the answer before it
    // is needed, a slot later: this is the only load that a warp would wait for.
    __device__ __forceinline__ void find(int first) {
        if (is_read(position(first))) block = blocks.at(unsigned(position(first)));
    }

    // Starts copying the positions from `first` on, if there are any.
    __device__ __forceinline__ void fetch(int first, int to) {
        if (first < end) {
            T* rows = slots + to * (2 * PART);
            const unsigned row = is_read(position(first)) ? blocks.row(block, unsigned(position(first))) : NOWHERE;
            find(first + step);
#pragma unroll
            for (int i = 0; i < ROWS * At::CHUNKS / 32; i++) {
                int r = (i * 32 + lane()) / At::CHUNKS, column = (i * 32 + lane()) % At::CHUNKS * 8;
                int place = At::at(mine + r, column / 8);
                if (HAS_COLUMN) {
                    constexpr int ROWS_AT_ONCE = 32 / At::CHUNKS;
                    const int own = lane() / At::CHUNKS, chunk = lane() % At::CHUNKS;
                    r = own + i * ROWS_AT_ONCE, column = 0;
                    place = At::below(At::at(mine + own, chunk), i * ROWS_AT_ONCE);
                }
                const unsigned at = __shfl_sync(FULL, row, r);
                dev::cp_async16(rows + place, keys + size_t(at) * D + column, at != NOWHERE);
                dev::cp_async16(rows + PART + place, values + size_t(at) * D + column, at != NOWHERE);
            }
        }
        dev::cp_async_commit();
    }

    // The keys at `first`, and PART further the values, once they are there; the slot before theirs
    // is filled again.
    __device__ __forceinline__ const T* next(int first) {
        dev::cp_async_wait<SLOTS - 2>();
        if (WARPS == 1) __syncwarp();
        else __syncthreads();
        fetch(first + (SLOTS - 1) * step, slot == 0 ? SLOTS - 1 : slot - 1);
        const T* rows = slots + slot * (2 * PART);
        slot = slot + 1 == SLOTS ? 0 : slot + 1;
        return rows;
    }
};

// The warp's rows, which stand at positions low..high, against all that the ring brings.
template <class T, int D, int M, int KEYS, int SLOTS, int WARPS, class Query>
__device__ __forceinline__ void attend(Tile<T, D, M, KEYS>& tile, Ring<T, D, KEYS, SLOTS, WARPS>& ring, const Query& query,
                                       int first, int low, int high, unsigned window, float scale) {
    for (int key = first; key < ring.end; key += ring.step) {
        const T* keys = ring.next(key);
        // Rows from `high` on see no more, rows up to `low` no less; the same for all lanes.
        const bool seen = key <= high && (low < key + KEYS || unsigned(low - (key + KEYS - 1)) < window);
        const bool edge = key + KEYS - 1 > low || unsigned(high - key) >= window;
        if (seen) {
            tile.soften(query, keys, key, edge, window, scale);
            tile.weigh(keys + ring.PART);
        }
    }
    // Without a key in the ring nothing has waited yet for what was started before it (queries).
    dev::cp_async_wait<0>();
}

}  // namespace attention
