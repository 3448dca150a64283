/* Loads a library that brings an allocator while it is recorded, and prints what it got from it.
 *
 * Arguments: the library, the names of its malloc and free, seconds to wait before and after it is loaded. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define HIDE __attribute__((noinline, noclone))

enum { EARLY = 500, LATE = 1000 };

static void *(*allocate)(size_t);
static void (*release)(void *);
static void *early[EARLY], *late[LATE];

/* Before any probe can be there. */
HIDE void site_early(void) {
    for (int i = 0; i < EARLY; i++) early[i] = allocate(64);
}

HIDE void site_late(void) {
    for (int i = 0; i < LATE; i++) late[i] = allocate(96);
}

int main(int argc, char **argv) {
    if (argc < 5) return 1;
    useconds_t wait = (useconds_t)(atof(argv[4]) * 1e6);
    usleep(wait);
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) return 1;
    allocate = (void *(*)(size_t))dlsym(library, argv[2]);
    release = (void (*)(void *))dlsym(library, argv[3]);
    site_early();
    usleep(wait);
    site_late();
    for (int i = 0; i < 50; i++) release(early[i]);
    for (int i = 0; i < 100; i++) release(late[i]);
    printf("{\"late_live_count\": %d, \"late_live_bytes\": %d, \"early_live_count\": %d, \"early_freed\": 50}\n", LATE - 100, (LATE - 100) * 96, EARLY - 50);
    fflush(stdout);
    return 0;
}
