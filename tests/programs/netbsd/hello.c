#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int count, char **arguments)
{
	char name[64] = "";
	gethostname(name, sizeof name);
	printf("hello from %s: %d arguments, PLACE=%s, pi is %.3Lf\n", name, count, getenv("PLACE"), 3.14159L);
	return 7;
}
