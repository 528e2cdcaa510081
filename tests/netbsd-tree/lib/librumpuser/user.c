#include <stdarg.h>
#include <stdio.h>
#include "rumpuser_config.h"

#if HAVE_WORDS && defined __linux__
void
rumpuser_print(int value)
{
	printf("the host prints %d\n", value);
}

void
rumpuser_dprintf(const char *format, ...)
{
	va_list values;

	va_start(values, format);
	vfprintf(stderr, format, values);
	va_end(values);
}
#endif
