/* nofp_waits SECONDS DIRECTORY: threads that wait in named functions, each for a reason of its own, and how long they really waited.
 *
 * Each wait is measured by the thread around the call that waits: the monotonic clock less the thread's own CPU time. What a preemption on the
 * way adds is in the number too. Prints one line: for each function its waiting time in ns, how long all threads lived together (a slow disk
 * keeps some of them after the others), what the main thread took before, and how much of both was not CPU time: all that was waited. */
#include "nofp.h"
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static double seconds;
static const char *directory;
static uint64_t end_ns;

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void sleep_us(long us) {
    struct timespec time = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&time, NULL);
}

static int running(void) { return now_ns() < end_ns; }

/* Time between the beginnings and the ends of threads, summed over them. */
static atomic_ullong lived_ns;

/* Set by those who wait for somebody else, who goes on until then. */
static atomic_int consumed, read_out;

#define WAITER(name, ...)                                                 \
    static uint64_t name##_ns;                                            \
    FRAME void name(void) {                                               \
        uint64_t before = now_ns() - cpu_ns();                            \
        SPOIL_FRAME_POINTER();                                            \
        __VA_ARGS__                                                       \
        AFTER_CALL();                                                     \
        name##_ns += now_ns() - cpu_ns() - before;                        \
    }

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t condition_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static int signalled, pipe_ends[2], data;

/* A file whose pages are dropped from memory, to be read back by a fault each. */
#define FILE_BYTES (64 << 20)
static volatile char *pages;
static size_t page;
static int page_file;

static void evict(void) {
    madvise((void *)pages, FILE_BYTES, MADV_DONTNEED);
    posix_fadvise(page_file, 0, FILE_BYTES, POSIX_FADV_DONTNEED);
}

WAITER(wait_sleep, sleep_us(20000);)
WAITER(wait_short, sleep_us(200);)
WAITER(wait_mutex, pthread_mutex_lock(&mutex);)
WAITER(wait_condition, while (!signalled) pthread_cond_wait(&condition, &condition_mutex);)
WAITER(wait_pipe, char byte; if (read(pipe_ends[0], &byte, 1) != 1) exit(3);)
WAITER(wait_page, truth_sink += (uint64_t)pages[page * 4096];)
WAITER(wait_disk, if (pwrite(data, &mutex, sizeof mutex, 0) < 0 || fsync(data) != 0) exit(4);)

/* Holds the lock while it sleeps: whom the waiters of the mutex wait for. */
FRAME void hold_mutex(void) {
    SPOIL_FRAME_POINTER();
    pthread_mutex_lock(&mutex);
    sleep_us(15000);
    pthread_mutex_unlock(&mutex);
    AFTER_CALL();
}

#define THREAD_UNTIL(name, until, done, body)                             \
    FRAME void *name(void *unused) {                                      \
        uint64_t born = now_ns();                                         \
        prctl(PR_SET_NAME, #name);                                        \
        while (!(until)) { body }                                         \
        done;                                                             \
        lived_ns += now_ns() - born;                                      \
        return unused;                                                    \
    }
#define THREAD(name, body) THREAD_UNTIL(name, !running(), AFTER_CALL(), body)

THREAD(sleeper, wait_sleep();)
THREAD(napper, wait_short();)
THREAD(holder, hold_mutex(); sleep_us(5000);)
THREAD(locker, wait_mutex(); pthread_mutex_unlock(&mutex); sleep_us(100);)
THREAD_UNTIL(consumer, !running(), consumed = 1, pthread_mutex_lock(&condition_mutex); wait_condition(); signalled = 0;
             pthread_mutex_unlock(&condition_mutex);)
THREAD_UNTIL(producer, consumed, AFTER_CALL(), sleep_us(10000); pthread_mutex_lock(&condition_mutex); signalled = 1;
             pthread_cond_signal(&condition); pthread_mutex_unlock(&condition_mutex);)
THREAD_UNTIL(reader, !running(), read_out = 1, wait_pipe();)
THREAD_UNTIL(writer, read_out, AFTER_CALL(), sleep_us(12000); if (write(pipe_ends[1], "x", 1) != 1) exit(5);)
THREAD(syncer, wait_disk(); sleep_us(2000);)
THREAD(pager, evict(); for (int i = 0; i < 64 && running(); i++) { wait_page(); sleep_us(1000); page = (page + 4099) % (FILE_BYTES / 4096); })

static int scratch_file(char *path, size_t size, const char *name) {
    snprintf(path, size, "%s/%s", directory, name);
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (file < 0) exit(2);
    unlink(path);
    return file;
}

int main(int argc, char **argv) {
    void *(*entries[])(void *) = {sleeper, napper, holder, locker, consumer, producer, reader, writer, syncer, pager};
    enum { THREADS = sizeof entries / sizeof *entries };
    pthread_t threads[THREADS];
    char path[4096], block[65536];
    uint64_t entered = now_ns();
    seconds = argument(argc, argv, 1, 2);
    directory = argc > 2 ? argv[2] : ".";
    data = scratch_file(path, sizeof path, "nofp_waits.data");
    page_file = scratch_file(path, sizeof path, "nofp_waits.pages");
    memset(block, 1, sizeof block);
    for (int i = 0; i < FILE_BYTES / (int)sizeof block; i++)
        if (write(page_file, block, sizeof block) != sizeof block) return 2;
    fsync(page_file);
    pages = mmap(NULL, FILE_BYTES, PROT_READ, MAP_SHARED, page_file, 0);
    if (pages == MAP_FAILED || pipe(pipe_ends) != 0) return 2;
    madvise((void *)pages, FILE_BYTES, MADV_RANDOM);
    uint64_t began = now_ns();
    end_ns = began + (uint64_t)(seconds * 1e9);
    for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, entries[i], NULL);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    lived_ns += now_ns() - began;
    struct timespec cpu;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    uint64_t process_cpu_ns = (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec;
    printf("{\"wait_sleep\": %llu, \"wait_short\": %llu, \"wait_mutex\": %llu, \"wait_condition\": %llu, \"wait_pipe\": %llu, "
           "\"wait_disk\": %llu, \"wait_page\": %llu, \"lived\": %llu, \"before\": %llu, \"waited\": %llu}\n",
           (unsigned long long)wait_sleep_ns, (unsigned long long)wait_short_ns, (unsigned long long)wait_mutex_ns,
           (unsigned long long)wait_condition_ns, (unsigned long long)wait_pipe_ns, (unsigned long long)wait_disk_ns,
           (unsigned long long)wait_page_ns, (unsigned long long)lived_ns, (unsigned long long)(began - entered),
           (unsigned long long)(lived_ns + began - entered - process_cpu_ns));
    return 0;
}
