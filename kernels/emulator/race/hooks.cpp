// hooks.cpp: where every load and store of a kernel arrives in race mode.
//
// The kernels are compiled with -fsanitize=thread, which puts a call before every load and store; the
// calls land here instead of in libtsan. The emulator itself is compiled without the flag and says
// what its atomics, copies and collectives touch. Stacks and constants are not looked at.
#include <memory>

#include "../heap.h"
#include "shadow.h"

namespace emu::race {

History& history() {
    static thread_local std::unique_ptr<History> history(new History);
    return *history;
}

static bool is_shared(const char* p) { return p >= view.lo && p < view.hi; }
static bool is_device(const char* p) { return p >= view.heap && p < view.heap + Heap::kBytes; }

static void dispatch(const Touch& touch) {
    if (is_shared(touch.at)) enter_shared(touch);
    else if (is_device(touch.at)) enter_device(touch);
}

// `align` is what the access takes for granted: a device ends a launch that breaks it.
static void hook(const void* address, size_t bytes, size_t align, Access access, const void* code) {
    const char* p = static_cast<const char*>(address);
    if (!view.on || !(is_shared(p) || is_device(p)) || !block->error.empty()) return;
    Touch touch{p, bytes, access, place_of(code)};
    // The thread ends here: what follows may be an instruction that ends the process.
    if (reinterpret_cast<uintptr_t>(p) % align)
        EMU_FAIL("thread %u at %s %s %zu bytes at %p, which is no multiple of %zu", view.thread, where(touch.place).c_str(),
                 verb(access), bytes, address, align);
    dispatch(touch);
}

}  // namespace emu::race

using emu::Access;
using emu::race::hook;

#define CODE __builtin_return_address(0)
#define HOOKS(n)                                                                   \
    void __tsan_read##n(void* p) { hook(p, n, n, Access::read, CODE); }            \
    void __tsan_write##n(void* p) { hook(p, n, n, Access::write, CODE); }          \
    void __tsan_volatile_read##n(void* p) { hook(p, n, n, Access::read, CODE); }   \
    void __tsan_volatile_write##n(void* p) { hook(p, n, n, Access::write, CODE); } \
    void __tsan_unaligned_read##n(void* p) { hook(p, n, 1, Access::read, CODE); }  \
    void __tsan_unaligned_write##n(void* p) { hook(p, n, 1, Access::write, CODE); }
extern "C" {
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16)
void __tsan_read_range(void* p, size_t n) { hook(p, n, 1, Access::read, CODE); }
void __tsan_write_range(void* p, size_t n) { hook(p, n, 1, Access::write, CODE); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
unsigned char __tsan_atomic8_load(const volatile unsigned char* p, int) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }

void emu_race_begin_launch() {
    auto& history = emu::race::history();
    history.stints.clear();
    if (history.next >> 31) {  // before the numbers run out
        emu::race::forget_shared_cells();
        emu::race::forget_device_cells();
        history = emu::race::History{};
    }
    history.launch = history.block = history.next;
}
void emu_race_begin_block() {
    auto& history = emu::race::history();
    history.block = history.next;
}
void emu_race_touch(const void* address, size_t bytes, int access, emu::Site site) {
    if (!emu::view.on || !emu::block->error.empty()) return;
    emu::race::dispatch({static_cast<const char*>(address), bytes, Access(access), emu::race::place_of(site)});
}
}
