// Memory grows at known places: anonymous pages touched, huge pages, a file read, memory shared, the heap moved. Prints the bytes of each.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HIDE __attribute__((noinline, noclone))
#define MIB (1024UL * 1024UL)

static volatile char sink;

static char *map(size_t bytes, int flags) {
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return memory;
}

static HIDE void touch(char *memory, size_t bytes) {
    for (size_t at = 0; at < bytes; at += 4096) memory[at] = 1;
}

HIDE char *grow_small_pages(size_t bytes) {
    char *memory = map(bytes, MAP_PRIVATE);
    madvise(memory, bytes, MADV_NOHUGEPAGE);
    touch(memory, bytes);
    return memory;
}

HIDE char *grow_twice_that(size_t bytes) {
    char *memory = map(2 * bytes, MAP_PRIVATE);
    madvise(memory, 2 * bytes, MADV_NOHUGEPAGE);
    touch(memory, 2 * bytes);
    return memory;
}

HIDE char *grow_huge_pages(size_t bytes) {
    char *memory = map(bytes + 2 * MIB, MAP_PRIVATE);
    memory = (char *)(((unsigned long)memory + 2 * MIB - 1) & ~(2 * MIB - 1));
    madvise(memory, bytes, MADV_HUGEPAGE);
    touch(memory, bytes);
    return memory;
}

HIDE char *grow_shared(size_t bytes) {
    char *memory = map(bytes, MAP_SHARED);
    touch(memory, bytes);
    return memory;
}

HIDE char *grow_file(const char *path, size_t bytes) {
    int fd = open(path, O_RDONLY);
    char *memory = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (memory == MAP_FAILED) {
        perror(path);
        exit(1);
    }
    char sum = 0;
    for (size_t at = 0; at < bytes; at += 4096) sum += memory[at];
    sink = sum;
    return memory;
}

HIDE void grow_heap(size_t bytes) {
    char *memory = sbrk(bytes);
    if (memory != (void *)-1) touch(memory, bytes);
}

HIDE void map_and_unmap(int rounds, size_t bytes) {
    for (int round = 0; round < rounds; round++) munmap(map(bytes, MAP_PRIVATE), bytes);
}

static HIDE void *thread(void *bytes) { return grow_small_pages((size_t)bytes); }

static long huge_bytes(void) {
    char line[256];
    long sum = 0, kib;
    FILE *smaps = fopen("/proc/self/smaps_rollup", "r");
    while (smaps && fgets(line, sizeof line, smaps))
        if (sscanf(line, "AnonHugePages: %ld", &kib) == 1) sum = kib * 1024;
    return sum;
}

int main(int argc, char **argv) {
    const char *folder = argc > 1 ? argv[1] : "/tmp";
    char path[4096];
    snprintf(path, sizeof path, "%s/memory_growth.data", folder);
    size_t file = 16 * MIB;
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    static char block[65536];
    memset(block, 7, sizeof block);
    for (size_t at = 0; at < file; at += sizeof block)
        if (write(fd, block, sizeof block) < 0) return 1;
    close(fd);
    // The agent needs a moment to see the mappings of a program that has just begun.
    usleep(300 * 1000);
    grow_small_pages(32 * MIB);
    usleep(150 * 1000);
    grow_twice_that(16 * MIB);
    usleep(150 * 1000);
    grow_huge_pages(32 * MIB);
    long huge = huge_bytes();
    usleep(150 * 1000);
    grow_shared(16 * MIB);
    usleep(150 * 1000);
    grow_file(path, file);
    usleep(150 * 1000);
    grow_heap(8 * MIB);
    usleep(150 * 1000);
    pthread_t other;
    pthread_create(&other, NULL, thread, (void *)(32 * MIB));
    pthread_join(other, NULL);
    map_and_unmap(100, MIB);
    // What was mapped is looked at a moment later; keep it until then.
    usleep(300 * 1000);
    unlink(path);
    printf("{\"grow_small_pages\": %lu, \"grow_twice_that\": %lu, \"grow_huge_pages\": %lu, \"huge_bytes\": %ld, \"grow_shared\": %lu, "
           "\"grow_file\": %lu, \"grow_heap\": %lu, \"map_and_unmap\": %lu}\n",
           64 * MIB, 32 * MIB, 32 * MIB, huge, 16 * MIB, file, 8 * MIB, 100 * MIB);
    return 0;
}
