/* Allocates and frees as fast as it can, or as often as it is told, at three places whose shares are known, and leaks a little at one more.
 *
 * Arguments: seconds to run, calls a second at most (0 for no limit), turns of a loop to make before each call, and 1 to wait for its time
 * without sleeping. Prints how often each place was reached while it ran. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define HIDE __attribute__((noinline, noclone))

static void *volatile sink;
static unsigned long half, third, rest, leaks;
static volatile long turned;

/* Work of the program itself. */
static void work(long turns) {
    for (long i = 0; i < turns; i++) turned++;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

HIDE void storm_half(void) {
    void *block = malloc(500);
    sink = block;
    free(block);
    half++;
}

HIDE void storm_third(void) {
    void *block = malloc(300);
    sink = block;
    free(block);
    third++;
}

HIDE void storm_rest(void) {
    void *block = malloc(200);
    sink = block;
    free(block);
    rest++;
}

HIDE void storm_leak(void) {
    sink = malloc(1000);
    leaks++;
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 3;
    double limit = argc > 2 ? atof(argv[2]) : 0;
    long turns = argc > 3 ? atol(argv[3]) : 0;
    int spins = argc > 4 && atoi(argv[4]);
    double begin = now(), end = begin + seconds;
    unsigned long rounds = 0;
    for (double time = begin; time < end; time = now()) {
        for (int i = 0; i < 50; i++) {
            work(turns);
            storm_half();
            work(turns);
            storm_third();
            work(turns);
            storm_rest();
            rounds++;
        }
        if (rounds % 1000 == 0) storm_leak();
        while (limit > 0 && (double)rounds * 3 / limit > now() - begin) {
            if (!spins) usleep(1000);
        }
    }
    double took = now() - begin;
    printf("{\"calls\": %lu, \"calls_per_s\": %.0f, \"storm_half_bytes\": %lu, \"storm_third_bytes\": %lu, \"storm_rest_bytes\": %lu, \"storm_leak_bytes\": %lu}\n",
           half + third + rest + leaks, (double)(half + third + rest + leaks) / took, half * 500, third * 300, rest * 200, leaks * 1000);
    return 0;
}
