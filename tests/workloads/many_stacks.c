/* Computes on as many different stacks as it is told, each for the same time, again and again.
 *
 * Arguments: seconds to run, distinct stacks (a power of two is used, at most 2^24), turns of a loop on each. Prints how many it was on. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define HIDE __attribute__((noinline, noclone))

static volatile long turned;
static long turns;
static unsigned long stacks;

HIDE static long left(unsigned long number, int levels);
HIDE static long right(unsigned long number, int levels);

/* Each bit of the number chooses one of two functions. What follows the call keeps it from becoming a jump. */
static inline __attribute__((always_inline)) long next(unsigned long number, int levels) {
    if (levels == 0) {
        for (long i = 0; i < turns; i++) turned++;
        stacks++;
        return 1;
    }
    long below = number & 1 ? left(number >> 1, levels - 1) : right(number >> 1, levels - 1);
    turned++;
    return below;
}

HIDE static long left(unsigned long number, int levels) { return next(number, levels) + 1; }
HIDE static long right(unsigned long number, int levels) { return next(number, levels) + 2; }

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 5;
    unsigned long wanted = argc > 2 ? strtoul(argv[2], NULL, 10) : 1000, number = 0;
    turns = argc > 3 ? atol(argv[3]) : 20000;
    int levels = 0;
    while (levels < 24 && (1UL << levels) < wanted) levels++;
    struct timespec begin, now;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    long sum = 0;
    do {
        sum += left(number, levels);
        /* An odd step visits all numbers, far from each other. */
        number = (number + 0x9e3779b1UL) & ((1UL << levels) - 1);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((double)(now.tv_sec - begin.tv_sec) + (double)(now.tv_nsec - begin.tv_nsec) / 1e9 < seconds);
    printf("{\"stacks\": %lu, \"distinct\": %lu, \"sum\": %ld}\n", stacks, 1UL << levels, sum);
    return 0;
}
