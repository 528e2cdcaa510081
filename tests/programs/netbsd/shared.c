/* One of two programs that have names in common. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

int counter = NUMBER;
static void leave(void)
{
	printf("program %d leaves\n", NUMBER);
}

const char *name(void)
{
	return NUMBER == 1 ? "first" : "second";
}

int main(void)
{
	unsigned char packed[256], back[256];
	unsigned long length = sizeof packed, whole = sizeof back;
	const char text[] = "the same text, the same text, the same text";
	atexit(leave);
	if (compress(packed, &length, (const void *)text, sizeof text) != Z_OK ||
	    uncompress(back, &whole, packed, length) != Z_OK || memcmp(back, text, whole) != 0)
		return 1;
	printf("%s program: counter %d, %lu bytes packed\n", name(), counter++, length);
	return counter == NUMBER + 1 ? 0 : 2;
}
