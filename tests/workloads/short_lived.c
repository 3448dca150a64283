/* short_lived COUNT: one process after another, each an exec of its own that burns 30 ms. Prints their CPU time together. */
#include <sys/resource.h>
#include "truth.h"

BURNER(work_short)

int main(int argc, char **argv) {
    if (argc > 2) {
        while (cpu_ns() < 30000000u) work_short(ROUNDS_PER_MS / 4);
        return 0;
    }
    int count = argc > 1 ? atoi(argv[1]) : 100;
    for (int i = 0; i < count; i++) {
        if (fork() == 0) {
            execl("/proc/self/exe", "short_lived", "1", "child", (char *)NULL);
            _exit(1);
        }
        wait(NULL);
    }
    struct timespec own;
    struct rusage children;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own);
    getrusage(RUSAGE_CHILDREN, &children);
    double total = (double)own.tv_sec * 1e9 + (double)own.tv_nsec +
                   (double)(children.ru_utime.tv_sec + children.ru_stime.tv_sec) * 1e9 +
                   (double)(children.ru_utime.tv_usec + children.ru_stime.tv_usec) * 1e3;
    printf("{\"total_ns\":%.0f}\n", total);
    return 0;
}
