// meet.cpp: see meet.h.
#include "meet.h"

namespace emu {

void block_wait(int id, unsigned expected, const char* what, Site site) {
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
        fiber.state = Wait::barrier;
        to_scheduler(false);
        return;
    }
    barrier.waiting = 0;
    if (id == 0) view.block_epoch = ++block->epoch;
    for (auto& other : block->fibers)
        if (other.state == Wait::barrier && other.barrier == id) other.state = Wait::ready;
}

// Orders memory for the race checker only when the whole warp is there.
void warp_wait(unsigned mask, Site site) {
    warp_meet(mask, "__syncwarp", site, nullptr, [&](void**) {
        unsigned w = block->current->linear >> 5;
        if (unsigned(__builtin_popcount(mask)) == std::min<size_t>(32, block->count() - size_t(w) * 32))
            view.warp_epoch = ++block->warps[w].epoch;
    });
}

void shuffle_bytes(unsigned mask, void* value, size_t bytes, unsigned from, const char* what, Site site) {
    struct Lane {
        void* value;
        uint64_t in;
        unsigned from;
    } own{value, 0, from};
    // Sizes that the compiler knows: this is where emulated time goes.
    auto move = [bytes](void* to, const void* from) { bytes == 4 ? memcpy(to, from, 4) : memcpy(to, from, 8); };
    move(&own.in, value);
    warp_meet(mask, what, site, &own, [&](void** slot) {
        for (unsigned l = 0; l < 32; l++) {
            if (!(mask >> l & 1)) continue;
            auto* lane = static_cast<Lane*>(slot[l]);
            if (!(mask >> lane->from & 1))
                EMU_FAIL("%s at %s:%d reads lane %u outside its mask %08x", what, base(site.file), site.line, lane->from, mask);
            move(lane->value, &static_cast<Lane*>(slot[lane->from])->in);
        }
    });
}

unsigned vote(unsigned mask, bool holds, const char* what, Site site) {
    struct Lane {
        bool holds;
        unsigned out;
    } own{holds, 0};
    warp_meet(mask, what, site, &own, [&](void** slot) {
        unsigned bits = 0;
        for (unsigned l = 0; l < 32; l++)
            if ((mask >> l & 1) && static_cast<Lane*>(slot[l])->holds) bits |= 1u << l;
        for (unsigned l = 0; l < 32; l++)
            if (mask >> l & 1) static_cast<Lane*>(slot[l])->out = bits;
    });
    return own.out;
}

}  // namespace emu
