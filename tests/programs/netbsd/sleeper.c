// Sleeps 10 ms again and again beside threads that spin, one for each CPU; prints how late it woke, in nanoseconds.
// usage: sleeper CPUS
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define TIMES 100
#define SLEEP 10000000

static volatile int stop;

static void *spin(void *argument)
{
	volatile double x = 1;
	while (!stop)
		x *= 1.0000001;
	return argument;
}

static int order(const void *a, const void *b)
{
	long left = *(const long *)a, right = *(const long *)b;
	return (left > right) - (left < right);
}

int main(int count, char **arguments)
{
	struct timespec start, end, time = { 0, SLEEP };
	long late[TIMES];
	pthread_t thread;
	int cpus = count > 1 ? atoi(arguments[1]) : 1;
	for (int i = 0; i < cpus; i++)
		pthread_create(&thread, NULL, spin, NULL);
	for (int i = 0; i < TIMES; i++) {
		clock_gettime(CLOCK_MONOTONIC, &start);
		nanosleep(&time, NULL);
		clock_gettime(CLOCK_MONOTONIC, &end);
		late[i] = (end.tv_sec - start.tv_sec) * 1000000000 + end.tv_nsec - start.tv_nsec - SLEEP;
	}
	stop = 1;
	qsort(late, TIMES, sizeof late[0], order);
	printf("late-median %ld\nlate-worst %ld\n", late[TIMES / 2], late[TIMES - 1]);
	return 0;
}
