/* The same allocator under names that leave the usual ones to others. */
#define NAME(name) je_##name
#include "dlopen_arena_lib.c"
