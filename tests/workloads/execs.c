/* execs SECONDS: burns, becomes another program in the same process, burns again. */
#include "truth.h"

BURNER(work_before_exec)
BURNER(work_after_exec)

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 1.0;
    if (argc > 2) {
        uint64_t start = cpu_ns();
        while ((double)(cpu_ns() - start) < seconds * 1e9) work_after_exec(ROUNDS_PER_MS);
        return 0;
    }
    while ((double)cpu_ns() < seconds * 1e9) work_before_exec(ROUNDS_PER_MS);
    execl("/proc/self/exe", "execs", argc > 1 ? argv[1] : "1", "again", (char *)NULL);
    return 1;
}
