/* recurse DEPTH SECONDS: burns at the bottom of a recursion. */
#include "truth.h"

BURNER(work_at_the_bottom)

__attribute__((noinline)) void descend(int depth, double seconds) {
    if (depth > 0) {
        descend(depth - 1, seconds);
        truth_sink++;
        return;
    }
    while ((double)cpu_ns() < seconds * 1e9) work_at_the_bottom(ROUNDS_PER_MS);
}

int main(int argc, char **argv) {
    descend(argc > 1 ? atoi(argv[1]) : 100, argc > 2 ? atof(argv[2]) : 2.0);
    return 0;
}
