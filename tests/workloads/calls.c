// Makes a known number of each system call: fast, failing, sleeping, interrupted, unfinished ones, in threads and processes, and says so.
// usage: calls [BATCHES [SIZE]]: batches of fast calls in each of three threads, a millisecond apart, and how large they are.
//        calls --wait SECONDS: one thread in epoll_pwait for ever, one in ppoll.
// The calls that are counted are ones that neither the library nor the dynamic linker makes by itself.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define THREADS 3
#define SLEEPS 10
#define INTERRUPTED 4
#define EXEC_CALLS 7
#define COMPAT_CALLS 6

static long batches = 300, size = 1;
static long long fast_ns, slept_ns;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

// A pause that uses none of the counted calls.
static void pause_ms(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    syscall(SYS_ppoll, NULL, 0, &t, NULL, 8);
}

static void *batch_thread(void *unused)
{
    (void)unused;
    long long fast = 0;
    for (long batch = 0; batch < batches; batch++) {
        long long start = now();
        for (long i = 0; i < 100 * size; i++)
            syscall(SYS_getppid);
        fast += now() - start;
        for (long i = 0; i < 10 * size; i++)
            syscall(SYS_fchmodat, AT_FDCWD, "/nonexistent/file", 0600);
        for (long i = 0; i < 5 * size; i++)
            syscall(SYS_fsync, -1);
        pause_ms(1);
    }
    long long slept = 0;
    for (int i = 0; i < SLEEPS; i++) {
        struct timespec t = {0, 20000000};
        long long start = now();
        syscall(SYS_nanosleep, &t, NULL);
        slept += now() - start;
    }
    pthread_mutex_lock(&lock);
    fast_ns += fast;
    slept_ns += slept;
    pthread_mutex_unlock(&lock);
    return NULL;
}

static int pipes[2];
static volatile int reader_tid, reader_done;

static void on_signal(int number)
{
    (void)number;
}

// One read that is interrupted: with readv it begins again, with preadv2 it fails. The number says which.
static void *reader_thread(void *call)
{
    char byte;
    struct iovec into = {&byte, 1};
    reader_tid = syscall(SYS_gettid);
    if ((long)call == SYS_readv)
        syscall(SYS_readv, pipes[0], &into, 1);
    else
        for (int i = 0; i < INTERRUPTED; i++)
            syscall(SYS_preadv2, pipes[0], &into, 1, -1l, -1l, 0);
    reader_done = 1;
    return NULL;
}

static void interrupt_reader(long call, int signal)
{
    pthread_t thread;
    reader_tid = reader_done = 0;
    pthread_create(&thread, NULL, reader_thread, (void *)call);
    while (!reader_tid)
        pause_ms(1);
    // A signal between two calls would be lost for the second kind, so go on until it is done.
    for (int i = 0; call == SYS_readv ? i < INTERRUPTED : !reader_done; i++) {
        pause_ms(30);
        syscall(SYS_tgkill, getpid(), reader_tid, signal);
    }
    pause_ms(30);
    if (call == SYS_readv && write(pipes[1], "x", 1) != 1)
        abort();
    pthread_join(thread, NULL);
}

static void *wait_for_ever(void *unused)
{
    (void)unused;
    struct epoll_event event;
    int epoll = epoll_create1(0);
    syscall(SYS_epoll_pwait, epoll, &event, 1, -1, NULL, 8);
    return NULL;
}

static char *self;

static void *exec_thread(void *unused)
{
    (void)unused;
    pause_ms(20);
    execl(self, self, "--after-exec", NULL);
    _exit(3);
}

static int run_child(void (*run)(void))
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        run();
        _exit(0);
    }
    return waitpid(child, &status, 0) == child && status == 0;
}

// A thread that is not the first one becomes another program.
static void exec_from_thread(void)
{
    pthread_t thread;
    pthread_create(&thread, NULL, exec_thread, NULL);
    pthread_join(thread, NULL);
    _exit(4);
}

// A sleep that is stopped and goes on: the kernel carries it on by another call.
static void stopped_sleep(void)
{
    pid_t parent = getpid();
    pid_t child = fork();
    if (child == 0) {
        pause_ms(30);
        kill(parent, SIGSTOP);
        pause_ms(30);
        kill(parent, SIGCONT);
        _exit(0);
    }
    struct timespec t = {0, 200000000};
    syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &t, NULL);
    waitpid(child, NULL, 0);
}

static int compat_works(void)
{
#ifdef __x86_64__
    pid_t child = fork();
    if (child == 0) {
        long result;
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(64) : "memory", "r8", "r9", "r10", "r11");
        _exit(result > 0 ? 0 : 1);
    }
    int status = 1;
    waitpid(child, &status, 0);
    return status == 0;
#else
    return 0;
#endif
}

static void compat_calls(void)
{
#ifdef __x86_64__
    for (int i = 0; i < COMPAT_CALLS; i++) {
        long result;
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(57), "b"(0), "c"(0) : "memory", "r8", "r9", "r10", "r11");
    }
#endif
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "--after-exec")) {
        for (int i = 0; i < EXEC_CALLS; i++)
            syscall(SYS_getpgid, 0);
        return 0;
    }
    if (argc > 2 && !strcmp(argv[1], "--wait")) {
        pthread_t thread;
        pthread_create(&thread, NULL, wait_for_ever, NULL);
        pause_ms(atol(argv[2]) * 1000);
        return 0;
    }
    self = realpath("/proc/self/exe", NULL);
    batches = argc > 1 ? atol(argv[1]) : batches;
    size = argc > 2 ? atol(argv[2]) : size;
    // SIGUSR1 makes a call begin again, SIGUSR2 makes it fail.
    struct sigaction again = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, fail = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &again, NULL);
    sigaction(SIGUSR2, &fail, NULL);

    pthread_t threads[THREADS], waiter;
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, batch_thread, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    if (pipe(pipes))
        abort();
    interrupt_reader(SYS_readv, SIGUSR1);
    interrupt_reader(SYS_preadv2, SIGUSR2);
    int execed = run_child(exec_from_thread);
    int stopped = run_child(stopped_sleep);
    int compat = compat_works();
    if (compat)
        compat_calls();
    for (int i = 0; i < 5; i++) {
        pid_t child = vfork();
        if (child == 0)
            _exit(0);
        waitpid(child, NULL, 0);
    }
    for (int i = 0; i < 4; i++)
        syscall(1000);
    for (int i = 0; i < 2; i++)
        syscall(-5);
    pthread_create(&waiter, NULL, wait_for_ever, NULL);
    pause_ms(20);

    printf("{\"getppid\":%ld,\"fchmodat\":%ld,\"fsync\":%ld,\"nanosleep\":%d,\"readv\":1,\"readv_restarted\":%d,\"preadv2\":%d,"
           "\"getpgid\":%d,\"clock_nanosleep\":%d,\"setpgid32\":%d,\"vfork\":5,\"syscall_1000\":4,\"unknown\":2,"
           "\"slept_ns\":%lld,\"fast_ns\":%lld}\n",
           THREADS * batches * 100 * size, THREADS * batches * 10 * size, THREADS * batches * 5 * size, THREADS * SLEEPS,
           INTERRUPTED, INTERRUPTED, execed ? EXEC_CALLS : 0, stopped, compat ? COMPAT_CALLS : 0, slept_ns, fast_ns);
    return 0;
}
