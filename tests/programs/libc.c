// What a C library asks of the kernel, in short: threads with TLS, condition variables, timers, signals, files,
// directories, pipes, fork and exec. The output is the same on every kernel that does it right.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static _Thread_local int mine;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int counter;
static sem_t semaphore;
static volatile sig_atomic_t alarms;

static void *count_up(void *argument) {
    for (int i = 0; i < 1000; i++) {
        mine++;
        pthread_mutex_lock(&lock);
        counter++;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&lock);
    }
    sem_post(&semaphore);
    return (void *)(long)(mine + (argument != NULL));
}

static void on_alarm(int number) { alarms += number == SIGALRM; }

static void on_fault(int number, siginfo_t *info, void *context) {
    (void)context;
    printf("fault %d code %d at %p\n", number, info->si_code, info->si_addr);
    fflush(stdout);
    _exit(7);
}

int main(int count, char **arguments) {
    if (count > 1) {
        printf("%s %s\n", arguments[0], arguments[1]);
        return 5;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    // Programs take 0 s for no time at all (lighttpd does).
    clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME};
    for (int i = 0; i < 4; i++) {
        struct timespec time = {0, 0};
        clock_gettime(clocks[i], &time);
        printf("clock %d: %s\n", (int)clocks[i], time.tv_sec > 0 ? "has begun" : "no time yet");
    }
    sem_init(&semaphore, 0, 0);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, count_up, NULL);
    pthread_mutex_lock(&lock);
    while (counter < 4000) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    long sum = 0;
    for (int i = 0; i < 4; i++) {
        void *result;
        sem_wait(&semaphore);
        pthread_join(threads[i], &result);
        sum += (long)result;
    }
    printf("counter %d sum %ld mine %d\n", counter, sum, mine);

    struct sigaction action = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval every = {{0, 2000}, {0, 2000}};
    setitimer(ITIMER_REAL, &every, NULL);
    while (alarms < 5) pause();
    struct itimerval never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &never, NULL);
    puts("alarms came");

    struct timespec nap = {0, 10000000}, before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    while (nanosleep(&nap, &nap) != 0 && errno == EINTR) {}
    clock_gettime(CLOCK_MONOTONIC, &after);
    long slept = (after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec;
    printf("slept %s\n", slept >= 10000000 ? "long enough" : "too short");

    mkdir("/tmp/libc-test", 0700);
    for (int i = 0; i < 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "/tmp/libc-test/%d", i);
        int file = open(name, O_CREAT | O_RDWR | O_TRUNC, 0600);
        if (pwrite(file, "data", 4, 100) != 4) perror("pwrite");
        struct stat status;
        fstat(file, &status);
        printf("%s %lld\n", name, (long long)status.st_size);
        char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        map[0] = 'm';
        char first;
        if (pread(file, &first, 1, 0) != 1 || first != 'm') puts("the mapping is not the file");
        munmap(map, 4096);
        close(file);
    }
    int entries = 0;
    DIR *directory = opendir("/tmp/libc-test");
    while (readdir(directory) != NULL) entries++;
    closedir(directory);
    printf("entries %d\n", entries);
    rename("/tmp/libc-test/0", "/tmp/libc-test/1");
    unlink("/tmp/libc-test/1");
    unlink("/tmp/libc-test/2");
    printf("rmdir %d\n", rmdir("/tmp/libc-test"));
    printf("open %s\n", open("/no/such/file", O_RDONLY) < 0 ? strerror(errno) : "worked");

    int ends[2];
    if (pipe(ends) != 0) return 1;
    pid_t child = fork();
    if (child == 0) {
        dprintf(ends[1], "from the child");
        _exit(42);
    }
    char text[64] = {0};
    struct pollfd poller = {.fd = ends[0], .events = POLLIN};
    printf("poll %d\n", poll(&poller, 1, 10000));
    if (read(ends[0], text, sizeof text - 1) < 0) perror("read");
    int status = 0;
    waitpid(child, &status, 0);
    printf("%s, exit %d\n", text, WEXITSTATUS(status));

    child = fork();
    if (child == 0) {
        raise(SIGKILL);
        _exit(0);
    }
    waitpid(child, &status, 0);
    printf("signalled %d by %d\n", WIFSIGNALED(status), WTERMSIG(status));

    fflush(stdout);
    child = fork();
    if (child == 0) {
        execl("/proc/self/exe", "self", "again", (char *)NULL);
        _exit(1);
    }
    waitpid(child, &status, 0);
    printf("executed, exit %d\n", WEXITSTATUS(status));

    struct sigaction fault = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    stack_t alternate = {.ss_sp = malloc(65536), .ss_size = 65536};
    sigaltstack(&alternate, NULL);
    sigaction(SIGSEGV, &fault, NULL);
    *(volatile int *)0x10 = 1;
    return 0;
}
