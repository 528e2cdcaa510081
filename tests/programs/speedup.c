// Runs a fixed amount of work on N threads and prints the nanoseconds that it took.
// usage: speedup compute|locks THREADS
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WORK 64
#define TABLE 64
#define KEPT 256

// A cache line or two each, so that what is measured is locking and not false sharing.
static struct account {
    _Alignas(128) pthread_mutex_t lock;
    uint64_t bytes;
} accounts[TABLE];
static int threads;
static volatile uint64_t sink;

static uint64_t compute(uint64_t seed) {
    for (int i = 0; i < 3000000; i++) seed = seed * 6364136223846793005u + 1442695040888963407u;
    return seed;
}

static void allocate_and_lock(uint64_t seed) {
    char *kept[KEPT] = {0};
    for (int i = 0; i < 12000; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        size_t size = 16 + (size_t)((seed >> 40) % 2000);
        char **place = &kept[(seed >> 20) % KEPT];
        free(*place);
        *place = malloc(size);
        if (*place == NULL) exit(1);
        memset(*place, 1, size);
        struct account *account = &accounts[(seed >> 33) % TABLE];
        pthread_mutex_lock(&account->lock);
        account->bytes += size;
        pthread_mutex_unlock(&account->lock);
    }
    for (int i = 0; i < KEPT; i++) free(kept[i]);
}

static int use_locks;

static void *worker(void *argument) {
    for (long item = (long)argument; item < WORK; item += threads) {
        if (use_locks) allocate_and_lock((uint64_t)item);
        else sink += compute((uint64_t)item);
    }
    return NULL;
}

int main(int count, char **arguments) {
    if (count != 3) return 2;
    use_locks = strcmp(arguments[1], "locks") == 0;
    threads = atoi(arguments[2]);
    if (threads < 1 || threads > 64) return 2;
    for (int i = 0; i < TABLE; i++) pthread_mutex_init(&accounts[i].lock, NULL);
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    pthread_t ids[64];
    for (long i = 0; i < threads; i++)
        if (pthread_create(&ids[i], NULL, worker, (void *)i) != 0) return 1;
    for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL);
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%s-%d %lld\n", arguments[1], threads,
           (long long)(end.tv_sec - start.tv_sec) * 1000000000 + (end.tv_nsec - start.tv_nsec));
    return 0;
}
