/* Allocates at known places and prints what each of them asked for, how often, and what of it is still in use at the end.
 *
 * Arguments: seconds to wait before it begins, rounds. Every place keeps its own count, so the numbers are exact. */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define HIDE __attribute__((noinline, noclone))
#define AFTER_CALL() __asm__ volatile("" ::: "memory")

struct place {
    const char *name;
    unsigned long bytes, count, live_bytes, live_count;
};

enum { MALLOC, CALLOC, REALLOC, ALIGNED, POSIX, CHURN, THREAD, HANDOVER, KEPT, STRDUP, PLACES };

static struct place places[PLACES] = {
    {.name = "site_malloc"},  {.name = "site_calloc"}, {.name = "site_realloc"},  {.name = "site_aligned"}, {.name = "site_posix"},
    {.name = "site_churn"},   {.name = "site_thread"}, {.name = "site_handover"}, {.name = "site_kept"},    {.name = "site_strdup"},
};

static void count(int place, size_t bytes, int live) {
    __atomic_add_fetch(&places[place].bytes, bytes, __ATOMIC_RELAXED);
    __atomic_add_fetch(&places[place].count, 1, __ATOMIC_RELAXED);
    if (live) {
        __atomic_add_fetch(&places[place].live_bytes, bytes, __ATOMIC_RELAXED);
        __atomic_add_fetch(&places[place].live_count, 1, __ATOMIC_RELAXED);
    }
}

static void *volatile sink;

HIDE void site_malloc(size_t bytes) {
    sink = malloc(bytes);
    count(MALLOC, bytes, 1);
}

HIDE void site_calloc(size_t number, size_t bytes) {
    sink = calloc(number, bytes);
    count(CALLOC, number * bytes, 1);
}

/* A buffer that grows step by step; the last size stays. */
HIDE void site_realloc(void) {
    char *buffer = NULL;
    for (size_t bytes = 64; bytes <= 64 << 10; bytes *= 2) {
        buffer = realloc(buffer, bytes);
        buffer[bytes - 1] = 1;
        count(REALLOC, bytes, bytes == 64 << 10);
    }
    sink = buffer;
}

HIDE void site_aligned(void) {
    sink = aligned_alloc(256, 4096);
    count(ALIGNED, 4096, 1);
}

HIDE void site_posix(void) {
    void *block = NULL;
    if (posix_memalign(&block, 64, 2000) == 0) count(POSIX, 2000, 1);
    sink = block;
    /* Small alignments take another way inside some allocators. */
    if (posix_memalign(&block, 8, 500) == 0) count(POSIX, 500, 1);
    sink = block;
}

HIDE void site_churn(size_t bytes) {
    char *block = malloc(bytes);
    block[0] = 1;
    sink = block;
    free(block);
    count(CHURN, bytes, 0);
}

HIDE void *site_handover(size_t bytes) {
    void *block = malloc(bytes);
    count(HANDOVER, bytes, 0);
    return block;
}

HIDE void site_thread(size_t bytes) {
    sink = malloc(bytes);
    count(THREAD, bytes, 1);
}

HIDE void site_kept(size_t bytes) {
    sink = malloc(bytes);
    count(KEPT, bytes, 1);
}

HIDE void site_strdup(const char *text) {
    sink = strdup(text);
    count(STRDUP, strlen(text) + 1, 1);
}

static int rounds;
static void *handed[64];
static pthread_barrier_t barrier;

/* One thread allocates, the other one frees. */
static void *giver(void *unused) {
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < 64; i++) handed[i] = site_handover(300);
        pthread_barrier_wait(&barrier);
        pthread_barrier_wait(&barrier);
        site_thread(777);
    }
    return unused;
}

static void *taker(void *unused) {
    for (int round = 0; round < rounds; round++) {
        pthread_barrier_wait(&barrier);
        for (int i = 0; i < 64; i++) free(handed[i]);
        pthread_barrier_wait(&barrier);
    }
    return unused;
}

int main(int argc, char **argv) {
    double wait = argc > 1 ? atof(argv[1]) : 0.5;
    rounds = argc > 2 ? atoi(argv[2]) : 100;
    usleep((useconds_t)(wait * 1e6));
    for (int round = 0; round < rounds; round++) {
        site_malloc(100);
        site_malloc(5000);
        site_calloc(10, 33);
        site_realloc();
        site_aligned();
        site_posix();
        for (int i = 0; i < 20; i++) site_churn(1500);
        site_kept(round % 10 == 0 ? 200000 : 24);
        site_strdup("a text of thirty-two characters.");
        free(NULL);
    }
    pthread_barrier_init(&barrier, NULL, 2);
    pthread_t threads[2];
    pthread_create(&threads[0], NULL, giver, NULL);
    pthread_create(&threads[1], NULL, taker, NULL);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    pid_t child = fork();
    if (child == 0) {
        /* Frees copies of the parent's blocks, which changes nothing for the parent. */
        for (int i = 0; i < 1000; i++) free(malloc(1234));
        _exit(0);
    }
    waitpid(child, NULL, 0);
    printf("{");
    for (int i = 0; i < PLACES; i++) {
        struct place *p = &places[i];
        printf("%s\"%s_bytes\": %lu, \"%s_count\": %lu, \"%s_live_bytes\": %lu, \"%s_live_count\": %lu", i ? ", " : "", p->name, p->bytes,
               p->name, p->count, p->name, p->live_bytes, p->name, p->live_count);
    }
    printf("}\n");
    fflush(stdout);
    AFTER_CALL();
    usleep(200 * 1000);
    return 0;
}
