// shadow.h: who touched a byte last, and whether a barrier lies between that and now.
//
// The order that counts: one thread's own accesses; a __syncthreads() between two threads of a block;
// a full __syncwarp() between two threads of a warp. Nothing else orders memory: not a shuffle, not a
// vote, not the schedule that the emulator happened to choose, and between blocks nothing at all.
#pragma once
#include <algorithm>

#include "../touch.h"

namespace emu::race {

// What one thread does between two of its barriers. Numbered from 1 on, so that a cell can name it.
struct Stint {
    uint32_t block, block_epoch, warp_epoch;
    uint32_t thread;
};

// One side of a cell: the last stint that touched it so, and where in the source.
struct Side {
    uint32_t stint = 0;
    uint32_t mark = 0;  // flags, and below them a place (see Places in hooks.cpp)
};
// Of the threads that touched the byte before the last one did, some are as close as these:
constexpr uint32_t kLanes = 1u << 31;   // of its warp, no barrier between
constexpr uint32_t kWarps = 1u << 30;   // of its block, no barrier between
constexpr uint32_t kBlocks = 1u << 29;  // of other blocks
constexpr uint32_t kAtomic = 1u << 28;  // written by atomics alone
constexpr uint32_t kFlying = 1u << 27;  // a cp.async that nobody has waited for
constexpr uint32_t kPlace = kFlying - 1;
// In a line's cell, on the write's side: its bytes have cells of their own (see Cells).
constexpr uint32_t kSplit = kAtomic | kFlying;

struct Cell {
    Side write, read;
};

// The stints of the running launch; older ones are numbers below `launch`.
struct History {
    std::vector<Stint> stints;
    uint32_t launch = 1, block = 1, next = 1;  // first stint of this launch, of this block; the next one
    struct {
        uint32_t stint, block_epoch, warp_epoch;
    } own[1024] = {};  // by thread of the running block

    const Stint& at(uint32_t stint) const { return stints[stint - launch]; }
    uint32_t now() {
        auto& mine = own[view.thread];
        if (mine.stint < block || mine.block_epoch != view.block_epoch || mine.warp_epoch != view.warp_epoch) {
            mine = {next++, view.block_epoch, view.warp_epoch};
            stints.push_back({uint32_t(view.block), view.block_epoch, view.warp_epoch, view.thread});
        }
        return mine.stint;
    }
};

// Whether something that `side` stands for has no barrier between itself and stint `now`.
inline bool unordered(const History& history, const Side& side, uint32_t now) {
    const Stint &then = history.at(side.stint), &mine = history.at(now);
    if ((side.mark & kBlocks) || then.block != mine.block) return true;
    if (then.block_epoch != mine.block_epoch) return false;
    if ((side.mark & kWarps) || then.thread / 32 != mine.thread / 32) return true;
    if (then.warp_epoch != mine.warp_epoch) return false;
    return (side.mark & kLanes) || then.thread != mine.thread;
}

// `now` does what `side` stands for, too.
inline void join(const History& history, Side& side, uint32_t now, uint32_t place) {
    if (side.stint == now) return;
    const Stint &then = history.at(side.stint), &mine = history.at(now);
    uint32_t flags = side.mark & ~kPlace;
    if (then.block != mine.block) flags |= kBlocks;
    else if (then.block_epoch != mine.block_epoch) flags &= ~(kLanes | kWarps);
    else if (then.thread / 32 != mine.thread / 32) flags |= kWarps;
    else if (then.warp_epoch != mine.warp_epoch) flags &= ~kLanes;
    else flags |= kLanes;
    side = {now, flags | place};
}

enum class Clash { none, with_write, with_read, with_copy, stale, unwritten };

// Enters an access into a cell whose stints count from `first` on, or says what it clashes with.
inline Clash enter_cell(const History& history, Cell& cell, uint32_t first, uint32_t now, uint32_t place, Access access) {
    bool written = cell.write.stint >= first, was_read = cell.read.stint >= first;
    if (access == Access::land) {  // nobody came near since the copy was issued
        cell = {{now, place}, {}};
        return Clash::none;
    }
    if (written) {
        if (cell.write.mark & kFlying) return Clash::with_copy;
        bool both_atomic = access == Access::atomic && (cell.write.mark & kAtomic);
        if (!both_atomic && unordered(history, cell.write, now)) return Clash::with_write;
    }
    switch (access) {
        case Access::once:
            if (written) return Clash::stale;
            [[fallthrough]];
        case Access::read:
            if (was_read) join(history, cell.read, now, place);
            else cell.read = {now, place};
            return Clash::none;
        default:
            break;
    }
    if (was_read && unordered(history, cell.read, now)) return Clash::with_read;
    if (access == Access::atomic) {  // the reads stay: an atomic of another thread may be nearer to them
        if (written && (cell.write.mark & kAtomic)) join(history, cell.write, now, place);
        else cell.write = {now, place | kAtomic};
    } else {
        cell = {{now, place | (access == Access::issue ? kFlying : 0)}, {}};
    }
    return Clash::none;
}

// An access on its way into the cells.
struct Touch {
    const char* at;
    size_t bytes;
    Access access;
    uint32_t place;

