/* Reserves more address space than there is memory, uses some of it, and asks for more memory than there is. Told to "use",
   uses more than there is of a mapping that needed none; told to make "threads", makes them until there is no memory. */
#include <sys/mman.h>

#include <err.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { PIECE = 1 << 20, PIECES = 20 };
static const size_t MUCH = (size_t)1 << 40;

/* Memory comes when it is used, goes when it is given back, and until then costs nothing. */
static char *
sparse(void)
{
	char *space = mmap(NULL, MUCH, PROT_READ | PROT_WRITE, MAP_ANON | MAP_PRIVATE | MAP_NORESERVE, -1, 0), present[4];

	if (space == MAP_FAILED)
		err(1, "a sparse mapping");
	for (size_t place = 0; place < MUCH; place += MUCH / 64)
		space[place + 4096] = 7;
	if (mincore(space, 12288, present) != 0 || (present[0] & 1) != 0 || (present[1] & 1) != 1 || (present[2] & 1) != 0)
		errx(1, "mincore");
	/* The kernel writes to pages that weren't used, too. */
	int ends[2];
	if (pipe(ends) != 0 || write(ends[1], "kernel", 6) != 6 || read(ends[0], space + 8190, 6) != 6 || memcmp(space + 8190, "kernel", 6) != 0)
		err(1, "a system call");
	if (madvise(space, 8192, MADV_FREE) != 0 || space[4096] != 0 || space[8190] != 0 || space[8192] != 'r')
		errx(1, "MADV_FREE: %d %d %d", space[4096], space[8190], space[8192]);
	return space;
}

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void *
pass(void *argument)
{
	pthread_mutex_lock(&gate);
	pthread_mutex_unlock(&gate);
	return argument;
}

/* Makes threads until there is no memory for more, and lets them end; returns how many there were. */
static int
threads(void)
{
	enum { MOST = 100000 };
	static pthread_t made[MOST];
	int count = 0, error = 0;

	pthread_mutex_lock(&gate);
	while (count < MOST && (error = pthread_create(&made[count], NULL, pass, &made[count])) == 0)
		count++;
	if (error != EAGAIN && error != ENOMEM)
		errx(1, "thread %d: error %d", count, error);
	pthread_mutex_unlock(&gate);
	for (int i = 0; i < count; i++) {
		void *result;
		if ((error = pthread_join(made[i], &result)) != 0 || result != &made[i])
			errx(1, "joining thread %d: error %d", i, error);
	}
	return count;
}

int
main(int count, char **arguments)
{
	if (count > 1 && strcmp(arguments[1], "threads") == 0) {
		int first = threads(), then = threads();
		if (first < 8 || then < first / 2)
			errx(1, "%d threads, then %d", first, then);
		puts("threads came and went");
		return 0;
	}
	if (count > 1) {
		puts("to the end");
		memset(sparse(), 1, MUCH);
	}
	if (munmap(sparse(), MUCH) != 0)
		err(1, "munmap");
	char *much = mmap(NULL, MUCH, PROT_NONE, MAP_ANON | MAP_PRIVATE, -1, 0), *other;

	if (much == MAP_FAILED)
		err(1, "address space");
	for (size_t piece = 0; piece < PIECES; piece++) {
		char *start = much + piece * (MUCH / PIECES) / PIECE * PIECE;
		if (mprotect(start, PIECE, PROT_READ | PROT_WRITE) != 0)
			err(1, "piece %zu", piece);
		for (int i = 0; i < PIECE; i += 4096)
			if (start[i] != 0)
				errx(1, "piece %zu is not zero", piece);
		memset(start, 'a' + piece, PIECE);
	}
	if (much[0] != 'a')
		errx(1, "the first piece has changed");
	if (mprotect(much, MUCH, PROT_READ | PROT_WRITE) == 0 || errno != ENOMEM || much[1] != 'a')
		errx(1, "all of it: error %d", errno);
	if (mmap(NULL, MUCH, PROT_READ | PROT_WRITE, MAP_ANON | MAP_PRIVATE, -1, 0) != MAP_FAILED || errno != ENOMEM)
		errx(1, "more than there is: error %d", errno);
	/* Until there is no more, and still the kernel goes on. */
	while ((other = mmap(NULL, PIECE, PROT_READ | PROT_WRITE, MAP_ANON | MAP_PRIVATE, -1, 0)) != MAP_FAILED)
		other[0] = 1;
	if (errno != ENOMEM)
		err(1, "the last piece");
	puts("no more memory");
	if (munmap(much, MUCH) != 0 || mmap(NULL, PIECE, PROT_READ, MAP_ANON | MAP_PRIVATE, -1, 0) == MAP_FAILED)
		err(1, "after unmapping");
	FILE *file = fopen("/file", "w");
	if (file == NULL || fputs("written", file) == EOF || fclose(file) != 0)
		err(1, "/file");
	puts("memory again");
	return 0;
}
