/*
 * Counts its runs in a file of each directory that it is told, after `=` how often it must have run before, or `ro` for
 * those that can't be written, which have a file `text`. Says what `net.inet.ip.ttl` is.
 */
#include <sys/param.h>
#include <sys/stat.h>
#include <sys/sysctl.h>

#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LARGE = 300000 };

static void
name(char *path, const char *directory, const char *file)
{
	snprintf(path, 200, "%s/%s", directory, file);
}

static void
count(const char *directory, int expected)
{
	char path[200], text[32] = "0", *large = malloc(LARGE), *back = malloc(LARGE);
	int file, runs;

	name(path, directory, "count");
	if ((file = open(path, O_RDONLY)) >= 0) {
		if (read(file, text, sizeof(text) - 1) <= 0)
			err(1, "reading %s", path);
		close(file);
	}
	runs = atoi(text);
	if (runs != expected)
		errx(1, "%s has %d, not %d", path, runs, expected);
	if ((file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644)) < 0)
		err(1, "%s", path);
	snprintf(text, sizeof(text), "%d\n", runs + 1);
	if (write(file, text, strlen(text)) != (ssize_t)strlen(text) || close(file) != 0)
		err(1, "writing %s", path);

	name(path, directory, "folder");
	mkdir(path, 0755);
	name(path, directory, "folder/large");
	for (int i = 0; i < LARGE; i++)
		large[i] = i * 7 + i / 1000;
	if (runs > 0) {
		if ((file = open(path, O_RDONLY)) < 0 || read(file, back, LARGE) != LARGE ||
		    memcmp(large, back, LARGE) != 0)
			errx(1, "%s is not what was written before", path);
		close(file);
		unlink(path);
	}
	if ((file = open(path, O_RDWR | O_CREAT, 0644)) < 0 || write(file, large, LARGE) != LARGE || close(file) != 0)
		err(1, "writing %s", path);
	printf("%s: %d\n", directory, runs + 1);
	free(large);
	free(back);
}

static void
look(const char *directory)
{
	char path[200], text[64] = "";
	int file;

	name(path, directory, "text");
	if ((file = open(path, O_RDONLY)) < 0 || read(file, text, sizeof(text) - 1) <= 0)
		err(1, "%s", path);
	close(file);
	name(path, directory, "new");
	if (open(path, O_RDWR | O_CREAT, 0644) >= 0)
		errx(1, "%s can be made", path);
	printf("%s: %s", directory, text);
}

int
main(int argument_count, char **arguments)
{
	int hops = 0;
	size_t size = sizeof(hops);

	sysctlbyname("net.inet.ip.ttl", &hops, &size, NULL, 0);
	printf("net.inet.ip.ttl is %d\n", hops);
	for (int i = 1; i < argument_count; i++) {
		char *directory = arguments[i], *value = strchr(directory, '=');
		*value++ = '\0';
		if (strcmp(value, "ro") == 0)
			look(directory);
		else
			count(directory, atoi(value));
	}
	return 0;
}
