#include <answer.h>
#include <rump/rump.h>

int
answer(void)
{
	return rump_loop(rump_answer());
}
