// touch.h: what the race checker (race/) is told. It is linked in race mode alone; elsewhere its
// functions are null.
#pragma once
#include "block.h"

namespace emu {

enum class Access {
    read,
    once,  // a read past the cache that sees what other threads write
    write,
    atomic,
    issue,  // an asynchronous copy may write from now on
    land,   // and was waited for
};
// What the race checker knows about a byte of device memory.
enum State : unsigned char { nobodys, unwritten, written };
}  // namespace emu

extern "C" {
__attribute__((weak)) void emu_race_begin_launch();
__attribute__((weak)) void emu_race_begin_block();
__attribute__((weak)) void emu_race_touch(const void* address, size_t bytes, int access, emu::Site site);
__attribute__((weak)) void emu_race_heap(const void* address, size_t bytes, int state);
__attribute__((weak)) void emu_race_empty_heap(size_t used);
}

namespace emu {

inline void touch(const void* address, size_t bytes, Access access, Site site) {
    if (emu_race_touch) emu_race_touch(address, bytes, int(access), site);
}

}  // namespace emu
