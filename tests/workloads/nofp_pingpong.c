/* nofp_pingpong ROUNDS: two threads hand a byte to and fro through two pipes. Prints how often they left their CPU. */
#include "nofp.h"
#include <sys/resource.h>

static int there[2], back[2];
static long rounds;
static double switches;

static double own_switches(void) {
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return (double)(usage.ru_nvcsw + usage.ru_nivcsw);
}

FRAME void *answer(void *unused) {
    char byte;
    for (long i = 0; i < rounds; i++)
        if (read(there[0], &byte, 1) != 1 || write(back[1], &byte, 1) != 1) exit(2);
    switches = own_switches();
    return unused;
}

FRAME void ask(void) {
    char byte = 'x';
    for (long i = 0; i < rounds; i++)
        if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1) exit(3);
    AFTER_CALL();
}

int main(int argc, char **argv) {
    pthread_t thread;
    struct timespec began, ended;
    rounds = (long)argument(argc, argv, 1, 100000);
    if (pipe(there) != 0 || pipe(back) != 0) return 4;
    clock_gettime(CLOCK_MONOTONIC, &began);
    pthread_create(&thread, NULL, answer, NULL);
    ask();
    pthread_join(thread, NULL);
    clock_gettime(CLOCK_MONOTONIC, &ended);
    double seconds = (double)(ended.tv_sec - began.tv_sec) + (double)(ended.tv_nsec - began.tv_nsec) / 1e9;
    printf("{\"rounds\": %ld, \"switches\": %.0f, \"seconds\": %.6f}\n", rounds, switches + own_switches(), seconds);
    return 0;
}
