/* getppid_loop CALLS: makes that many calls of the cheapest system call, as fast as it can. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    long calls = argc > 1 ? atol(argv[1]) : 1000000;
    for (long i = 0; i < calls; i++)
        syscall(SYS_getppid);
    printf("{\"calls\": %ld}\n", calls);
    return 0;
}
