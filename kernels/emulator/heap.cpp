// heap.cpp: see heap.h. Space is never used twice before the heap is empty again, so that a stale
// pointer meets nobody's memory rather than somebody else's numbers.
#include "heap.h"

#include <sys/mman.h>

#include "shared.h"
#include "touch.h"

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

static void set_state(const void* address, size_t bytes, State state) {
    if (emu_race_heap) emu_race_heap(address, bytes, state);
}

static bool guard_holds(char* p) {
    mark(p, Heap::kGuard, true);
    bool holds = p[0] == char(0xFF) && !memcmp(p, p + 1, Heap::kGuard - 1);
    mark(p, Heap::kGuard, false);
    return holds;
}

void check_guards() {
    for (auto& allocation : heap().live) {
        bool before = guard_holds(allocation.first - Heap::kGuard), after = guard_holds(allocation.first + allocation.second);
        if (before && after) continue;
        report("wrote %s device memory of %zu bytes", before ? "past the end of" : "in front of", allocation.second);
        return;
    }
}

}  // namespace emu

extern "C" {
// Null when the heap is full. The start is aligned to 256; the guard zone follows the end to the
// byte.
void* emu_allocate(size_t bytes) {
    using emu::Heap;
    Heap& heap = emu::heap();
    size_t room = (bytes + 2 * Heap::kGuard + Heap::kApart + 255) & ~size_t(255);
    if (room < bytes || heap.used + room > Heap::kBytes) return nullptr;
    char *space = heap.start + heap.used, *start = space + Heap::kGuard;
    heap.used += room;
    emu::mark(space, room, true);
    memset(space, 0xFF, bytes + 2 * Heap::kGuard);
    emu::mark(space, room, false);
    emu::mark(start, bytes, true);
    emu::set_state(start, bytes, emu::unwritten);
    heap.live[start] = bytes;
    return start;
}
void emu_free(void* address) {
    emu::Heap& heap = emu::heap();
    auto known = heap.live.find(static_cast<char*>(address));
    if (known == heap.live.end()) return;
    emu::mark(known->first, known->second, false);
    emu::set_state(known->first, known->second, emu::nobodys);
    heap.live.erase(known);
    if (!heap.live.empty()) return;
    madvise(heap.start, heap.used, MADV_DONTNEED);
    if (emu_race_empty_heap) emu_race_empty_heap(heap.used);
    heap.used = 0;
}
// The host has written bytes of an allocation.
void emu_host_wrote(const void* address, size_t bytes) { emu::set_state(address, bytes, emu::written); }
// What lies there counts as never written.
void emu_forget(void* address, size_t bytes) {
    memset(address, 0xFF, bytes);
    emu::set_state(address, bytes, emu::unwritten);
}
}
