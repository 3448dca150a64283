/* nofp_burn, static and loaded at a random address. */
#include "nofp_burn.c"
