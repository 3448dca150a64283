/* nofp_throw SECONDS: throws and catches through several frames; most of the time is the C++ runtime's own unwinder's. */
#include "nofp.h"

FRAME void throws(int number) {
    if (number >= 0) throw number;
    AFTER_CALL();
}

/* Has something to destroy on the way out, so that the exception stops here too. */
struct Guard {
    ~Guard() { truth_sink = truth_sink + 1; }
};

FRAME void passes_on(int depth, int number) {
    Guard guard;
    if (depth > 0)
        passes_on(depth - 1, number);
    else
        throws(number);
    AFTER_CALL();
}

FRAME void catches(int number) {
    try {
        passes_on(4, number);
    } catch (int caught) {
        truth_sink = truth_sink + (uint64_t)caught;
    }
    AFTER_CALL();
}

int main(int argc, char **argv) {
    double seconds = argument(argc, argv, 1, 1);
    SPOIL_FRAME_POINTER();
    for (int i = 0; (double)cpu_ns() < seconds * 1e9; i++) catches(i);
    return 0;
}
