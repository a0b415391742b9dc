// copies.h: cp.async. A copy lands when it is waited for; under random schedules perhaps at once,
// as a device may.
#pragma once
#include "shared.h"

namespace emu {

inline void land(const Copy& copy) {
    touch(copy.from, size_t(copy.valid), Access::read, copy.site);
    touch(copy.to, size_t(copy.bytes), Access::write, copy.site);
    memcpy(copy.to, copy.from, size_t(copy.valid));
    memset(static_cast<char*>(copy.to) + copy.valid, 0, size_t(copy.bytes - copy.valid));
}
inline void cp_async(void* to, const void* from, int bytes, int valid, Site site) {
    check_shared(to, size_t(bytes), size_t(bytes), "cp.async", site);
    if (valid && reinterpret_cast<uintptr_t>(from) % size_t(bytes))
        EMU_FAIL("cp.async at %s:%d: source not aligned to %d", base(site.file), site.line, bytes);
    Copy copy{to, from, bytes, valid, site};
    if (block->is_random() && (block->random() & 1)) land(copy);
    else block->current->open.push_back(copy);
}
inline void cp_async_commit() {
    block->current->groups.push_back(std::move(block->current->open));
    block->current->open.clear();
}
inline void cp_async_wait(size_t pending) {
    auto& groups = block->current->groups;
    while (groups.size() > pending) {
        for (auto& copy : groups.front()) land(copy);
        groups.erase(groups.begin());
    }
}

}  // namespace emu
