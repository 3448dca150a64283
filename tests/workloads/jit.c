/* jit SECONDS [hostile]: copies a function into anonymous memory, names it in a perf map, and burns there. With `hostile` the
 * map is a link to a file elsewhere, which must not be followed. */
#include <sys/mman.h>
#include "truth.h"

#define CODE_BYTES 256

/* Registers and its argument only, so that it runs wherever its bytes are. */
__attribute__((noinline)) uint64_t loop_template(uint64_t rounds) {
    uint64_t value = rounds;
    for (uint64_t i = 0; i < rounds; i++) value = value * 6364136223846793005u + i;
    return value;
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 1.0;
    char name[64];
    void *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED) return 1;
    memcpy(code, (void *)loop_template, CODE_BYTES);
    if (mprotect(code, 4096, PROT_READ | PROT_EXEC) != 0) return 1;
    __builtin___clear_cache((char *)code, (char *)code + CODE_BYTES);
    snprintf(name, sizeof name, "/tmp/perf-%d.map", getpid());
    if (argc > 2) {
        FILE *elsewhere = fopen("/tmp/perf-agent-test-elsewhere", "w");
        if (!elsewhere) return 1;
        fprintf(elsewhere, "%lx %x planted_name\n", (unsigned long)code, CODE_BYTES);
        fclose(elsewhere);
        if (symlink("/tmp/perf-agent-test-elsewhere", name) != 0) return 1;
    } else {
        FILE *map = fopen(name, "w");
        if (!map) return 1;
        fprintf(map, "%lx %x jitted_loop\n", (unsigned long)code, CODE_BYTES);
        fclose(map);
    }
    uint64_t (*jitted)(uint64_t) = (uint64_t (*)(uint64_t))code;
    while ((double)cpu_ns() < seconds * 1e9) truth_sink += jitted(ROUNDS_PER_MS);
    usleep(300000);
    unlink("/tmp/perf-agent-test-elsewhere");
    return 0;
}
