/* nofp_noreturn SECONDS: a function that ends in a call which never returns: the return address is the next function's. */
#include <setjmp.h>
#include "nofp.h"

BURNER(work_before_leaving)
static jmp_buf back;
static double seconds;

FRAME __attribute__((noreturn)) void burn_and_leave(void) {
    for (int i = 0; i < 10; i++) work_before_leaving(ROUNDS_PER_MS);
    longjmp(back, 1);
}

/* What is called here is the function's last instruction. Cold, as code that does not return is: no padding follows. */
FRAME __attribute__((noreturn, cold)) void ends_in_a_call(void) {
    truth_sink++;
    burn_and_leave();
}

/* Follows, with another frame size than the function before: its rules are the wrong ones. */
FRAME __attribute__((cold)) void next_function(void) {
    volatile char room[4000];
    room[0] = (char)truth_sink;
    truth_sink += (uint64_t)room[0];
}

int main(int argc, char **argv) {
    seconds = argument(argc, argv, 1, 1);
    SPOIL_FRAME_POINTER();
    while ((double)cpu_ns() < seconds * 1e9) {
        if (setjmp(back) == 0) ends_in_a_call();
        next_function();
    }
    return 0;
}
