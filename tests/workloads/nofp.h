/* Shared by the programs without frame pointers (nofp_*), whose stacks only unwind tables can follow. */
#ifndef NOFP_H
#define NOFP_H
#include "truth.h"

/* A function that stays one frame: not inlined, cloned or changed in its interface. */
#define FRAME __attribute__((noipa))

/* After a call: the call is not the last thing that the function does, so it cannot become a jump. */
#define AFTER_CALL() __asm__ volatile("" ::: "memory")

/* Leaves nonsense in the frame pointer's register, which callees keep: whoever follows frame pointers ends here. The compiler saves
 * and restores it, except on arm64, which does not do so for this register; there it keeps the C library's last frame, and whoever
 * follows it misses all functions of the program. */
#if defined(__x86_64__)
#define SPOIL_FRAME_POINTER() __asm__ volatile("mov $1, %%ebp" ::: "rbp")
#else
#define SPOIL_FRAME_POINTER() ((void)0)
#endif

/* Calls `work` until the thread has used this much more CPU time. */
#define BURN(work, seconds)                                               \
    do {                                                                  \
        uint64_t burn_start = cpu_ns();                                   \
        while ((double)(cpu_ns() - burn_start) < (seconds) * 1e9)         \
            work(ROUNDS_PER_MS);                                          \
    } while (0)

/* An argument as a number. */
static inline double argument(int argc, char **argv, int index, double otherwise) {
    return argc > index ? atof(argv[index]) : otherwise;
}

#endif
