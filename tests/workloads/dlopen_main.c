/* dlopen_main LIBRARY SECONDS: burns, loads a library, burns in it. */
#include <dlfcn.h>
#include "truth.h"

BURNER(work_before_load)

int main(int argc, char **argv) {
    double seconds = argc > 2 ? atof(argv[2]) : 1.0;
    while ((double)cpu_ns() < seconds * 1e9) work_before_load(ROUNDS_PER_MS);
    void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;
    if (!library) return 1;
    void (*work)(uint64_t) = (void (*)(uint64_t))dlsym(library, "work_in_library");
    while ((double)cpu_ns() < 2 * seconds * 1e9) work(ROUNDS_PER_MS);
    return 0;
}
