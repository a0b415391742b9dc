// shared.cpp: the cells of a block's shared memory. Nobody has written it when the block starts.
#include <algorithm>
#include <memory>

#include "shadow.h"

namespace emu::race {

static const Cells& cells() {
    static thread_local std::unique_ptr<Cell[]> all(new Cell[Block::kArena + Block::kArena / Cells::kLine]());
    static thread_local const Cells cells{all.get() + Block::kArena, all.get()};
    return cells;
}

// Which array a byte belongs to, or the nearest one in front of it.
static std::string place_in_arrays(const char* p) {
    const Region* nearest = &block->regions[0];
    for (auto& region : block->regions)
        if (region.lo <= p && (region.lo > nearest->lo || nearest->lo > p)) nearest = &region;
    char text[100];
    snprintf(text, sizeof text, "byte %ld of the %s shared array of %ld bytes", long(p - nearest->lo),
             nearest == &block->regions[0] ? "dynamic" : "static", long(nearest->hi - nearest->lo));
    return text;
}
static bool inside_an_array(const char* p, size_t bytes) {
    for (auto& region : block->regions)
        if (p >= region.lo && p + bytes <= region.hi) return true;
    return false;
}

void enter_shared(const Touch& touch) {
    if (!inside_an_array(touch.at, touch.bytes))
        return report("thread %u at %s %s %zu bytes outside every shared array: %s", view.thread, where(touch.place).c_str(),
                      verb(touch.access), touch.bytes, place_in_arrays(touch.at).c_str());
    History& history = race::history();
    uint32_t now = history.now();
    Found found = enter(history, cells(), size_t(touch.at - view.lo), touch, history.block, now, true);
    if (found.clash != Clash::none)
        report_clash(found.clash, *found.cell, touch, "shared memory", place_in_arrays(view.lo + found.offset));
}

void forget_shared_cells() { std::fill(cells().bytes, cells().lines + Block::kArena / Cells::kLine, Cell{}); }

}  // namespace emu::race
