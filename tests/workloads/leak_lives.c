/* Blocks whose lives are not simple: older than the recording, freed by other threads, copied by fork. Prints what each place still has, and how many
 * blocks were freed that are older than the recording or were copied by fork.
 *
 * Arguments: seconds to wait before it begins; `-` allocates the older blocks at once and waits for a line on standard input instead, and for another one before it ends. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define HIDE __attribute__((noinline, noclone))

enum { OLDER = 700, PARENT = 400, GIVEN = 300, CHILD = 1000 };

static void *older[OLDER], *parents[PARENT], *given[GIVEN], *childs[CHILD];

HIDE void site_older(void) {
    for (int i = 0; i < OLDER; i++) older[i] = malloc(48);
}

HIDE void site_parent(void) {
    for (int i = 0; i < PARENT; i++) parents[i] = malloc(128);
}

HIDE void site_given(void) {
    for (int i = 0; i < GIVEN; i++) given[i] = malloc(64);
}

HIDE void site_child(void) {
    for (int i = 0; i < CHILD; i++) childs[i] = malloc(96);
}

static void *giver(void *unused) {
    site_given();
    return unused;
}

/* What another thread allocated, but for the last ten. */
static void *taker(void *unused) {
    for (int i = 0; i < GIVEN - 10; i++) free(given[i]);
    return unused;
}

static void in_thread(void *(*work)(void *)) {
    pthread_t thread;
    pthread_create(&thread, NULL, work, NULL);
    pthread_join(thread, NULL);
}

static void wait_for_line(void) {
    char byte;
    while (read(0, &byte, 1) == 1 && byte != '\n') {}
}

int main(int argc, char **argv) {
    int attached = argc > 1 && strcmp(argv[1], "-") == 0;
    if (!attached) usleep((useconds_t)((argc > 1 ? atof(argv[1]) : 1) * 1e6));
    site_older();
    if (attached) wait_for_line();
    for (int i = 0; i < OLDER; i++) free(older[i]);
    site_parent();
    in_thread(giver);
    in_thread(taker);
    int done[2];
    if (pipe(done) != 0) return 1;
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        /* The recording has to find it first. */
        sleep(2);
        /* Copies, which are the parent's blocks still. */
        for (int i = 0; i < 250; i++) free(parents[i]);
        site_child();
        for (int i = 0; i < 100; i++) free(childs[i]);
        if (write(done[1], "", 1) != 1) _exit(1);
        for (;;) pause();
    }
    char byte;
    if (read(done[0], &byte, 1) != 1) return 1;
    for (int i = 0; i < 50; i++) free(parents[i]);
    char line[400];
    int length = snprintf(line, sizeof line,
                          "{\"site_parent_live_count\": %d, \"site_parent_live_bytes\": %d, \"site_given_live_count\": 10, \"site_given_live_bytes\": 640, "
                          "\"site_child_live_count\": %d, \"site_child_live_bytes\": %d, \"site_older_live_count\": 0, \"site_older_live_bytes\": 0, \"unseen_frees\": %d}\n",
                          PARENT - 50, (PARENT - 50) * 128, CHILD - 100, (CHILD - 100) * 96, 250 + (attached ? OLDER : 0));
    /* No buffer of the library's, which would be a block too. */
    if (write(1, line, (size_t)length) != length) return 1;
    if (attached) wait_for_line();
    /* Both end together: what either holds then is what it holds. */
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    return 0;
}
