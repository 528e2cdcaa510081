#include <stdio.h>
#include "rumpuser_config.h"

#if HAVE_WORDS && defined __linux__
void
rumpuser_print(int value)
{
	printf("the host prints %d\n", value);
}
#endif
