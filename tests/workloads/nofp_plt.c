/* nofp_plt SECONDS: calls an empty function of a library, bound lazily, so that time passes in the linkage table. With
 * LD_BIND_NOT=1 in the environment every call goes through the dynamic linker. */
#include "nofp.h"

void empty_library_function(void);

FRAME void work_plt(void) {
    for (int i = 0; i < 10000; i++) empty_library_function();
    AFTER_CALL();
}

int main(int argc, char **argv) {
    double seconds = argument(argc, argv, 1, 1);
    SPOIL_FRAME_POINTER();
    while ((double)cpu_ns() < seconds * 1e9) work_plt();
    return 0;
}
