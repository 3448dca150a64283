/* nofp_maps SECONDS [MAPPINGS]: makes thousands of executable mappings of its own file, none next to another, then burns. */
#include <fcntl.h>
#include <sys/mman.h>
#include "nofp.h"

BURNER(work_many_maps)

FRAME void burns_among_maps(double seconds) {
    BURN(work_many_maps, seconds);
    AFTER_CALL();
}

int main(int argc, char **argv) {
    double seconds = argument(argc, argv, 1, 1);
    size_t count = (size_t)argument(argc, argv, 2, 10000), page = (size_t)sysconf(_SC_PAGESIZE);
    int file = open("/proc/self/exe", O_RDONLY);
    char *room = mmap(NULL, 2 * count * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (file < 0 || room == MAP_FAILED) return 1;
    SPOIL_FRAME_POINTER();
    for (size_t i = 0; i < count; i++) {
        void *place = room + 2 * i * page;
        if (mmap(place, page, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, file, 0) != place) return 1;
    }
    printf("{\"mappings\":%zu}\n", count);
    fflush(stdout);
    burns_among_maps(seconds);
    AFTER_CALL();
    return 0;
}
