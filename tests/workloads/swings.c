/* Swings between idling, allocating, calling the system and handing over between two threads, two seconds each, and counts what it does.
 *
 * Arguments: seconds to run, and nanoseconds to compute before each allocation, before each call and before each hand-over. Prints a line of each phase when
 * it is over (what it was, when it began and ended on CLOCK_MONOTONIC, CPU time of the process, units done), and all sums in the end. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define HIDE __attribute__((noinline, noclone))
#define PHASE_SECONDS 2.0

static void *volatile sink;
static volatile long turned;
static int to_other[2], to_main[2];
static long switch_turns;
static double turns_per_ns;

HIDE void work(long turns) {
    for (long i = 0; i < turns; i++) turned++;
}

static double clock_now(clockid_t id) {
    struct timespec time;
    clock_gettime(id, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* The fastest of some rounds: others were disturbed. */
static void calibrate(void) {
    for (int i = 0; i < 20; i++) {
        double begin = clock_now(CLOCK_MONOTONIC);
        work(1000000);
        double rate = 1e6 / ((clock_now(CLOCK_MONOTONIC) - begin) * 1e9);
        if (rate > turns_per_ns) turns_per_ns = rate;
    }
}

static long turns_for(const char *nanoseconds) { return (long)(atof(nanoseconds) * turns_per_ns); }

HIDE void swing_malloc(long turns) {
    for (int i = 0; i < 500; i++) {
        work(turns);
        void *block = malloc(200);
        sink = block;
        free(block);
    }
}

HIDE void swing_call(long turns) {
    for (int i = 0; i < 500; i++) {
        work(turns);
        syscall(SYS_getppid);
    }
}

/* A hand-over to the other thread and back: two switches, as both run on one CPU. */
HIDE void swing_switch(void) {
    char byte = 0;
    work(switch_turns);
    if (write(to_other[1], &byte, 1) != 1 || read(to_main[0], &byte, 1) != 1) exit(1);
}

static void *other(void *unused) {
    char byte;
    while (read(to_other[0], &byte, 1) == 1) {
        if (write(to_main[1], &byte, 1) != 1) exit(1);
    }
    return unused;
}

int main(int argc, char **argv) {
    static const char *const names[] = {"idle", "mallocs", "calls", "switches"};
    double seconds = argc > 1 ? atof(argv[1]) : 16;
    calibrate();
    long malloc_turns = turns_for(argc > 2 ? argv[2] : "980"), call_turns = turns_for(argc > 3 ? argv[3] : "1900");
    switch_turns = turns_for(argc > 4 ? argv[4] : "10000");
    cpu_set_t first;
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    sched_setaffinity(0, sizeof first, &first);
    pthread_t thread;
    if (pipe(to_other) || pipe(to_main) || pthread_create(&thread, NULL, other, NULL)) return 1;
    unsigned long units[4] = {0};
    double end = clock_now(CLOCK_MONOTONIC) + seconds;
    for (int phase = 0; clock_now(CLOCK_MONOTONIC) < end; phase = (phase + 1) % 4) {
        double begin = clock_now(CLOCK_MONOTONIC), cpu = clock_now(CLOCK_PROCESS_CPUTIME_ID), now = begin;
        unsigned long done = 0;
        for (; now - begin < PHASE_SECONDS && now < end; now = clock_now(CLOCK_MONOTONIC)) {
            switch (phase) {
            case 0: usleep(50000); done++; break;
            case 1: swing_malloc(malloc_turns); done += 500; break;
            case 2: swing_call(call_turns); done += 500; break;
            default:
                for (int i = 0; i < 100; i++) swing_switch();
                done += 200;
            }
        }
        units[phase] += done;
        printf("{\"phase\": \"%s\", \"begin\": %.6f, \"end\": %.6f, \"cpu\": %.6f, \"units\": %lu}\n", names[phase], begin, now,
               clock_now(CLOCK_PROCESS_CPUTIME_ID) - cpu, done);
        fflush(stdout);
    }
    printf("{\"mallocs\": %lu, \"calls\": %lu, \"switches\": %lu}\n", units[1], units[2], units[3]);
    return 0;
}
