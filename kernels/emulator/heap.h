// heap.h: device memory. Allocations lie far apart in one reserved range, each between guard zones,
// and are 0xFF (not a number) until somebody writes them.
#pragma once
#include "block.h"

namespace emu {

struct Heap {
    // What is reserved; a byte that nobody touches costs nothing.
    static constexpr size_t kBytes = size_t(1) << 30;
    // 0xFF on both sides of an allocation, checked after every launch.
    static constexpr size_t kGuard = 4 << 10;
    // What separates two allocations: so far a kernel may stray and still be told, where the race
    // checker or AddressSanitizer looks on.
    static constexpr size_t kApart = 64 << 10;
    char* start = nullptr;
    size_t used = 0;
    std::map<char*, size_t> live;  // address, bytes
};
Heap& heap();

// Reports the first guard zone that a kernel wrote into.
void check_guards();

}  // namespace emu
