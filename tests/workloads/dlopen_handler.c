/* A signal handler with an allocator of its own interrupts calls of the C library's: prints what both places asked for and still have.
 *
 * Arguments: the library with the handler's allocator, seconds to wait, calls of the handler, `malloc` or `realloc` for the calls that it
 * interrupts, `own` for a stack of its own. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#define HIDE __attribute__((noinline, noclone))

enum { KEPT = 100000 };

static void *(*allocate)(size_t);
static void (*release)(void *);
static volatile long handled, wanted;
static void *volatile sink;
static char stack[64 << 10];
static void *volatile kept[KEPT];

/* Every second block stays. */
HIDE void site_handler(void) {
    void *block = allocate(80);
    if (handled % 2) release(block);
    handled++;
}

static void handler(int unused) {
    (void)unused;
    if (handled < wanted) site_handler();
}

/* Long enough inside to be interrupted there: it clears the block. */
HIDE void site_cleared(void) {
    void *block = calloc(1, 60000);
    sink = block;
    free(block);
}

HIDE void site_kept(long index) {
    kept[index] = malloc(48);
}

HIDE void site_moved(void) {
    void *block = malloc(100);
    /* Copies it, and clears nothing. */
    for (size_t bytes = 1000; bytes < 2000000; bytes *= 8) block = realloc(block, bytes);
    sink = block;
    free(block);
}

int main(int argc, char **argv) {
    if (argc < 6) return 1;
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) return 1;
    allocate = (void *(*)(size_t))dlsym(library, "malloc");
    release = (void (*)(void *))dlsym(library, "free");
    usleep((useconds_t)(atof(argv[2]) * 1e6));
    wanted = atol(argv[3]);
    int moves = strcmp(argv[4], "realloc") == 0, own = strcmp(argv[5], "own") == 0;
    stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&other, NULL);
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART | (own ? SA_ONSTACK : 0)};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval often = {{0, 200}, {0, 200}};
    setitimer(ITIMER_REAL, &often, NULL);
    long rounds = 0, moved = 0;
    while (handled < wanted) {
        if (moves) {
            site_moved();
            moved++;
        } else {
            site_cleared();
            if (rounds < KEPT) site_kept(rounds);
            rounds++;
        }
    }
    often.it_value.tv_usec = 0;
    setitimer(ITIMER_REAL, &often, NULL);
    long kept_count = rounds < KEPT ? rounds : KEPT;
    printf("{\"site_handler_count\": %ld, \"site_handler_live\": %ld, \"site_cleared_count\": %ld, \"site_cleared_live\": 0, \"site_kept_count\": %ld, \"site_kept_live\": %ld, \"site_moved_count\": %ld, \"site_moved_live\": 0}\n",
           wanted, (wanted + 1) / 2, rounds, kept_count, kept_count, 5 * moved);
    fflush(stdout);
    usleep(200 * 1000);
    return 0;
}
