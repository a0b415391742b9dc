// race.cpp: finds unordered accesses to shared memory, and reads of bytes that nobody wrote.
//
// The kernels are compiled with -fsanitize=thread, which puts a call before every load and store;
// the calls land here instead of in libtsan. This file is compiled without the flag. Two accesses to
// a byte by different threads, one of them a write, must have a __syncthreads() between them, or a
// full __syncwarp() when both are of one warp.
#include <dlfcn.h>
#include <memory>

#include "block.h"

using namespace emu;

namespace {
struct Place {
    uint32_t block_epoch, warp_epoch;
    uint16_t thread;
    void* code;
    Site site;
};
struct Cell {
    uint64_t run;
    Place write, read;
    bool written, was_read, many;
};
constexpr size_t kBytes = Block::kArena;
thread_local std::unique_ptr<Cell[]> cells;
thread_local uint64_t run = 0;

std::string where(void* code, Site site) {
    if (site.file) return base(site.file) + (":" + std::to_string(site.line));
    Dl_info info;
    if (!dladdr(code, &info) || !info.dli_fname) return "?";
    char command[600], line[400] = "?";
    size_t offset = size_t(static_cast<char*>(code) - static_cast<char*>(info.dli_fbase)) - 1;
    snprintf(command, sizeof command, "addr2line -e '%s' 0x%zx 2>/dev/null", info.dli_fname, offset);
    if (FILE* p = popen(command, "r")) {
        if (!fgets(line, sizeof line, p)) strcpy(line, "?");
        pclose(p);
    }
    std::string text = base(line);
    return text.substr(0, text.find_first_of(" \n"));
}
bool unordered(const Place& a) {
    return a.block_epoch == view.block_epoch && a.thread != view.thread &&
           (a.thread / 32 != view.thread / 32 || a.warp_epoch == view.warp_epoch);
}
void conflict(const char* mine, const char* theirs, const Place& a, const char* p, void* code, Site site) {
    report("shared memory race: thread %u %s at %s what thread %u %s at %s, no barrier between (arena offset %ld)", view.thread,
           mine, where(code, site).c_str(), a.thread, theirs, where(a.code, a.site).c_str(), long(p - view.lo));
}
void shared_access(const char* p, size_t bytes, Access access, void* code, Site site) {
    for (; bytes--; p++) {
        Cell& cell = cells[size_t(p - view.lo)];
        if (cell.run != run) cell = Cell{run, {}, {}, false, false, false};
        Place now{view.block_epoch, view.warp_epoch, uint16_t(view.thread), code, site};
        bool write = access != Access::read;
        if (access == Access::atomic) {  // atomics may meet each other
            cell.write = now, cell.write.thread = 0xffff, cell.written = true;
            continue;
        }
        if (cell.written && cell.write.thread != 0xffff && unordered(cell.write))
            return conflict(write ? "overwrites" : "reads", "wrote", cell.write, p, code, site);
        if (write) {
            if (cell.was_read && (unordered(cell.read) || (cell.many && cell.read.block_epoch == view.block_epoch)))
                return conflict("overwrites", "reads", cell.read, p, code, site);
            cell.write = now, cell.written = true, cell.was_read = cell.many = false;
        } else {
            if (!cell.written)
                return report("thread %u at %s reads shared memory that was never written (arena offset %ld)", view.thread,
                              where(code, site).c_str(), long(p - view.lo));
            cell.many = cell.was_read && cell.read.block_epoch == view.block_epoch &&
                        (cell.many || cell.read.thread / 32 != view.thread / 32);
            cell.read = now, cell.was_read = true;
        }
    }
}
void access(const void* address, size_t bytes, Access access, void* code, Site site = {}) {
    if (!view.on || !block->error.empty()) return;
    const char* p = static_cast<const char*>(address);
    if (p >= view.lo && p < view.hi) shared_access(p, bytes, access, code, site);
}
}  // namespace

#define CODE __builtin_return_address(0)
#define HOOKS(n)                                                                   \
    void __tsan_read##n(void* p) { access(p, n, Access::read, CODE); }             \
    void __tsan_write##n(void* p) { access(p, n, Access::write, CODE); }           \
    void __tsan_unaligned_read##n(void* p) { access(p, n, Access::read, CODE); }   \
    void __tsan_unaligned_write##n(void* p) { access(p, n, Access::write, CODE); } \
    void __tsan_volatile_read##n(void* p) { access(p, n, Access::read, CODE); }    \
    void __tsan_volatile_write##n(void* p) { access(p, n, Access::write, CODE); }
extern "C" {
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16)
void __tsan_read_range(void* p, size_t n) { access(p, n, Access::read, CODE); }
void __tsan_write_range(void* p, size_t n) { access(p, n, Access::write, CODE); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
unsigned char __tsan_atomic8_load(const volatile unsigned char* p, int) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }

void emu_race_begin_launch() {}
void emu_race_begin_block() {
    if (!cells) cells.reset(new Cell[kBytes]());
    run++;
}
void emu_race_touch(const void* address, size_t bytes, int kind, Site site) {
    access(address, bytes, Access(kind), __builtin_return_address(0), site);
}
}
