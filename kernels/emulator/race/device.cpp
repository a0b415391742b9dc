// device.cpp: the cells and the states of device memory. A byte is nobody's, unwritten or written;
// the host's uploads count as writes. Cells are about one launch: the next one starts after it.
//
// States and cells cover the whole heap, in address space that costs nothing until a byte near it is
// touched.
#include <sys/mman.h>

#include "../heap.h"
#include "shadow.h"

namespace emu::race {

struct Maps {
    uint8_t* states;
    Cells cells;
};
template <class T>
static T* reserve(size_t count) {
    void* p = mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) abort();
    return static_cast<T*>(p);
}
static Maps& maps() {
    static thread_local Maps maps{};
    if (!maps.states)
        maps = {reserve<uint8_t>(Heap::kBytes), {reserve<Cell>(Heap::kBytes / Cells::kLine), reserve<Cell>(Heap::kBytes)}};
    return maps;
}

static std::string place_in_allocations(const char* p) {
    auto& live = heap().live;
    auto after = live.upper_bound(const_cast<char*>(p));
    char text[100] = "nothing is allocated in front of it";
    if (after != live.begin()) {
        auto& nearest = *std::prev(after);
        snprintf(text, sizeof text, "byte %ld of an allocation of %zu bytes", long(p - nearest.first), nearest.second);
    }
    if (after != live.end() && after->first - p <= long(Heap::kGuard))
        snprintf(text, sizeof text, "%ld bytes in front of an allocation of %zu bytes", long(after->first - p), after->second);
    return text;
}

static bool states_allow(const Touch& touch, uint8_t* states) {
    for (size_t i = 0; i < touch.bytes; i++) {
        if (states[i] == nobodys) {
            report("thread %u at %s %s %zu bytes outside every allocation of device memory: %s", view.thread,
                   where(touch.place).c_str(), verb(touch.access), touch.bytes, place_in_allocations(touch.at + i).c_str());
            return false;
        }
        if (touch.reads() && states[i] == unwritten) {
            report("thread %u at %s reads device memory that nobody wrote (%s)", view.thread, where(touch.place).c_str(),
                   place_in_allocations(touch.at + i).c_str());
            return false;
        }
    }
    if (touch.writes()) memset(states, written, touch.bytes);
    return true;
}

void enter_device(const Touch& touch) {
    Maps& maps = race::maps();
    size_t offset = size_t(touch.at - view.heap);
    if (!states_allow(touch, maps.states + offset)) return;
    History& history = race::history();
    uint32_t now = history.now();
    Found found = enter(history, maps.cells, offset, touch, history.launch, now, false);
    if (found.clash != Clash::none)
        report_clash(found.clash, *found.cell, touch, "device memory", place_in_allocations(view.heap + found.offset));
}

static void discard(void* p, size_t bytes) { madvise(p, bytes, MADV_DONTNEED); }

void forget_device_cells() {
    Cells& cells = maps().cells;
    discard(cells.lines, Heap::kBytes / Cells::kLine * sizeof(Cell));
    discard(cells.bytes, Heap::kBytes * sizeof(Cell));
}

}  // namespace emu::race

extern "C" {
void emu_race_heap(const void* address, size_t bytes, int state) {
    memset(emu::race::maps().states + (static_cast<const char*>(address) - emu::heap().start), state, bytes);
}
void emu_race_empty_heap(size_t used) {
    emu::race::discard(emu::race::maps().states, used);
    emu::race::forget_device_cells();
}
}
