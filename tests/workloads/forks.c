/* forks SECONDS: a child and a grandchild that are there from the start, and a child that comes later; each busy in its
 * own function. The parent waits. */
#include "truth.h"

BURNER(work_child)
BURNER(work_grandchild)
BURNER(work_late_child)
static double seconds;

static void burn(void (*work)(uint64_t), double share) {
    while ((double)cpu_ns() < seconds * share * 1e9) work(ROUNDS_PER_MS);
}

int main(int argc, char **argv) {
    seconds = argc > 1 ? atof(argv[1]) : 2.0;
    if (fork() == 0) {
        if (fork() == 0) {
            burn(work_grandchild, 1.0);
            _exit(0);
        }
        burn(work_child, 1.0);
        wait(NULL);
        _exit(0);
    }
    usleep((useconds_t)(seconds * 0.25e6));
    if (fork() == 0) {
        burn(work_late_child, 0.5);
        _exit(0);
    }
    while (wait(NULL) > 0) {}
    return 0;
}
