/* nofp_vdso SECONDS: reads a clock through the vDSO. Where the clock needs the kernel, the time is spent there instead. */
#include "nofp.h"

FRAME void work_vdso(void) {
    struct timespec now;
    for (int i = 0; i < 10000; i++) clock_gettime(CLOCK_MONOTONIC, &now);
    AFTER_CALL();
}

int main(int argc, char **argv) {
    double seconds = argument(argc, argv, 1, 1);
    SPOIL_FRAME_POINTER();
    while ((double)cpu_ns() < seconds * 1e9) work_vdso();
    return 0;
}
