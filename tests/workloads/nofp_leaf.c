/* nofp_leaf SECONDS: burns in a function that has no frame at all; on arm64 its return address is in a register only. */
#include "nofp.h"

FRAME uint64_t work_leaf(uint64_t rounds, uint64_t value) {
    for (uint64_t i = 0; i < rounds; i++) value = value * 6364136223846793005u + i;
    return value;
}

FRAME void calls_leaf(double seconds) {
    while ((double)cpu_ns() < seconds * 1e9) truth_sink = work_leaf(ROUNDS_PER_MS, truth_sink);
    AFTER_CALL();
}

int main(int argc, char **argv) {
    SPOIL_FRAME_POINTER();
    calls_leaf(argument(argc, argv, 1, 1));
    AFTER_CALL();
    return 0;
}
