/* nofp_huge_frame SECONDS: burns in many functions, each in code of its own, below one whose frame is larger than any copy of a stack. */
#include "nofp.h"

/* Far apart, so that a walk meets a table that is not loaded again and again. */
#define FAR(number)                                                                  \
    __attribute__((noipa, aligned(65536))) static void burn_##number(void) {         \
        SPIN(ROUNDS_PER_MS * 20);                                                    \
    }
FAR(0) FAR(1) FAR(2) FAR(3) FAR(4) FAR(5) FAR(6) FAR(7) FAR(8) FAR(9)

FRAME static void calls_all(double seconds) {
    void (*const burn[])(void) = {burn_0, burn_1, burn_2, burn_3, burn_4, burn_5, burn_6, burn_7, burn_8, burn_9};
    for (int i = 0; (double)cpu_ns() < seconds * 1e9; i++)
        burn[i % 10]();
    AFTER_CALL();
}

FRAME static int huge_frame(double seconds) {
    volatile char frame[300 << 10];
    frame[0] = frame[sizeof frame - 1] = 1;
    calls_all(seconds);
    return frame[0] + frame[sizeof frame - 1];
}

int main(int argc, char **argv) { return huge_frame(argc > 1 ? atof(argv[1]) : 1.0) != 2; }
