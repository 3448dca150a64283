/* nofp_threads SECONDS: two threads burn, each from an entry of its own. */
#include "nofp.h"

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
    for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, thread_entry, NULL);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    return 0;
}
