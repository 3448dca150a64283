/* nofp_altstack SECONDS: as nofp_signal, but the handler has a stack of its own, where a second handler burns; in another function
 * for the first half of the time. */
#include <sys/time.h>
#include "nofp.h"

#define STACK_BYTES (256 * 1024)

BURNER(work_at_first)
BURNER(work_in_nested)
static double seconds;
static volatile sig_atomic_t done;

static inline void set_timer(void) {
    struct itimerval soon = {.it_value.tv_usec = 2000};
    setitimer(ITIMER_REAL, &soon, NULL);
}

FRAME void nested_handler(int signal) {
    (void)signal;
    for (int i = 0; i < 10; i++) {
        if ((double)cpu_ns() < seconds * 0.5e9)
            work_at_first(ROUNDS_PER_MS);
        else
            work_in_nested(ROUNDS_PER_MS);
    }
}

FRAME void handler(int signal) {
    (void)signal;
    raise(SIGUSR1);
    AFTER_CALL();
    if ((double)cpu_ns() >= seconds * 1e9) {
        done = 1;
        return;
    }
    set_timer();
}

FRAME uint64_t interrupted_inner(uint64_t value) {
    while (!done) value = value * 6364136223846793005u + 1;
    return value;
}

FRAME void interrupted_outer(void) {
    truth_sink = interrupted_inner(truth_sink);
    AFTER_CALL();
}

int main(int argc, char **argv) {
    struct sigaction outer = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    struct sigaction nested = {.sa_handler = nested_handler, .sa_flags = SA_ONSTACK};
    stack_t stack = {.ss_sp = malloc(STACK_BYTES), .ss_size = STACK_BYTES};
    seconds = argument(argc, argv, 1, 1);
    if (sigaltstack(&stack, NULL) != 0) return 1;
    sigaction(SIGALRM, &outer, NULL);
    sigaction(SIGUSR1, &nested, NULL);
    set_timer();
    SPOIL_FRAME_POINTER();
    interrupted_outer();
    AFTER_CALL();
    return 0;
}
