/* nofp_realigned SECONDS: burns under a function that aligns its stack and still has to find its arguments, so that its frame
 * address is what memory says, not a register and an offset. */
#include <alloca.h>
#include "nofp.h"

BURNER(work_under_realigned)

/* Arguments on the stack, found through a register of their own once the stack is aligned. */
FRAME double realigned(int a, int b, int c, int d, int e, int f, int g, int h, int room, double seconds) {
    __attribute__((aligned(64))) volatile char local[128];
    volatile char *more = alloca((size_t)room);
    local[0] = (char)(a + b + c + d + e + f);
    more[0] = local[0];
    BURN(work_under_realigned, seconds);
    AFTER_CALL();
    return (double)(local[0] + more[0] + g + h);
}

FRAME void calls_realigned(double seconds) {
    truth_sink += (uint64_t)realigned(1, 2, 3, 4, 5, 6, 7, 8, 200, seconds);
    AFTER_CALL();
}

int main(int argc, char **argv) {
    SPOIL_FRAME_POINTER();
    calls_realigned(argument(argc, argv, 1, 1));
    AFTER_CALL();
    return 0;
}
