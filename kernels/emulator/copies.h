// copies.h: cp.async. A copy lands when it is waited for; under random schedules perhaps at once,
// as a device may. To the race checker it is on its way all the time between.
#pragma once
#include "block.h"

namespace emu {

// Copies `valid` bytes and fills up to `bytes` with zeros.
void cp_async(void* to, const void* from, int bytes, int valid, Site site);
void cp_async_commit();
// Waits until at most so many committed groups are on their way.
void cp_async_wait(size_t pending);

}  // namespace emu
