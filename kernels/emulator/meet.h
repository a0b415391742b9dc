// meet.h: where threads wait for each other: barriers of a block, collectives of a warp.
#pragma once
#include "block.h"

namespace emu {

inline void block_wait(int id, unsigned expected, const char* what, Site site) {
    Barrier& barrier = block->barriers[id];
    Fiber& fiber = *block->current;
    if (barrier.waiting == 0) barrier.expected = expected, barrier.site = site;
    if (barrier.expected != expected)
        EMU_FAIL("%s %d at %s:%d: thread counts differ", what, id, base(site.file), site.line);
    if (id == 0 && (barrier.site.line != site.line || barrier.site.file != site.file))
        EMU_FAIL("divergent %s: thread %u is at %s:%d, others at %s:%d", what, fiber.linear, base(site.file), site.line,
                 base(barrier.site.file), barrier.site.line);
    fiber.what = what, fiber.site = site, fiber.barrier = id;
    if (++barrier.waiting < expected) {
        fiber.state = State::barrier;
        to_scheduler(false);
        return;
    }
    barrier.waiting = 0;
    if (id == 0) view.block_epoch = ++block->epoch;
    for (auto& other : block->fibers)
        if (other.state == State::barrier && other.barrier == id) other.state = State::ready;
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
            if (other.mask != mask || other.what != what || other.site.line != site.line)
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
        fiber.state = State::warp;
        to_scheduler(false);
        return;
    }
    void* slots[32];
    memcpy(slots, meet->slot, sizeof slots);
    meets.erase(meets.begin() + (meet - meets.data()));
    op(slots);
    if (mask == exist && !strcmp(what, "__syncwarp")) view.warp_epoch = ++block->warps[w].epoch;
    for (unsigned l = 0; l < 32; l++)
        if (l != lane && (mask >> l & 1)) block->fibers[w * 32 + l].state = State::ready;
}

template <class T>
struct Shuffle {
    T in, out;
    unsigned from;
};
template <class T>
inline T shuffle(unsigned mask, T value, unsigned from, const char* what, Site site) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    Shuffle<T> own{value, value, from};
    warp_meet(mask, what, site, &own, [&](void** slot) {
        for (unsigned l = 0; l < 32; l++) {
            if (!(mask >> l & 1)) continue;
            auto* lane = static_cast<Shuffle<T>*>(slot[l]);
            if (!(mask >> lane->from & 1))
                EMU_FAIL("%s at %s:%d reads lane %u outside its mask", what, base(site.file), site.line, lane->from);
            lane->out = static_cast<Shuffle<T>*>(slot[lane->from])->in;
        }
    });
    return own.out;
}

inline unsigned vote(unsigned mask, bool holds, const char* what, Site site) {
    struct Vote {
        bool holds;
        unsigned out;
    } own{holds, 0};
    warp_meet(mask, what, site, &own, [&](void** slot) {
        unsigned bits = 0;
        for (unsigned l = 0; l < 32; l++)
            if ((mask >> l & 1) && static_cast<Vote*>(slot[l])->holds) bits |= 1u << l;
        for (unsigned l = 0; l < 32; l++)
            if (mask >> l & 1) static_cast<Vote*>(slot[l])->out = bits;
    });
    return own.out;
}

}  // namespace emu
