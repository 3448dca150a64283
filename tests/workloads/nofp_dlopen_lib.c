/* The library that nofp_dlopen_main loads while it is being profiled. */
#include "nofp.h"

BURNER(work_in_library)

FRAME void library_entry(double seconds) {
    BURN(work_in_library, seconds);
    AFTER_CALL();
}
