/* regression SECONDS: a service that spends a tenth of its CPU time in work_extra, and half of it once it got SIGUSR1. */
#include <signal.h>
#include "truth.h"

BURNER(work_usual)
BURNER(work_extra)

static volatile sig_atomic_t is_slow;

static void slow_down(int number) {
    (void)number;
    is_slow = 1;
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 5.0;
    signal(SIGUSR1, slow_down);
    while ((double)cpu_ns() < seconds * 1e9) {
        work_usual((is_slow ? 5 : 9) * ROUNDS_PER_MS);
        work_extra((is_slow ? 5 : 1) * ROUNDS_PER_MS);
    }
    printf("{\"total_ns\":%llu,\"work_usual\":%llu,\"work_extra\":%llu}\n", (unsigned long long)cpu_ns(),
           (unsigned long long)work_usual_ns, (unsigned long long)work_extra_ns);
    return 0;
}
