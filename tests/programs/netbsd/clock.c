// Reads the clocks in four threads: none may see a time before one that another has seen. The kernel's time, in a file's,
// must be that of the programs. Prints the time of day.
#include <sys/stat.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

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
	printf("in order at %ld\n", (long)start);
	return 0;
}
