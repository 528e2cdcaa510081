/*
 * The vDSO: clock and CPU number without a system call.
 *
 * It runs in user mode, in every process. The page before it is the platform's clock page (`ClockPage` in
 * rumpuser/src/user.rs), mapped read-only; what cannot be answered from there becomes a system call.
 */

typedef unsigned int u32;
typedef unsigned long u64;
typedef long i64;

struct clock_page {
	u32 sequence;
	u32 usable;
	u64 base_tsc;
	u64 base_ns;
	u64 multiplier;
	i64 realtime_offset;
	u32 tsc_aux_is_cpu;
};

struct timespec {
	i64 seconds;
	i64 nanoseconds;
};

struct timeval {
	i64 seconds;
	i64 microseconds;
};

struct timezone {
	int minutes_west;
	int daylight_saving;
};

/* Placed by the linker script. */
extern const volatile struct clock_page clock_page __attribute__((visibility("hidden")));

enum {
	CLOCK_REALTIME = 0,
	CLOCK_MONOTONIC = 1,
	CLOCK_MONOTONIC_RAW = 4,
	CLOCK_REALTIME_COARSE = 5,
	CLOCK_MONOTONIC_COARSE = 6,
	CLOCK_BOOTTIME = 7,
	CLOCK_TAI = 11,
};

enum {
	SYS_gettimeofday = 96,
	SYS_time = 201,
	SYS_clock_gettime = 228,
	SYS_clock_getres = 229,
	SYS_getcpu = 309,
};

#define NS_PER_SECOND 1000000000ul

static inline i64 system_call(i64 number, i64 first, i64 second, i64 third)
{
	i64 result;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(first), "S"(second), "d"(third)
			 : "rcx", "r11", "memory");
	return result;
}

/* Reads the TSC after everything before it. */
static inline u64 read_tsc(void)
{
	u32 low, high;
	__asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (u64)high << 32 | low;
}

/* Whether the clock is one of those below, and if so, whether it counts from 1970. */
static inline int clock_kind(int clock, int *real)
{
	switch (clock) {
	case CLOCK_REALTIME:
	case CLOCK_REALTIME_COARSE:
	case CLOCK_TAI:
		*real = 1;
		return 1;
	case CLOCK_MONOTONIC:
	case CLOCK_MONOTONIC_RAW:
	case CLOCK_MONOTONIC_COARSE:
	case CLOCK_BOOTTIME:
		*real = 0;
		return 1;
	}
	return 0;
}

/* The time in nanoseconds; 0 if the page doesn't tell. */
static inline u64 now(int real)
{
	const volatile struct clock_page *page = &clock_page;
	for (;;) {
		u32 sequence = __atomic_load_n(&page->sequence, __ATOMIC_ACQUIRE);
		if (!page->usable)
			return 0;
		u64 passed = read_tsc() - page->base_tsc;
		/* Another CPU's counter may be a little behind. */
		if ((i64)passed < 0)
			passed = 0;
		u64 time = page->base_ns + (u64)((unsigned __int128)passed * page->multiplier >> 32);
		if (real)
			time += (u64)page->realtime_offset;
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (!(sequence & 1) && page->sequence == sequence)
			return time;
		__asm__ volatile("pause");
	}
}

int __vdso_clock_gettime(int clock, struct timespec *result)
{
	int real;
	u64 time = clock_kind(clock, &real) ? now(real) : 0;
	if (!time)
		return (int)system_call(SYS_clock_gettime, clock, (i64)result, 0);
	result->seconds = (i64)(time / NS_PER_SECOND);
	result->nanoseconds = (i64)(time % NS_PER_SECOND);
	return 0;
}

int __vdso_clock_getres(int clock, struct timespec *result)
{
	int real;
	if (!clock_kind(clock, &real) || !clock_page.usable)
		return (int)system_call(SYS_clock_getres, clock, (i64)result, 0);
	if (result) {
		result->seconds = 0;
		result->nanoseconds = 1;
	}
	return 0;
}

int __vdso_gettimeofday(struct timeval *result, struct timezone *zone)
{
	u64 time = now(1);
	if (!time)
		return (int)system_call(SYS_gettimeofday, (i64)result, (i64)zone, 0);
	if (result) {
		result->seconds = (i64)(time / NS_PER_SECOND);
		result->microseconds = (i64)(time % NS_PER_SECOND / 1000);
	}
	if (zone) {
		zone->minutes_west = 0;
		zone->daylight_saving = 0;
	}
	return 0;
}

i64 __vdso_time(i64 *result)
{
	u64 time = now(1);
	if (!time)
		return system_call(SYS_time, (i64)result, 0, 0);
	if (result)
		*result = (i64)(time / NS_PER_SECOND);
	return (i64)(time / NS_PER_SECOND);
}

i64 __vdso_getcpu(u32 *cpu, u32 *node, void *unused)
{
	u32 low, high, number;
	(void)unused;
	if (!clock_page.tsc_aux_is_cpu)
		return system_call(SYS_getcpu, (i64)cpu, (i64)node, 0);
	__asm__ volatile("rdtscp" : "=a"(low), "=d"(high), "=c"(number));
	if (cpu)
		*cpu = number;
	if (node)
		*node = 0;
	return 0;
}
