/* nofp_dlopen_main LIBRARY SECONDS: burns, loads a library, burns in it. */
#include <dlfcn.h>
#include "nofp.h"

BURNER(work_before_load)

FRAME void calls_library(void (*entry)(double), double seconds) {
    entry(seconds);
    AFTER_CALL();
}

int main(int argc, char **argv) {
    double seconds = argument(argc, argv, 2, 1);
    SPOIL_FRAME_POINTER();
    BURN(work_before_load, seconds);
    void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;
    if (!library) return 1;
    calls_library((void (*)(double))dlsym(library, "library_entry"), seconds);
    AFTER_CALL();
    return 0;
}
