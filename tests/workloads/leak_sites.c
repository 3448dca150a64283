/* Holds on to memory in known ways and prints what each place still has at the end.
 *
 * Arguments: seconds to wait before it begins, or - to wait for a line on standard input; seconds to run, calls of the churn a second. Places: a leak (64 bytes every millisecond), a cache that
 * fills in a fifth of the time and stays, a vector that grows slowly by realloc, a queue that is emptied twice a second, blocks that one thread
 * allocates and another one frees, and churn that is freed at once. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HIDE __attribute__((noinline, noclone))

struct place {
    const char *name;
    unsigned long live_bytes, live_count;
};

enum { LEAK, CACHE, VECTOR, QUEUE, HANDED, CHURN, PLACES };

static struct place places[PLACES] = {
    {.name = "site_leak"},  {.name = "site_cache"},  {.name = "site_vector"},
    {.name = "site_queue"}, {.name = "site_handed"}, {.name = "site_churn"},
};

static void *volatile sink;

static void count(int place, long bytes, long blocks) {
    __atomic_add_fetch(&places[place].live_bytes, bytes, __ATOMIC_RELAXED);
    __atomic_add_fetch(&places[place].live_count, blocks, __ATOMIC_RELAXED);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

HIDE void site_leak(void) {
    sink = malloc(64);
    count(LEAK, 64, 1);
}

#define CACHE_ENTRIES 1000
static char *cache[CACHE_ENTRIES];

HIDE void site_cache(int entry) {
    if (cache[entry]) return;
    cache[entry] = calloc(1, 2000);
    count(CACHE, 2000, 1);
}

static char *vector;
static size_t vector_bytes;

HIDE void site_vector(void) {
    size_t bytes = vector_bytes + 4096;
    vector = realloc(vector, bytes);
    vector[bytes - 1] = 1;
    count(VECTOR, 4096, vector_bytes == 0);
    vector_bytes = bytes;
}

#define QUEUE_ENTRIES 4096
static void *queue[QUEUE_ENTRIES];
static int queued;

HIDE void site_queue(void) {
    if (queued == QUEUE_ENTRIES) return;
    queue[queued++] = malloc(300);
    count(QUEUE, 300, 1);
}

static void empty_queue(void) {
    while (queued > 0) {
        free(queue[--queued]);
        count(QUEUE, -300, -1);
    }
}

static void *volatile handed;
static volatile int done;

HIDE void site_handed(void) {
    if (handed) return;
    void *block = malloc(500);
    count(HANDED, 500, 1);
    __atomic_store_n((void **)&handed, block, __ATOMIC_RELEASE);
}

static void *taker(void *unused) {
    while (!done) {
        void *block = __atomic_exchange_n((void **)&handed, NULL, __ATOMIC_ACQUIRE);
        if (block) {
            count(HANDED, -500, -1);
            free(block);
        }
        usleep(2000);
    }
    return unused;
}

HIDE void site_churn(void) {
    char *block = malloc(200);
    block[0] = 1;
    sink = block;
    free(block);
}

int main(int argc, char **argv) {
    int for_line = argc > 1 && strcmp(argv[1], "-") == 0;
    double wait = argc > 1 ? atof(argv[1]) : 1, length = argc > 2 ? atof(argv[2]) : 10;
    double churn = argc > 3 ? atof(argv[3]) : 1000;
    if (for_line) (void)getchar();
    else usleep((useconds_t)(wait * 1e6));
    pthread_t thread;
    pthread_create(&thread, NULL, taker, NULL);
    double begin = now(), last_emptied = begin;
    unsigned long leaked = 0, churned = 0, grown = 0;
    pid_t child = -1;
    for (double time = begin; time < begin + length; time = now()) {
        double elapsed = time - begin;
        while ((double)leaked < elapsed * 1000) {
            site_leak();
            leaked++;
        }
        double filled = elapsed / (length / 5) * CACHE_ENTRIES;
        for (int entry = 0; entry < CACHE_ENTRIES && entry < filled; entry++) site_cache(entry);
        if ((double)grown < elapsed * 4) {
            site_vector();
            grown++;
        }
        site_queue();
        if (time - last_emptied > 0.5) {
            empty_queue();
            last_emptied = time;
        }
        site_handed();
        for (int i = 0; i < 1000 && (double)churned < elapsed * churn; i++) {
            site_churn();
            churned++;
        }
        if (child < 0 && elapsed > length / 2) {
            child = fork();
            if (child == 0) {
                /* A copy of everything, which is not the parent's: what is freed here stays in the parent, and what is allocated here goes with the child. */
                empty_queue();
                usleep(1000 * 1000);
                for (int i = 0; i < 1000; i++) site_leak();
                _exit(0);
            }
        }
        if (churn < 100000) usleep(1000);
    }
    done = 1;
    pthread_join(thread, NULL);
    waitpid(child, NULL, 0);
    double took = now() - begin;
    printf("{\"seconds\": %.3f, \"churned\": %lu", took, churned);
    for (int i = 0; i < PLACES; i++) printf(", \"%s_live_bytes\": %lu, \"%s_live_count\": %lu", places[i].name, places[i].live_bytes, places[i].name, places[i].live_count);
    printf("}\n");
    fflush(stdout);
    usleep(200 * 1000);
    return 0;
}
