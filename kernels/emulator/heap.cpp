// heap.cpp: see heap.h. Space is never used twice before the heap is empty again, so that a stale
// pointer meets poison rather than somebody else's numbers.
#include "heap.h"

#include <sys/mman.h>

#include "shared.h"

namespace emu {

Heap& heap() {
    static thread_local Heap heap;
    if (!heap.start) {
        void* p = mmap(nullptr, Heap::kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) abort();
        heap.start = static_cast<char*>(p);
    }
    return heap;
}

static bool guard_holds(const char* p) {
    for (size_t i = 0; i < Heap::kGuard; i++)
        if (p[i] != char(0xFF)) return false;
    return true;
}

void check_guards() {
    for (auto& allocation : heap().live) {
        const char *start = allocation.first, *end = start + allocation.second;
        mark(const_cast<char*>(start) - Heap::kGuard, Heap::kGuard, true);
        mark(const_cast<char*>(end), Heap::kGuard, true);
        bool before = guard_holds(start - Heap::kGuard), after = guard_holds(end);
        mark(const_cast<char*>(start) - Heap::kGuard, Heap::kGuard, false);
        mark(const_cast<char*>(end), Heap::kGuard, false);
        if (before && after) continue;
        report("wrote %s device memory of %zu bytes", before ? "past the end of" : "in front of", allocation.second);
        return;
    }
}

}  // namespace emu

extern "C" {
// Null when the heap is full. The end, not the start, of the bytes is followed by the guard zone to
// the byte; the start is aligned to 256.
void* emu_allocate(size_t bytes) {
    using emu::Heap;
    Heap& heap = emu::heap();
    size_t room = (bytes + 2 * Heap::kGuard + 255) & ~size_t(255);
    if (room < bytes || heap.used + room > Heap::kBytes) return nullptr;
    char* start = heap.start + heap.used;
    heap.used += room;
    emu::mark(start, room, true);
    memset(start, 0xFF, room);
    emu::mark(start, room, false);
    emu::mark(start + Heap::kGuard, bytes, true);
    heap.live[start + Heap::kGuard] = bytes;
    return start + Heap::kGuard;
}
void emu_free(void* address) {
    emu::Heap& heap = emu::heap();
    auto known = heap.live.find(static_cast<char*>(address));
    if (known == heap.live.end()) return;
    emu::mark(known->first, known->second, false);
    heap.live.erase(known);
    if (heap.live.empty()) {
        madvise(heap.start, heap.used, MADV_DONTNEED);
        heap.used = 0;
    }
}
}
