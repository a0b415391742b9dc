// meet.h: where threads wait for each other: barriers of a block, collectives of a warp. What kernels
// call stands in meet.cpp, so that they compile fast and the race checker sees none of it.
#pragma once
#include "block.h"

namespace emu {

// Barrier `id` of the block, for `expected` threads.
void block_wait(int id, unsigned expected, const char* what, Site site);
void warp_wait(unsigned mask, Site site);
// The value of lane `from`, of 4 or 8 bytes, replaces this lane's.
void shuffle_bytes(unsigned mask, void* value, size_t bytes, unsigned from, const char* what, Site site);
// A bit for each lane for which it holds.
unsigned vote(unsigned mask, bool holds, const char* what, Site site);

template <class T>
inline T shuffle(unsigned mask, T value, unsigned from, const char* what, Site site) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    shuffle_bytes(mask, &value, sizeof(T), from, what, site);
    return value;
}

// All lanes of `mask` meet; the last one to come runs `op` on every lane's slot, once.
template <class F>
inline void warp_meet(unsigned mask, const char* what, Site site, void* slot, F&& op) {
    Fiber& fiber = *block->current;
    unsigned lane = fiber.linear & 31, w = fiber.linear >> 5;
    size_t rest = block->count() - size_t(w) * 32;
    unsigned exist = rest >= 32 ? ~0u : (1u << rest) - 1;
    if (!(mask >> lane & 1) || (mask & ~exist))
        EMU_FAIL("%s at %s:%d: mask %08x, lane %u of lanes %08x", what, base(site.file), site.line, mask, lane, exist);
    auto& meets = block->warps[w].meets;
    Meet* meet = nullptr;
    for (auto& other : meets)
        if (other.mask & mask) {
            if (other.mask != mask || other.what != what || other.site.line != site.line || other.site.file != site.file)
                EMU_FAIL("divergent warp %u: lane %u is at %s %s:%d (mask %08x), lanes %08x are at %s %s:%d (mask %08x)", w,
                         lane, what, base(site.file), site.line, mask, other.arrived, other.what, base(other.site.file),
                         other.site.line, other.mask);
            meet = &other;
        }
    if (!meet) meets.push_back({mask, 0, what, site, {}}), meet = &meets.back();
    meet->slot[lane] = slot;
    meet->arrived |= 1u << lane;
    fiber.what = what, fiber.site = site;
    if (meet->arrived != mask) {
        fiber.state = Wait::warp;
        to_scheduler(false);
        return;
    }
    void* slots[32];
    memcpy(slots, meet->slot, sizeof slots);
    meets.erase(meets.begin() + (meet - meets.data()));
    op(slots);
    for (unsigned l = 0; l < 32; l++)
        if (l != lane && (mask >> l & 1)) block->fibers[w * 32 + l].state = Wait::ready;
}

}  // namespace emu
