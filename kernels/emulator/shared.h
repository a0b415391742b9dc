// shared.h: a block's shared memory. Statics grow from the front, each followed by a gap; the
// dynamic array ends at a page that nobody may touch. All of it is 0xFF (not a number) at the start
// of a block, so that what nobody wrote shows.
#pragma once
#include "block.h"
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace emu {

// Tells AddressSanitizer, where it looks on, which memory is somebody's.
inline void mark(char* p, size_t bytes, bool usable) {
#if defined(__SANITIZE_ADDRESS__)
    if (usable) ASAN_UNPOISON_MEMORY_REGION(p, bytes);
    else ASAN_POISON_MEMORY_REGION(p, bytes);
#else
    (void)p, (void)bytes, (void)usable;
#endif
}

// The array of one declaration; every thread of the block gets the same. It lies at a multiple of
// `align` (at most 64) that is no multiple of twice as much: more is nobody's promise.
char* static_shared(const void* key, size_t bytes, size_t align);
unsigned char* dynamic_shared();

// Collective instructions check their addresses even without a sanitizer.
void check_shared(const void* p, size_t bytes, size_t align, const char* what, Site site);

// Before and after a block.
void prepare_shared();
void check_gaps();

}  // namespace emu
