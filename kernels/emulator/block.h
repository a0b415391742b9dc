// block.h: the state of the one block that an OS thread runs: its fibers, warps and barriers, the
// switch from one fiber to the next, and the error that ends a launch.
//
// One block runs at a time. Each of its CUDA threads is a fiber with a stack of its own; a fiber
// runs until it meets a barrier or a warp collective, so every interleaving is the scheduler's
// choice (launch.cpp) and a seed replays it. All state is per OS thread: launches from different OS
// threads are independent.
//
// This is a test double: it proves logic, not speed, and nothing of the memory model beyond what
// the schedules show.
#pragma once
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#if !defined(__x86_64__)
#error "the emulator switches stacks with x86-64 assembly"
#endif

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emu {

// A place in a kernel's source.
struct Site {
    const char* file;
    int line;
};
inline Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
#define EMU_SITE emu::Site site = emu::here()
inline const char* base(const char* file) {
    const char* slash = strrchr(file, '/');
    return slash ? slash + 1 : file;
}

// What the race checker needs to know about the running thread.
struct View {
    char *lo, *hi;  // this block's shared memory
    char* heap;     // device memory
    unsigned thread, block_epoch, warp_epoch;
    uint64_t block;  // linear block index
    bool on;
};
extern thread_local View view;

// ---- the switch: callee-saved registers and the stack pointer -------------------------------
extern "C" __attribute__((visibility("hidden"))) void emu_switch(void** save_sp, void* load_sp);
struct Context {
    void* sp = nullptr;
    void prepare(char* stack, size_t size, void (*entry)()) {
        void** top = reinterpret_cast<void**>(stack + size) - 1;  // entry sees rsp % 16 == 8
        top[0] = nullptr;
        top[-1] = reinterpret_cast<void*>(entry);
        for (int i = 2; i <= 7; i++) top[-i] = nullptr;
        sp = top - 7;
    }
    static void swap(Context& from, Context& to) { emu_switch(&from.sp, to.sp); }
};

// ---- the block ------------------------------------------------------------------------------
enum class Wait { ready, barrier, warp, done };

// An asynchronous copy on its way to shared memory.
struct Copy {
    void* to;
    const void* from;
    int bytes, valid;
    Site site;
};

struct Fiber {
    Context context;
    char* stack = nullptr;
    uint3 thread{};
    unsigned linear = 0;
    Wait state = Wait::done;
    const char* what = "";  // what it waits in, and where
    Site site{};
    int barrier = 0;
    std::vector<Copy> open;                 // issued, not yet committed
    std::vector<std::vector<Copy>> groups;  // committed groups, oldest first
    void* fake = nullptr;                   // AddressSanitizer's handle of this stack
};

// A warp collective that waits for the rest of its lanes.
struct Meet {
    unsigned mask, arrived;
    const char* what;
    Site site;
    void* slot[32];
};
struct Warp {
    std::vector<Meet> meets;
    unsigned epoch = 0;
};
struct Barrier {
    unsigned waiting = 0, expected = 0;
    Site site{};
};
struct Region {
    char *lo, *hi;
};

// Splitmix64: cheap to seed, as every launch does, and to draw from.
struct Random {
    using result_type = uint64_t;
    uint64_t state = 0;
    static constexpr uint64_t min() { return 0; }
    static constexpr uint64_t max() { return ~uint64_t(0); }
    uint64_t operator()() {
        uint64_t z = state += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }
};

struct Config {
    uint64_t seed = 0;                  // 0 in order, 1 reversed, others random
    size_t shared_bytes_max = 227 << 10;  // what a block may ask for
};
Config& config();

struct Block {
    static constexpr size_t kArena = 256 << 10, kGap = 128;
#if defined(__SANITIZE_ADDRESS__)
    static constexpr size_t kStack = 256 << 10;
#else
    static constexpr size_t kStack = 64 << 10;
#endif
    uint3 index{};
    dim3 threads, grid;
    Fiber* current = nullptr;
    std::vector<Fiber> fibers;
    std::vector<char*> stacks;
    std::vector<Warp> warps;
    Barrier barriers[16];
    const char* kernel = "";
    const std::function<void()>* body = nullptr;
    Context main;
    void* main_fake = nullptr;
    char* arena = nullptr;  // [ statics, gaps | ... | dynamic ][ a page that nobody may touch ]
    size_t statics_bytes = 0, dynamic_bytes = 0;
    std::vector<Region> regions;  // [0] is the dynamic one
    std::vector<std::pair<const void*, char*>> statics;  // by declaration
    Random random;
    bool left_fibers_behind = false;
    unsigned epoch = 0;
    uint64_t ldmatrix_phases = 0, ldmatrix_conflicts = 0;
    std::string error;

    size_t count() const { return size_t(threads.x) * threads.y * threads.z; }
    bool is_random() const { return config().seed >= 2; }
    ~Block();
};
extern thread_local Block* block;

// ---- errors: the first one of a launch is kept and ends it -----------------------------------
__attribute__((format(printf, 1, 2))) void report(const char* format, ...);
// Leaves the running fiber; one that is `finished` is never resumed.
void to_scheduler(bool finished);
#define EMU_FAIL(...) (emu::report(__VA_ARGS__), emu::to_scheduler(true), __builtin_unreachable())

}  // namespace emu
