#include <rump/rump.h>

void rumpuser_print(int);

int
main(void)
{
	rumpuser_print(rump_loop(rump_answer()));
	return 0;
}
