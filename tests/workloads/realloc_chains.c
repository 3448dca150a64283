/* Resizes blocks again and again at known places and prints what that came to.
 *
 * Arguments: seconds to wait before it begins, rounds. Every place keeps its own count, so the numbers are exact. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define HIDE __attribute__((noinline, noclone))
#define AFTER_CALL() __asm__ volatile("" ::: "memory")

struct place {
    const char *name;
    unsigned long chains, steps, longest, first_bytes, last_bytes, moves, moved_bytes;
};

enum { DOUBLED, HANDED, SHRUNK, FREED, PLACES };

static struct place places[PLACES] = {
    {.name = "site_doubled"}, {.name = "site_handed"}, {.name = "site_shrunk"}, {.name = "site_freed"},
};

static void *volatile sink;

/* Resizes a block that a place asked for first. */
HIDE void *resize(int index, unsigned long steps, void *block, size_t before, size_t bytes) {
    struct place *place = &places[index];
    uintptr_t from = (uintptr_t)block;
    char *now = realloc(block, bytes);
    now[bytes - 1] = 1;
    place->steps++;
    place->last_bytes += bytes;
    if (steps == 1) {
        place->chains++;
        place->first_bytes += before;
    } else {
        place->last_bytes -= before;
    }
    if (steps > place->longest) place->longest = steps;
    if ((uintptr_t)now != from) {
        place->moves++;
        place->moved_bytes += before < bytes ? before : bytes;
    }
    return now;
}

/* From nothing, twice as much each time. */
HIDE void site_doubled(void) {
    void *block = realloc(NULL, 64);
    unsigned long steps = 0;
    for (size_t bytes = 128; bytes <= 64 << 10; bytes *= 2) {
        block = resize(DOUBLED, ++steps, block, bytes / 2, bytes);
        /* What lies behind keeps the block from growing where it is. */
        sink = malloc(40);
    }
    sink = block;
}

/* Asked for by one, resized by others: once, or five times. */
HIDE void *site_handed(void) {
    void *block = malloc(1000);
    AFTER_CALL();
    return block;
}

/* Given back in part. */
HIDE void site_shrunk(void) {
    void *block = calloc(100, 100);
    sink = resize(SHRUNK, 1, block, 10000, 100);
}

/* Freed after one step; whoever gets the address next begins anew. */
HIDE void site_freed(void) {
    void *block = malloc(200);
    block = resize(FREED, 1, block, 200, 250);
    free(block);
    sink = malloc(250);
    free(sink);
}

int main(int argc, char **argv) {
    double wait = argc > 1 ? atof(argv[1]) : 0.5;
    int rounds = argc > 2 ? atoi(argv[2]) : 100;
    usleep((useconds_t)(wait * 1e6));
    for (int round = 0; round < rounds; round++) {
        site_doubled();
        void *block = site_handed();
        size_t before = 1000;
        for (unsigned long step = 1; step <= (round % 2 ? 5UL : 1UL); step++) {
            block = resize(HANDED, step, block, before, before + 100);
            before += 100;
        }
        site_shrunk();
        site_freed();
        /* A resize to nothing frees, and a failed one changes nothing. */
        void *gone = malloc(64);
        sink = realloc(gone, 0);
        if (round % 10 == 0) usleep(100);
    }
    printf("{");
    for (int i = 0; i < PLACES; i++) {
        struct place *p = &places[i];
        printf("%s\"%s_chains\": %lu, \"%s_steps\": %lu, \"%s_longest\": %lu, ", i ? ", " : "", p->name, p->chains, p->name, p->steps, p->name,
               p->longest);
        printf("\"%s_first_bytes\": %lu, \"%s_last_bytes\": %lu, \"%s_moves\": %lu, \"%s_moved_bytes\": %lu", p->name, p->first_bytes, p->name,
               p->last_bytes, p->name, p->moves, p->name, p->moved_bytes);
    }
    printf("}\n");
    fflush(stdout);
    usleep(200 * 1000);
    return 0;
}
