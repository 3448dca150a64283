/* nofp_threads SECONDS [CPU]: two threads burn, each from an entry of its own, on this CPU if one is named. */
#include "nofp.h"
#include <sched.h>

BURNER(work_thread)
static double seconds;

FRAME void *thread_entry(void *unused) {
    SPOIL_FRAME_POINTER();
    BURN(work_thread, seconds);
    return unused;
}

int main(int argc, char **argv) {
    pthread_t threads[2];
    seconds = argument(argc, argv, 1, 1);
    if (argc > 2) {
        cpu_set_t cpus;
        CPU_ZERO(&cpus);
        CPU_SET(atoi(argv[2]), &cpus);
        if (sched_setaffinity(0, sizeof cpus, &cpus) != 0) return 2;
    }
    for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, thread_entry, NULL);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    return 0;
}
