// shared.cpp: see shared.h.
#include "shared.h"

namespace emu {

// What the block before used is poison again; the rest of the arena still is.
void prepare_shared() {
    Block& b = *block;
    auto poison = [&](char* from, char* to) {
        mark(from, size_t(to - from), true);
        memset(from, 0xFF, size_t(to - from));
        mark(from, size_t(to - from), false);
    };
    char* end = b.arena + Block::kArena;
    poison(b.arena, b.arena + b.statics_bytes);
    if (!b.regions.empty()) poison(b.regions[0].lo - Block::kGap, end);
    b.statics_bytes = 0;
    b.statics.clear();
    b.regions.clear();
    char* dynamic = end - ((b.dynamic_bytes + 127) & ~size_t(127));
    b.regions.push_back({dynamic, dynamic + b.dynamic_bytes});
    mark(dynamic, b.dynamic_bytes, true);
}

// The bytes behind each array, and in front of the dynamic one, must still hold the fill pattern.
void check_gaps() {
    Block& b = *block;
    char* end = b.arena + Block::kArena;
    for (auto& region : b.regions)
        for (char* p = region.hi; p < end && p < region.hi + Block::kGap; p++)
            if (*p != char(0xFF))
                return report("wrote %ld bytes past the end of a shared array of %ld bytes", long(p - region.hi) + 1,
                              long(region.hi - region.lo));
    for (char* p = b.regions[0].lo - Block::kGap; p < b.regions[0].lo; p++)
        if (*p != char(0xFF)) return report("wrote %ld bytes in front of the dynamic shared array", long(b.regions[0].lo - p));
}

char* static_shared(const void* key, size_t bytes, size_t align) {
    for (auto& known : block->statics)
        if (known.first == key) return known.second;
    char* p = block->arena + block->statics_bytes + align;
    block->statics_bytes = (block->statics_bytes + align + bytes + Block::kGap + 127) & ~size_t(127);
    if (block->statics_bytes + block->dynamic_bytes > config().shared_bytes_max)
        EMU_FAIL("shared memory exceeds %zu bytes", config().shared_bytes_max);
    block->regions.push_back({p, p + bytes});
    mark(p, bytes, true);
    block->statics.emplace_back(key, p);
    return p;
}

unsigned char* dynamic_shared() { return reinterpret_cast<unsigned char*>(block->regions[0].lo); }

void check_shared(const void* p, size_t bytes, size_t align, const char* what, Site site) {
    const char* at = static_cast<const char*>(p);
    if (reinterpret_cast<uintptr_t>(p) % align)
        EMU_FAIL("%s at %s:%d: shared address not aligned to %zu", what, base(site.file), site.line, align);
    for (auto& region : block->regions)
        if (at >= region.lo && at + bytes <= region.hi) return;
    EMU_FAIL("%s at %s:%d: shared address out of bounds (dynamic offset %ld of %zu), thread %u", what, base(site.file),
             site.line, long(at - block->regions[0].lo), block->dynamic_bytes, block->current->linear);
}

}  // namespace emu
