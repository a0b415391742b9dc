// fibers.h: the threads of a block as fibers of one OS thread.
#pragma once
#include "block.h"

namespace emu {

// Where a kernel runs. A thread's answers never change, so the compiler may keep them.
const uint3& thread_index() __attribute__((const));
const uint3& block_index() __attribute__((const));
const dim3& block_size() __attribute__((const));
const dim3& grid_size() __attribute__((const));
unsigned lane() __attribute__((const));

// Pages that cost nothing until they are touched.
char* reserve(size_t bytes);
// A fresh fiber for every thread of the block.
void prepare_fibers();
// Runs them until all are done, or the first error.
void schedule();

}  // namespace emu
