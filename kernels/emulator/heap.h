// heap.h: device memory. Allocations lie in one reserved range, each between guard zones, and are
// 0xFF (not a number) until somebody writes them.
#pragma once
#include "block.h"

namespace emu {

struct Heap {
    static constexpr size_t kBytes = size_t(4) << 30, kGuard = 256;
    char* start = nullptr;
    size_t used = 0;
    std::map<char*, size_t> live;  // address, bytes
};
Heap& heap();

// Reports the first guard zone that a kernel wrote into.
void check_guards();

}  // namespace emu
