#include <rump/rump.h>

int
rump_loop(int value)
{
	return value;
}
