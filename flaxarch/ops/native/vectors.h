// Functions compiled for several kinds of CPU.
#pragma once

// One for each kind of vectors that a CPU may have; the system's loader picks. Clang can't do it for all
// functions.
#if defined(__GNUC__) && !defined(__clang__)
#define FLAXARCH_VECTORS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FLAXARCH_VECTORS
#endif
