/* Leaves the kernel to its remote clients. */
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	printf("waiting\n");
	fflush(stdout);
	for (;;)
		sleep(3600);
}
