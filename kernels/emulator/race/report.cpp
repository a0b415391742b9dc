// report.cpp: places in the kernels' source, and what is said of accesses that clash.
#include <dlfcn.h>

#include "shadow.h"

namespace emu::race {

// A place is the offset of an instruction in this library, or, with its top bit set, the number of a
// Site.
static constexpr uint32_t kSite = (kPlace + 1) / 2;

static Dl_info find_library() {
    Dl_info info{};
    if (!dladdr(reinterpret_cast<void*>(&find_library), &info)) abort();
    return info;
}
static const Dl_info& library() {
    static const Dl_info info = find_library();
    return info;
}
static std::vector<Site>& sites() {
    static thread_local std::vector<Site> sites;
    return sites;
}

uint32_t place_of(const void* code) {
    static const char* const start = static_cast<const char*>(library().dli_fbase);
    return uint32_t(static_cast<const char*>(code) - start) & (kSite - 1);
}
uint32_t place_of(Site site) {
    auto& known = sites();
    size_t i = 0;
    while (i < known.size() && (known[i].line != site.line || known[i].file != site.file)) i++;
    if (i == known.size()) known.push_back(site);
    return kSite | uint32_t(i);
}

std::string where(uint32_t place) {
    if (place & kSite) {
        Site site = sites()[place & (kSite - 1)];
        return base(site.file) + (":" + std::to_string(site.line));
    }
    // A line each for the functions that were inlined into one another, innermost first. The call's
    // return address is one behind the call.
    char command[600], line[400];
    snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%x 2>/dev/null", library().dli_fname, place - 1);
    std::string innermost, kernel;
    FILE* lines = popen(command, "r");
    while (lines && fgets(line, sizeof line, lines)) {
        std::string at = base(line);
        at = at.substr(0, at.find_first_of(" \n"));
        if (innermost.empty()) innermost = at;
        if (kernel.empty() && at.find(".cu:") != std::string::npos) kernel = at;
    }
    if (lines) pclose(lines);
    if (innermost.empty()) return "a place that addr2line does not know";
    return kernel.empty() || kernel == innermost ? innermost : innermost + " (" + kernel + ")";
}

const char* verb(Access access) {
    switch (access) {
        case Access::read:
        case Access::once:
            return "reads";
        case Access::atomic:
            return "changes";
        default:
            return "writes";
    }
}

void report_clash(Clash clash, const Cell& cell, const Touch& touch, const char* memory, const std::string& offset) {
    if (clash == Clash::unwritten)
        return report("thread %u at %s reads %s that was never written (%s)", view.thread, where(touch.place).c_str(), memory,
                      offset.c_str());
    const Side& other = clash == Clash::with_read ? cell.read : cell.write;
    const Stint& then = history().at(other.stint);
    bool several = other.mark & (kLanes | kWarps | kBlocks);
    std::string me = "thread " + std::to_string(view.thread) + " at " + where(touch.place);
    std::string they = (several ? "several threads, the last of them thread " : "thread ") + std::to_string(then.thread) +
                       " of block " + std::to_string(then.block);
    std::string there = where(other.mark & kPlace);
    const char *mine = verb(touch.access), *order = "no barrier between";
    if ((other.mark & kBlocks) || then.block != view.block) order = "blocks of one launch have no order";
    switch (clash) {
        case Clash::none:
        case Clash::unwritten:
            return;
        case Clash::with_copy:
            return report("%s %s %s that a cp.async of %s at %s may still be writing (%s)", me.c_str(), mine, memory, they.c_str(),
                          there.c_str(), offset.c_str());
        case Clash::stale:
            return report("%s reads %s past its cache that %s wrote at %s in this launch (%s)", me.c_str(), memory, they.c_str(),
                          there.c_str(), offset.c_str());
        case Clash::with_read:
            return report("%s race: %s %s what %s read at %s, %s (%s)", memory, me.c_str(), mine, they.c_str(), there.c_str(), order,
                          offset.c_str());
        case Clash::with_write:
            return report("%s race: %s %s what %s wrote at %s, %s (%s)", memory, me.c_str(), mine, they.c_str(), there.c_str(), order,
                          offset.c_str());
    }
}

}  // namespace emu::race
