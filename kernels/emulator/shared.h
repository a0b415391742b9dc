// shared.h: a block's shared memory. Statics grow from the front, each followed by a gap; the
// dynamic array ends at a page that nobody may touch. All of it is 0xFF (not a number) at the start
// of a block, so that what nobody wrote shows.
#pragma once
#include "block.h"
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace emu {

inline void mark(char* p, size_t bytes, bool usable) {
#if defined(__SANITIZE_ADDRESS__)
    if (usable) ASAN_UNPOISON_MEMORY_REGION(p, bytes);
    else ASAN_POISON_MEMORY_REGION(p, bytes);
#else
    (void)p, (void)bytes, (void)usable;
#endif
}

// The array of one declaration; every thread of the block gets the same.
inline char* static_shared(const void* key, size_t bytes) {
    auto known = block->statics.find(key);
    if (known != block->statics.end()) return known->second;
    char* p = block->arena + block->statics_bytes;
    block->statics_bytes = (block->statics_bytes + bytes + Block::kGap + 127) & ~size_t(127);
    if (block->statics_bytes + block->dynamic_bytes > config().shared_bytes_max)
        EMU_FAIL("shared memory exceeds %zu bytes", config().shared_bytes_max);
    block->regions.push_back({p, p + bytes});
    mark(p, bytes, true);
    return block->statics[key] = p;
}
inline unsigned char* dynamic_shared() { return reinterpret_cast<unsigned char*>(block->regions[0].lo); }

// Collective instructions check their addresses even without a sanitizer.
inline void check_shared(const void* p, size_t bytes, size_t align, const char* what, Site site) {
    const char* at = static_cast<const char*>(p);
    if (reinterpret_cast<uintptr_t>(p) % align)
        EMU_FAIL("%s at %s:%d: shared address not aligned to %zu", what, base(site.file), site.line, align);
    for (auto& region : block->regions)
        if (at >= region.lo && at + bytes <= region.hi) return;
    EMU_FAIL("%s at %s:%d: shared address out of bounds (dynamic offset %ld of %zu), thread %u", what, base(site.file),
             site.line, long(at - block->regions[0].lo), block->dynamic_bytes, block->current->linear);
}

}  // namespace emu
