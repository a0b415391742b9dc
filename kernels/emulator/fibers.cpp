// fibers.cpp: the threads of a block as fibers of one OS thread, and which of them runs next.
#include "fibers.h"

#include <algorithm>
#include <sys/mman.h>

#include "shared.h"
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

// A jump, not a return: the processor would take the return for that of the last call.
asm(R"(.text
.globl emu_switch
.hidden emu_switch
.type emu_switch,@function
emu_switch:
  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
  pop %rcx
  jmp *%rcx
)");

namespace emu {

thread_local View view{};
thread_local Block* block = nullptr;

const uint3& thread_index() { return block->current->thread; }
const uint3& block_index() { return block->index; }
const dim3& block_size() { return block->threads; }
const dim3& grid_size() { return block->grid; }
unsigned lane() { return block->current->linear & 31; }

void to_scheduler(bool finished) {
    Fiber& fiber = *block->current;
    if (finished) fiber.state = Wait::done;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(finished ? nullptr : &fiber.fake, nullptr, 0);
#endif
    Context::swap(fiber.context, block->main);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fiber.fake, nullptr, nullptr);
#endif
}

static void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
    (*block->body)();
    Fiber& fiber = *block->current;
    size_t left = fiber.open.size();
    for (auto& group : fiber.groups) left += group.size();
    if (left && block->error.empty()) report("thread %u ends with %zu cp.async that nobody waited for", fiber.linear, left);
    to_scheduler(true);
}

static void resume(Fiber& fiber) {
    block->current = &fiber;
    view.thread = fiber.linear;
    view.block_epoch = block->epoch;
    view.warp_epoch = block->warps[fiber.linear >> 5].epoch;
    view.on = true;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&block->main_fake, fiber.stack, Block::kStack);
#endif
    Context::swap(block->main, fiber.context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(block->main_fake, nullptr, nullptr);
#endif
    view.on = false;
}

char* reserve(size_t bytes) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) abort();
    return static_cast<char*>(p);
}

Block::~Block() {
    mark(arena, kArena, true);
    munmap(arena, kArena + 4096);
    for (char* stack : stacks) {
        mark(stack, kStack, true);
        munmap(stack - 4096, kStack + 4096);
    }
    block = nullptr;
}

// What a fiber that ended well leaves poisoned is near the top: the frames that never return. One
// that was left behind by an error may have poisoned all of its stack.
static void unpoison_stacks() {
    constexpr size_t kTop = 16 << 10;
    for (char* stack : block->stacks) {
        if (block->left_fibers_behind) mark(stack, Block::kStack, true);
        else mark(stack + Block::kStack - kTop, kTop, true);
    }
    block->left_fibers_behind = false;
}

void prepare_fibers() {
    Block& b = *block;
    size_t count = b.count();
    unpoison_stacks();
    while (b.stacks.size() < count) {
        char* p = reserve(Block::kStack + 4096);
        mprotect(p, 4096, PROT_NONE);  // overflow faults
        b.stacks.push_back(p + 4096);
    }
    b.fibers.resize(count);
    for (unsigned t = 0; t < count; t++) {
        Fiber& fiber = b.fibers[t];
        fiber.thread = {t % b.threads.x, t / b.threads.x % b.threads.y, t / (b.threads.x * b.threads.y)};
        fiber.linear = t;
        fiber.stack = b.stacks[t];
        // Stacks lie a power of two apart: shifted against each other, their tops share the cache.
        size_t shift = t * 320 % 8192;
        fiber.what = "", fiber.site = Site{};
        fiber.state = Wait::ready;
        fiber.open.clear();
        fiber.groups.clear();
        fiber.context.prepare(fiber.stack, Block::kStack - shift, fiber_main);
    }
}

static void report_stuck() {
    std::map<std::string, int> where;
    for (auto& fiber : block->fibers) {
        char line[256];
        if (fiber.state == Wait::done) snprintf(line, sizeof line, "have exited");
        else snprintf(line, sizeof line, "wait in %s at %s:%d", fiber.what, base(fiber.site.file), fiber.site.line);
        where[line]++;
    }
    std::string text = "deadlock:";
    for (auto& place : where) text += " " + std::to_string(place.second) + " threads " + place.first + ";";
    report("%s", text.c_str());
}

// Which thread runs next is the emulator's choice. Seed 0: warp by warp, each as far as it can go;
// 1: the same from the last thread down; others: warps and lanes in random order, a warp running
// ahead of the others for a random while.
void schedule() {
    size_t count = block->count(), warps = (count + 31) / 32;
    uint64_t seed = config().seed;
    std::vector<unsigned> order(warps), lanes(32);
    auto arrange = [&](std::vector<unsigned>& v) {
        for (size_t i = 0; i < v.size(); i++) v[i] = unsigned(seed == 1 ? v.size() - 1 - i : i);
        if (seed >= 2) std::shuffle(v.begin(), v.end(), block->random);
    };
    for (;;) {
        bool ran = false;
        arrange(order);
        for (unsigned w : order)
            for (bool again = true; again;) {
                again = false;
                arrange(lanes);
                for (unsigned l : lanes) {
                    if (w * 32 + l >= count || block->fibers[w * 32 + l].state != Wait::ready) continue;
                    resume(block->fibers[w * 32 + l]);
                    if (!block->error.empty()) return;
                    again = ran = true;
                }
                if (seed >= 2 && block->random() % 8 == 0) break;
            }
        if (ran) continue;
        for (auto& fiber : block->fibers)
            if (fiber.state != Wait::done) return report_stuck();
        return;
    }
}

}  // namespace emu
