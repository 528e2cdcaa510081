// Times the operations that `cargo xtask bench` compares with Linux. Prints one line each:
// "NAME NANOSECONDS_PER_OPERATION", the best of several rounds. Built static; the same file runs on both.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 5
#define MIB (1024 * 1024)

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static void getpid_once(void) { syscall(SYS_getpid); }

static void clock_once(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
}

static int ends[2];

static void pipe_once(void) {
    char byte = 'x';
    if (write(ends[1], &byte, 1) != 1 || read(ends[0], &byte, 1) != 1) fail("pipe");
}

static atomic_uint turn;

static void futex_pass(unsigned mine, unsigned other) {
    while (atomic_load(&turn) != mine) syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, other, NULL, NULL, 0);
    atomic_store(&turn, other);
    syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void *futex_partner(void *count) {
    for (long i = 0; i < (long)count; i++) futex_pass(1, 0);
    return NULL;
}

static void *nothing(void *argument) { return argument; }

static void thread_once(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, nothing, NULL) != 0) fail("pthread_create");
    pthread_join(thread, NULL);
}

static void fork_once(void) {
    pid_t child = fork();
    if (child < 0) fail("fork");
    if (child == 0) _exit(0);
    if (waitpid(child, NULL, 0) != child) fail("waitpid");
}

static void mmap_once(void) {
    char *memory = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("mmap");
    for (size_t offset = 0; offset < MIB; offset += 4096) memory[offset] = 1;
    munmap(memory, MIB);
}

static int file;

static void read_once(void) {
    char page[4096];
    if (pread(file, page, sizeof page, 0) != sizeof page) fail("pread");
}

static void measure(const char *name, void (*operation)(void), long count) {
    uint64_t best = UINT64_MAX;
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t start = now();
        for (long i = 0; i < count; i++) operation();
        uint64_t taken = now() - start;
        if (taken < best) best = taken;
    }
    printf("%s %.1f\n", name, (double)best / (double)count);
    fflush(stdout);
}

static void measure_futex(long count) {
    uint64_t best = UINT64_MAX;
    for (int round = 0; round < ROUNDS; round++) {
        pthread_t partner;
        atomic_store(&turn, 0);
        if (pthread_create(&partner, NULL, futex_partner, (void *)count) != 0) fail("pthread_create");
        uint64_t start = now();
        for (long i = 0; i < count; i++) futex_pass(0, 1);
        pthread_join(partner, NULL);
        uint64_t taken = now() - start;
        if (taken < best) best = taken;
    }
    printf("futex-ping-pong %.1f\n", (double)best / (double)count);
    fflush(stdout);
}

int main(void) {
    char page[4096] = {1};
    if (pipe(ends) != 0) fail("pipe");
    file = open("/tmp/microbench", O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (file < 0) file = open("/microbench", O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || write(file, page, sizeof page) != sizeof page) fail("write");
    measure("getpid", getpid_once, 100000);
    measure("clock_gettime", clock_once, 100000);
    measure("pipe-write-read", pipe_once, 20000);
    measure_futex(5000);
    measure("thread-create-join", thread_once, 500);
    measure("fork-wait", fork_once, 100);
    measure("mmap-touch-munmap-1MiB", mmap_once, 100);
    measure("read-4KiB-cached", read_once, 20000);
    return 0;
}
