/* The library of nofp_plt. */
#include "nofp.h"

FRAME void empty_library_function(void) {}
