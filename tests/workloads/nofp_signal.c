/* nofp_signal SECONDS: a timer's signal interrupts a loop without calls at whatever instruction it is; the handler burns. */
#include <sys/time.h>
#include "nofp.h"

BURNER(work_in_handler)
static double seconds;
static volatile sig_atomic_t done;

/* One signal, two milliseconds from now: the loop gets on however long the handler takes. */
static inline void set_timer(void) {
    struct itimerval soon = {.it_value.tv_usec = 2000};
    setitimer(ITIMER_REAL, &soon, NULL);
}

FRAME void handler(int signal) {
    (void)signal;
    for (int i = 0; i < 10; i++) work_in_handler(ROUNDS_PER_MS);
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
    struct sigaction action = {.sa_handler = handler};
    seconds = argument(argc, argv, 1, 1);
    sigaction(SIGALRM, &action, NULL);
    set_timer();
    SPOIL_FRAME_POINTER();
    interrupted_outer();
    AFTER_CALL();
    return 0;
}
