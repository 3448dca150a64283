/* Shared by the truth programs: burn CPU in a named function and say how much it really was.
 *
 * Time is the thread's own CPU clock, read around the work, so the numbers hold on a busy machine too. Built with frame
 * pointers and without sibling calls, for what is tested is the profiler, not the unwinder; it has programs of its own: nofp.h. */
#ifndef TRUTH_H
#define TRUTH_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile uint64_t truth_sink;

static inline uint64_t cpu_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Arithmetic only, no calls: all of it is the caller's self time. */
#define SPIN(rounds)                                                      \
    do {                                                                  \
        uint64_t spin_value = truth_sink;                                 \
        for (uint64_t spin_i = 0; spin_i < (rounds); spin_i++)            \
            spin_value = spin_value * 6364136223846793005u + spin_i;      \
        truth_sink = spin_value;                                          \
    } while (0)

/* Defines a function that spins `rounds` rounds and adds its CPU time to `<name>_ns`. */
#define BURNER(name)                                                      \
    static uint64_t name##_ns;                                            \
    __attribute__((noinline)) void name(uint64_t rounds) {                \
        uint64_t before = cpu_ns();                                       \
        SPIN(rounds);                                                     \
        name##_ns += cpu_ns() - before;                                   \
    }

/* Rounds that take about a millisecond on a fast machine; on a slow one more, which does no harm. */
#define ROUNDS_PER_MS 700000u

#endif
