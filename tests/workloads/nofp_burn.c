/* nofp_burn SECONDS: burns two calls below main. The same source is also linked in other ways: nofp_burn_*. */
#include "nofp.h"

BURNER(work_linked)

FRAME void calls_work(double seconds) {
    BURN(work_linked, seconds);
    AFTER_CALL();
}

int main(int argc, char **argv) {
    SPOIL_FRAME_POINTER();
    calls_work(argument(argc, argv, 1, 1));
    AFTER_CALL();
    return 0;
}
