/* nofp_deep DEPTH SECONDS: burns at the bottom of a recursion. */
#include "nofp.h"

BURNER(work_at_the_bottom)

FRAME void descend(int depth, double seconds) {
    if (depth > 0) {
        descend(depth - 1, seconds);
        AFTER_CALL();
        return;
    }
    BURN(work_at_the_bottom, seconds);
}

int main(int argc, char **argv) {
    SPOIL_FRAME_POINTER();
    descend((int)argument(argc, argv, 1, 100), argument(argc, argv, 2, 1));
    AFTER_CALL();
    return 0;
}
