/* The library that dlopen_main loads while it is being profiled. */
#include "truth.h"

BURNER(work_in_library)
