// Reads the clocks in four threads: none may see a time before one that another has seen. The kernel's time, in a file's,
// must be that of the programs, and not go in ticks. Prints the time of day.
#include <sys/stat.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static volatile unsigned long latest;

static unsigned long now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ul + time.tv_nsec;
}

static void *look(void *argument)
{
	for (int i = 0; i < 100000; i++) {
		unsigned long before = latest, time = now();
		if (time < before) {
			printf("%lu ns after %lu ns\n", time, before);
			exit(1);
		}
		while (time > before && !__sync_bool_compare_and_swap(&latest, before, time))
			before = latest;
	}
	return argument;
}

static long between(struct timespec a, struct timespec b)
{
	return (b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec;
}

// The kernel's time of day may differ from the programs', but always by as much: it doesn't go in ticks.
static int goes_evenly(void)
{
	long least = 1000000000000, most = -least;
	for (int i = 0; i < 20; i++) {
		struct timespec before, after, pause = { 0, 3000000 };
		struct stat file;
		unlink("/stamp");
		clock_gettime(CLOCK_REALTIME, &before);
		fclose(fopen("/stamp", "w"));
		clock_gettime(CLOCK_REALTIME, &after);
		stat("/stamp", &file);
		if (between(before, file.st_mtim) < least)
			least = between(before, file.st_mtim);
		if (between(after, file.st_mtim) > most)
			most = between(after, file.st_mtim);
		nanosleep(&pause, NULL);
	}
	// least: the kernel is ahead by at most so much; most: by at least so much.
	if (most > least + 1000000)
		printf("ahead by at least %ld and at most %ld ns\n", most, least);
	return most <= least + 1000000;
}

int main(void)
{
	pthread_t threads[4];
	struct stat file;
	time_t start = time(NULL);

	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, look, NULL);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	fclose(fopen("/stamp", "w"));
	if (stat("/stamp", &file) || file.st_mtime + 1 < start || file.st_mtime > time(NULL) + 1) {
		puts("the kernel's time is another");
		return 2;
	}
	if (!goes_evenly())
		return 3;
	printf("in order at %ld\n", (long)start);
	return 0;
}
