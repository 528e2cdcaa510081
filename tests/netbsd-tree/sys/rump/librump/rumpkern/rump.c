#include <rump/rump.h>
#include "greeting.h"

int
rump_answer(void)
{
	return greeting[0] == 'h' ? RUMP_ANSWER : -1;
}
