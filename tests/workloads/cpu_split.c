/* cpu_split SECONDS: spends its CPU time in four functions, 40/30/20/10, and prints what it really was. */
#include "truth.h"

BURNER(work_forty)
BURNER(work_thirty)
BURNER(work_twenty)
BURNER(work_ten)

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 5.0;
    while ((double)cpu_ns() < seconds * 1e9) {
        work_forty(4 * ROUNDS_PER_MS);
        work_thirty(3 * ROUNDS_PER_MS);
        work_twenty(2 * ROUNDS_PER_MS);
        work_ten(1 * ROUNDS_PER_MS);
    }
    printf("{\"total_ns\":%llu,\"work_forty\":%llu,\"work_thirty\":%llu,\"work_twenty\":%llu,\"work_ten\":%llu}\n",
           (unsigned long long)cpu_ns(), (unsigned long long)work_forty_ns, (unsigned long long)work_thirty_ns,
           (unsigned long long)work_twenty_ns, (unsigned long long)work_ten_ns);
    return 0;
}
