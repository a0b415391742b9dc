// copies.cpp: see copies.h.
#include "copies.h"

#include "shared.h"
#include "touch.h"

namespace emu {

static void move(const Copy& copy) {
    memcpy(copy.to, copy.from, size_t(copy.valid));
    memset(static_cast<char*>(copy.to) + copy.valid, 0, size_t(copy.bytes - copy.valid));
}

void cp_async(void* to, const void* from, int bytes, int valid, Site site) {
    check_shared(to, size_t(bytes), size_t(bytes), "cp.async", site);
    if (valid && reinterpret_cast<uintptr_t>(from) % size_t(bytes))
        EMU_FAIL("cp.async at %s:%d: source not aligned to %d", base(site.file), site.line, bytes);
    touch(from, size_t(valid), Access::read, site);
    touch(to, size_t(bytes), Access::issue, site);
    Copy copy{to, from, bytes, valid, site};
    if (block->is_random() && (block->random() & 1)) move(copy);
    block->current->open.push_back(copy);
}
void cp_async_commit() {
    block->current->groups.push_back(std::move(block->current->open));
    block->current->open.clear();
}
// A copy that has landed already does so again: what changed between was a race.
void cp_async_wait(size_t pending) {
    auto& groups = block->current->groups;
    while (groups.size() > pending) {
        for (auto& copy : groups.front()) {
            touch(copy.from, size_t(copy.valid), Access::read, copy.site);
            touch(copy.to, size_t(copy.bytes), Access::land, copy.site);
            move(copy);
        }
        groups.erase(groups.begin());
    }
}

}  // namespace emu
