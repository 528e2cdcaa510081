// Makes system calls at random, with wild arguments, from several processes and threads at once: the kernel must
// survive. usage: wild CALLS WORKERS [SEED]. Prints "survived CALLS calls" and exits 0.
//
// The parent counts calls in shared memory, replaces workers that died, and kills those that stand still.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST_WORKERS 16
#define LAST_CALL 462

struct shared {
    atomic_ulong calls[MOST_WORKERS];
    atomic_ulong last[MOST_WORKERS];
};

static struct shared *shared;
static char arena[1 << 20];

static uint64_t next(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static uint64_t argument(uint64_t *state) {
    static const uint64_t edges[] = {
        0, 1, 2, 3, 4, 8, 16, 64, 255, 4095, 4096, 65536, 1 << 20, 0x7fffffff, 0x80000000, 0xffffffff,
        0x7fffffffe000, 0x7ffffffff000, 0x800000000000, 0xffff800000000000, 0xffffffff80000000,
        0xffffffff80100000, 0x7fffffffffffffff, 0x8000000000000000, 0xfffffffffffff000, (uint64_t)-1,
        (uint64_t)-2, (uint64_t)-100, (uint64_t)-4096,
    };
    switch (next(state) % 8) {
    case 0: return edges[next(state) % (sizeof edges / sizeof *edges)];
    case 1: return next(state);
    case 2: return next(state) % 32;
    case 3: return (uint64_t)arena + next(state) % sizeof arena;
    case 4: return ((uint64_t)arena + next(state) % sizeof arena) & ~4095ull;
    case 5: return next(state) & 0x7fffffffffff;
    case 6: return 1ull << (next(state) % 64);
    default: return (uint64_t)arena + sizeof arena - next(state) % 32;
    }
}

// Calls that end or stop the caller by design, make ever more processes, or (for root) reach the parent.
static int excluded(long call, int root) {
    switch (call) {
    case SYS_exit: case SYS_exit_group: case SYS_fork: case SYS_vfork: case SYS_clone: case SYS_clone3:
    case SYS_pause: case SYS_rt_sigreturn: case SYS_rt_sigsuspend: case SYS_reboot:
        return 1;
    case SYS_kill: case SYS_tkill: case SYS_tgkill: case SYS_rt_sigqueueinfo: case SYS_rt_tgsigqueueinfo:
    case SYS_pidfd_send_signal: case SYS_prlimit64: case SYS_umount2: case SYS_mount: case SYS_chroot:
    case SYS_vhangup: case SYS_pivot_root: case SYS_process_vm_writev: case SYS_process_madvise:
        return root;
    default:
        return 0;
    }
}

static _Noreturn void work(int worker, uint64_t seed, int root) {
    uint64_t state = seed | 1;
    int ends[2];
    if (pipe(ends) != 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) _exit(1);
    eventfd(0, EFD_NONBLOCK);
    epoll_create1(0);
    timerfd_create(CLOCK_MONOTONIC, 0);
    open("/tmp", O_RDONLY);
    open("/tmp/wild", O_RDWR | O_CREAT, 0666);
    if (!root && setuid(1000) != 0) _exit(1);
    for (size_t i = 0; i + 8 <= sizeof arena; i += 8) {
        uint64_t value = argument(&state);
        memcpy(arena + i, &value, 8);
    }
    memcpy(arena, "/tmp/wild", 10);
    for (;;) {
        long call = (long)(next(&state) % (LAST_CALL + 1));
        if (next(&state) % 64 == 0) call = (long)next(&state);
        if (excluded(call, root)) continue;
        atomic_store(&shared->last[worker], (unsigned long)call);
        syscall(call, argument(&state), argument(&state), argument(&state), argument(&state), argument(&state),
                argument(&state));
        atomic_fetch_add(&shared->calls[worker], 1);
    }
}

static void *thread_main(void *seed) {
    work((int)((uint64_t)seed % MOST_WORKERS), (uint64_t)seed * 0x9e3779b97f4a7c15, 0);
}

static pid_t start(int worker, uint64_t seed) {
    pid_t child = fork();
    if (child != 0) return child;
    int null = open("/dev/null", O_RDWR);
    for (int descriptor = 0; descriptor < 3; descriptor++) dup2(null, descriptor);
    if (worker % 4 == 3) {
        // Two threads in one process, as user 1000.
        pthread_t other;
        pthread_create(&other, NULL, thread_main, (void *)((seed & ~(uint64_t)(MOST_WORKERS - 1)) | (uint64_t)worker));
        work(worker, seed, 0);
    }
    work(worker, seed, worker % 2 == 0);
}

int main(int count, char **arguments) {
    if (count < 3) return 2;
    unsigned long goal = strtoul(arguments[1], NULL, 0);
    int workers = atoi(arguments[2]);
    uint64_t seed = count > 3 ? strtoull(arguments[3], NULL, 0) : 1;
    if (workers < 1 || workers > MOST_WORKERS) return 2;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) return 1;
    pid_t pids[MOST_WORKERS];
    unsigned long seen[MOST_WORKERS] = {0}, total = 0, died = 0, stuck = 0;
    int still[MOST_WORKERS] = {0};
    for (int i = 0; i < workers; i++) pids[i] = start(i, seed++ * 0x2545f4914f6cdd1d);
    while (total < goal) {
        struct timespec pause = {0, 5000000};
        nanosleep(&pause, NULL);
        pid_t gone;
        int status;
        while ((gone = waitpid(-1, &status, WNOHANG)) > 0)
            for (int i = 0; i < workers; i++)
                if (pids[i] == gone) {
                    died++;
                    pids[i] = -1;
                }
        total = 0;
        for (int i = 0; i < workers; i++) {
            unsigned long calls = atomic_load(&shared->calls[i]);
            total += calls;
            still[i] = calls == seen[i] ? still[i] + 1 : 0;
            seen[i] = calls;
            if (pids[i] > 0 && still[i] >= 10) {
                kill(pids[i], SIGKILL);
                stuck++;
                still[i] = -20;
            }
            if (pids[i] <= 0) pids[i] = start(i, seed++ * 0x2545f4914f6cdd1d);
        }
    }
    for (int i = 0; i < workers; i++)
        if (pids[i] > 0) kill(pids[i], SIGKILL);
    while (waitpid(-1, NULL, 0) > 0) {}
    fprintf(stderr, "%lu workers died, %lu stood still\n", died, stuck);
    printf("survived %lu calls\n", goal);
    return 0;
}
