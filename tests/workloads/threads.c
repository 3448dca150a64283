/* threads SECONDS: two threads with names of their own, one of them started later, each busy in its own function. */
#include "truth.h"

BURNER(work_early)
BURNER(work_late)
static double seconds;

static void *early(void *unused) {
    prctl(PR_SET_NAME, "early");
    while ((double)cpu_ns() < seconds * 1e9) work_early(ROUNDS_PER_MS);
    return unused;
}

static void *late(void *unused) {
    prctl(PR_SET_NAME, "late");
    while ((double)cpu_ns() < seconds * 0.5e9) work_late(ROUNDS_PER_MS);
    return unused;
}

int main(int argc, char **argv) {
    pthread_t one, two;
    seconds = argc > 1 ? atof(argv[1]) : 3.0;
    pthread_create(&one, NULL, early, NULL);
    usleep(500000);
    pthread_create(&two, NULL, late, NULL);
    pthread_join(one, NULL);
    pthread_join(two, NULL);
    printf("{\"work_early\":%llu,\"work_late\":%llu}\n", (unsigned long long)work_early_ns, (unsigned long long)work_late_ns);
    return 0;
}
