#include <rump/component.h>
#include <rump/rump.h>

int
rump_loop(int value)
{
	return value;
}

static void
initialise(void)
{
	rumpuser_dprintf("loop: %d\n", rump_loop(rump_answer()));
}
RUMP_COMPONENT(initialise);
