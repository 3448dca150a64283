/* nofp_vfork SECONDS: children that share their parent's memory and stack until they exit. Child and parent burn in turn. */
#include "nofp.h"

BURNER(work_vfork_child)
BURNER(work_after_vfork)

FRAME void one_child(void) {
    pid_t child = vfork();
    if (child == 0) {
        for (int i = 0; i < 5; i++) work_vfork_child(ROUNDS_PER_MS);
        _exit(0);
    }
    for (int i = 0; i < 5; i++) work_after_vfork(ROUNDS_PER_MS);
    waitpid(child, NULL, 0);
    AFTER_CALL();
}

int main(int argc, char **argv) {
    double seconds = argument(argc, argv, 1, 1);
    SPOIL_FRAME_POINTER();
    while ((double)cpu_ns() < seconds * 1e9) one_child();
    return 0;
}
