/* nofp_exec_storm SECONDS RATE: starts this many processes a second, each an exec of its own that ends at once. Prints how
 * many it was. */
#include "nofp.h"

static uint64_t wall_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc > 3) return 0;
    double seconds = argument(argc, argv, 1, 1), rate = argument(argc, argv, 2, 100);
    uint64_t start = wall_ns(), done = 0;
    SPOIL_FRAME_POINTER();
    while ((double)(wall_ns() - start) < seconds * 1e9) {
        double due = (double)done * 1e9 / rate, now = (double)(wall_ns() - start);
        if (now < due) usleep((useconds_t)((due - now) / 1e3) + 1);
        pid_t child = fork();
        if (child == 0) {
            execl("/proc/self/exe", "nofp_exec_storm", "0", "0", "child", (char *)NULL);
            _exit(1);
        }
        int status = 1;
        waitpid(child, &status, 0);
        if (status == 0) done++;
    }
    printf("{\"execs\":%llu}\n", (unsigned long long)done);
    return 0;
}