    bool reads() const { return access == Access::read || access == Access::once || access == Access::atomic; }
    bool writes() const { return access != Access::read && access != Access::once; }
};

// The cells of a memory: one for each line of 16 bytes, since most accesses are of so many; and one
// for each byte of a line that was touched in parts.
struct Cells {
    static constexpr size_t kLine = 16;
    Cell *lines, *bytes;
};
struct Found {
    Clash clash = Clash::none;
    const Cell* cell = nullptr;
    size_t offset = 0;
};

// Enters an access that starts at `offset` of the memory. Stints count from `first` on; with
// `starts_unwritten`, what they have not written must not be read.
inline Found enter(const History& history, const Cells& cells, size_t offset, const Touch& touch, uint32_t first, uint32_t now,
                   bool starts_unwritten) {
    const size_t end = offset + touch.bytes;
    bool must_be_written = starts_unwritten && touch.reads();
    auto enter_one = [&](Cell& cell) {
        if (must_be_written && cell.write.stint < first) return Clash::unwritten;
        return enter_cell(history, cell, first, now, touch.place, touch.access);
    };
    while (offset < end) {
        size_t start = offset / Cells::kLine * Cells::kLine, stop = std::min(end, start + Cells::kLine);
        Cell& line = cells.lines[start / Cells::kLine];
        bool is_split = line.write.stint >= first && (line.write.mark & kSplit) == kSplit;
        if (!is_split && stop - offset == Cells::kLine) {
            if (Clash clash = enter_one(line); clash != Clash::none) return {clash, &line, offset};
            offset = stop;
            continue;
        }
        if (!is_split) {
            std::fill(cells.bytes + start, cells.bytes + start + Cells::kLine, line);
            line.write = {now, kSplit};
        }
        for (; offset < stop; offset++)
            if (Clash clash = enter_one(cells.bytes[offset]); clash != Clash::none) return {clash, &cells.bytes[offset], offset};
    }
    return {};
}

// One history to an OS thread, whichever memory it is about.
History& history();
void enter_shared(const Touch& touch);
void enter_device(const Touch& touch);
void forget_shared_cells();
void forget_device_cells();

// The number of a place in the source: of an instruction, or of one that the emulator knows by name.
uint32_t place_of(const void* code);
uint32_t place_of(Site site);
// "file:line" of a place, with the kernel's line behind it when that is another.
std::string where(uint32_t place);
const char* verb(Access access);
// Ends the launch with what a touch of `memory` clashed with; `offset` says which byte.
void report_clash(Clash clash, const Cell& cell, const Touch& touch, const char* memory, const std::string& offset);

}  // namespace emu::race
