/*
 * Waits for each of the disks that it is told, writes to it and reads that back, and goes on until the disk is gone.
 */
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK = 8192, COUNT = 64 };

static char wrote[BLOCK], found[BLOCK];

/* Whether it is written and durable. */
static int
put(int disk, int number)
{
	memset(wrote, 'a' + number % 26, BLOCK);
	return pwrite(disk, wrote, BLOCK, (off_t)(number % COUNT) * BLOCK) == BLOCK && fsync(disk) == 0;
}

int
main(int argc, char **argv)
{
	int disk, number;

	for (int i = 1; i < argc; i++) {
		printf("waits for %s\n", argv[i]);
		while ((disk = open(argv[i], O_RDWR)) < 0)
			usleep(100000);
		for (number = 0; number < COUNT; number++)
			if (!put(disk, number))
				err(1, "writing %s", argv[i]);
		for (number = 0; number < COUNT; number++) {
			memset(wrote, 'a' + number % 26, BLOCK);
			if (pread(disk, found, BLOCK, (off_t)number * BLOCK) != BLOCK)
				err(1, "reading %s", argv[i]);
			if (memcmp(found, wrote, BLOCK) != 0)
				errx(1, "%s has something else at %d", argv[i], number);
		}
		printf("wrote %s\n", argv[i]);
		/* The first block again. */
		while (put(disk, COUNT))
			usleep(10000);
		printf("lost %s\n", argv[i]);
		close(disk);
	}
	return 4;
}
