// launch.cpp: the scheduler, and the C interface through which the test program launches.
#include <algorithm>
#include <csignal>
#include <memory>
#include <sys/mman.h>
#include <unistd.h>

#include "fibers.h"
#include "heap.h"
#include "registry.h"
#include "shared.h"
#include "touch.h"

namespace emu {

Config& config() {
    static thread_local Config config;
    return config;
}
std::map<std::string, Entry>& registry() {
    static std::map<std::string, Entry> registry;
    return registry;
}

void report(const char* format, ...) {
    if (!block->error.empty()) return;
    char head[200], text[1024];
    snprintf(head, sizeof head, "kernel %s, block (%u,%u,%u): ", block->kernel, block->index.x, block->index.y, block->index.z);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    block->error = std::string(head) + text;
    block->left_fibers_behind = true;
}

static void run_block(uint64_t linear) {
    Block& b = *block;
    b.warps.assign((b.count() + 31) / 32, Warp{});
    for (auto& barrier : b.barriers) barrier = Barrier{};
    b.epoch = 0;
    prepare_shared();
    view.lo = b.arena, view.hi = b.arena + Block::kArena, view.block = linear;
    view.heap = heap().start;
    if (emu_race_begin_block) emu_race_begin_block();
    prepare_fibers();
    schedule();
    mark(b.arena, Block::kArena, true);
    if (b.error.empty()) check_gaps();
}

#if !defined(__SANITIZE_ADDRESS__)
// A wild pointer still ends the process, but says whose it was.
static void on_fault(int signal_number, siginfo_t* info, void*) {
    if (block && view.on) {
        char line[400];
        char* at = static_cast<char*>(info->si_addr);
        const char* kind = info->si_code == SI_KERNEL ? "misaligned or impossible address, reported as"
                           : at >= block->arena && at < block->arena + Block::kArena + 4096 ? "shared memory overrun"
                           : at >= block->current->stack - 4096 && at < block->current->stack ? "stack overflow"
                                                                                                : "bad address";
        int n = snprintf(line, sizeof line, "kernel %s, block (%u,%u,%u), thread %u: %s %p after %s at %s:%d\n", block->kernel,
                         block->index.x, block->index.y, block->index.z, block->current->linear, kind, static_cast<void*>(at),
                         *block->current->what ? block->current->what : "start",
                         block->current->site.file ? base(block->current->site.file) : "?", block->current->site.line);
        if (write(2, line, size_t(n)) < 0) _exit(1);
    }
    signal(signal_number, SIG_DFL);
}
static void catch_faults() {
    stack_t own{};
    own.ss_sp = reserve(65536), own.ss_size = 65536;
    sigaltstack(&own, nullptr);
    struct sigaction action {};
    action.sa_sigaction = on_fault, action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, nullptr);
    sigaction(SIGBUS, &action, nullptr);
}
#else
static void catch_faults() {}
#endif

static void ensure_block() {
    static thread_local std::unique_ptr<Block> state;
    if (!state) {
        state = std::make_unique<Block>();
        catch_faults();
        state->arena = reserve(Block::kArena + 4096);
        memset(state->arena, 0xFF, Block::kArena);
        mprotect(state->arena + Block::kArena, 4096, PROT_NONE);
    }
    block = state.get();
}

static void launch(const char* name, dim3 grid, dim3 threads, size_t shared, const std::function<void()>& body) {
    Block& b = *block;
    b.threads = threads, b.grid = grid, b.dynamic_bytes = shared, b.body = &body;
    b.kernel = name, b.error.clear(), b.index = {0, 0, 0};
    b.random = {config().seed};
    uint64_t count = b.count(), blocks = uint64_t(grid.x) * grid.y * grid.z;
    if (count == 0 || count > 1024 || blocks == 0 || grid.y > 65535 || grid.z > 65535 || threads.z > 64)
        return report("a grid of (%u,%u,%u) blocks of (%u,%u,%u) threads", grid.x, grid.y, grid.z, threads.x, threads.y, threads.z);
    if (shared > config().shared_bytes_max)
        return report("%zu bytes of shared memory, %zu at most", shared, config().shared_bytes_max);
    std::vector<uint64_t> order(blocks);
    for (uint64_t i = 0; i < blocks; i++) order[i] = config().seed == 1 ? blocks - 1 - i : i;
    if (b.is_random()) std::shuffle(order.begin(), order.end(), b.random);
    if (emu_race_begin_launch) emu_race_begin_launch();
    for (uint64_t i : order) {
        b.index = {unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / (uint64_t(grid.x) * grid.y))};
        run_block(i);
        if (!b.error.empty()) return;
    }
    check_guards();
}

}  // namespace emu

extern "C" {
void emu_set_seed(uint64_t seed) { emu::config().seed = seed; }
void emu_set_shared_bytes_max(size_t bytes) { emu::config().shared_bytes_max = bytes; }
const char* emu_last_error() { return emu::block ? emu::block->error.c_str() : ""; }
void emu_ldmatrix_statistics(uint64_t* phases, uint64_t* conflicts) {
    emu::ensure_block();
    *phases = emu::block->ldmatrix_phases, *conflicts = emu::block->ldmatrix_conflicts;
    emu::block->ldmatrix_phases = emu::block->ldmatrix_conflicts = 0;
}
// 0: ran. 1: see emu_last_error. `kinds` has a letter an argument (registry.h).
int emu_launch(const char* name, const unsigned grid[3], const unsigned threads[3], size_t shared, void** arguments,
               const char* kinds) {
    emu::ensure_block();
    emu::block->error.clear();
    emu::block->kernel = name;
    auto found = emu::registry().find(name);
    if (found == emu::registry().end()) {
        emu::report("no kernel has this name");
    } else if (found->second.kinds != kinds) {
        emu::report("takes arguments %s, was given %s (p: pointer, u: 4-byte integer, f: float, q: 8-byte integer)",
                    found->second.kinds.c_str(), kinds);
    } else {
        auto call = found->second.call;
        emu::launch(found->first.c_str(), {grid[0], grid[1], grid[2]}, {threads[0], threads[1], threads[2]}, shared,
                    [=] { call(arguments); });
    }
    return emu::block->error.empty() ? 0 : 1;
}
}
