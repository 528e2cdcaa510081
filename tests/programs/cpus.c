/* CPUs that come and go: threads compute, sleep, wait for each other and change mappings, while the main thread says how many
 * CPUs there are, whenever that has changed and every thread has gone on since. Ends at SIGTERM. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#define THREADS 5

static atomic_ulong rounds[THREADS];
/* The CPUs on which threads ran. */
static atomic_ulong ran_on;
static volatile sig_atomic_t ends;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turned = PTHREAD_COND_INITIALIZER;
static int turn;

static void stop(int signal)
{
    (void)signal;
    ends = 1;
}

static void pause_for(long microseconds)
{
    struct timespec time = {0, microseconds * 1000};
    nanosleep(&time, NULL);
}

static void *work(void *argument)
{
    long number = (long)argument;
    if (number == 0) {
        /* Bound to what may go. */
        cpu_set_t second;
        CPU_ZERO(&second);
        CPU_SET(1, &second);
        sched_setaffinity(0, sizeof second, &second);
    }
    while (!ends) {
        unsigned long sum = 0;
        for (int i = 0; i < 20000; i++)
            sum += (unsigned long)i * i;
        if (sum != 2666466670000UL)
            abort();
        if (number < 2) {
            /* In turns. */
            pthread_mutex_lock(&lock);
            while (turn != number && !ends) {
                struct timespec until;
                clock_gettime(CLOCK_REALTIME, &until);
                until.tv_sec++;
                pthread_cond_timedwait(&turned, &lock, &until);
            }
            turn = !number;
            pthread_cond_broadcast(&turned);
            pthread_mutex_unlock(&lock);
        } else if (number == 2) {
            pause_for(2000);
        } else if (number == 3) {
            char *pages = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (pages == MAP_FAILED)
                abort();
            memset(pages, 7, 16384);
            mprotect(pages, 8192, PROT_READ);
            munmap(pages, 16384);
            pause_for(1000);
        }
        atomic_fetch_or(&ran_on, 1UL << sched_getcpu());
        atomic_fetch_add(&rounds[number], 1);
    }
    return NULL;
}

/* All threads go on. */
static void wait_for_rounds(void)
{
    for (int i = 0; i < THREADS; i++) {
        unsigned long before = atomic_load(&rounds[i]);
        while (atomic_load(&rounds[i]) < before + 3 && !ends)
            pause_for(5000);
    }
}

static int processors(void)
{
    FILE *file = fopen("/proc/cpuinfo", "r");
    char line[4096];
    int count = 0;
    while (fgets(line, sizeof line, file))
        count += strncmp(line, "processor", 9) == 0;
    fclose(file);
    return count;
}

static void text_of(const char *path, char *text, int size)
{
    FILE *file = fopen(path, "r");
    if (!fgets(text, size, file))
        text[0] = 0;
    text[strcspn(text, "\n")] = 0;
    fclose(file);
}

/* The CPUs on which the thread may run now. */
static unsigned long set(void)
{
    cpu_set_t set;
    unsigned long cpus = 0;
    sched_getaffinity(0, sizeof set, &set);
    for (int cpu = 0; cpu < 64; cpu++)
        cpus |= (unsigned long)!!CPU_ISSET(cpu, &set) << cpu;
    return cpus;
}

/* The CPUs, as the system calls, /proc and /sys show them. */
static void describe(char *text, size_t size)
{
    char online[64], offline[64];
    text_of("/sys/devices/system/cpu/online", online, sizeof online);
    text_of("/sys/devices/system/cpu/offline", offline, sizeof offline);
    int allowed = __builtin_popcountl(set());
    snprintf(text, size, "%d %d %s/%s of %ld", allowed, processors(), online, offline, sysconf(_SC_NPROCESSORS_CONF));
}

int main(void)
{
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    setvbuf(stdout, NULL, _IOLBF, 0);
    pthread_t threads[THREADS];
    for (long i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, work, (void *)i);
    unsigned long shown = 0;
    for (; !ends; pause_for(20000)) {
        unsigned long allowed = set();
        if (allowed == shown)
            continue;
        wait_for_rounds();
        atomic_store(&ran_on, 0);
        wait_for_rounds();
        unsigned long ran = atomic_load(&ran_on);
        char text[200];
        describe(text, sizeof text);
        /* Nothing has changed meanwhile. */
        if (set() != allowed)
            continue;
        shown = allowed;
        printf("cpus %s%s\n", text, ran & ~allowed ? " but one ran elsewhere" : "");
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    printf("done\n");
    return 7;
}
