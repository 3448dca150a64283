/* nofp_burn, linked for a fixed address. */
#include "nofp_burn.c"
