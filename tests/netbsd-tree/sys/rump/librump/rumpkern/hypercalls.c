/* Starts the components, and is one: it uses the hypercalls as NetBSD's does, and says what came of it. */
#include <rump/component.h>
#include <rump/rump.h>

typedef __SIZE_TYPE__ size_t;
typedef __INT64_TYPE__ int64_t;
typedef __UINTPTR_TYPE__ uintptr_t;
#define NULL ((void *)0)

struct mutex;
struct condition;

int rumpuser_init(int, const void *);
int rumpuser_getparam(const char *, void *, size_t);
int rumpuser_malloc(size_t, int, void **);
void rumpuser_free(void *, size_t);
int rumpuser_clock_gettime(int, int64_t *, long *);
int rumpuser_clock_sleep(int, int64_t, long);
int rumpuser_thread_create(void *(*)(void *), void *, const char *, int, int, int, void **);
int rumpuser_thread_join(void *);
void rumpuser_mutex_init(struct mutex **, int);
void rumpuser_mutex_enter(struct mutex *);
void rumpuser_mutex_exit(struct mutex *);
void rumpuser_cv_init(struct condition **);
void rumpuser_cv_wait(struct condition *, struct mutex *);
int rumpuser_cv_timedwait(struct condition *, struct mutex *, int64_t, int64_t);
void rumpuser_cv_broadcast(struct condition *);
void rumpuser_dl_bootstrap(void (*)(const void *const *, size_t), void *, void (*)(const struct component *));
void rumpuser_curlwpop(int, void *);
void *rumpuser_curlwp(void);
int rumpuser_open(const char *, int, int *);

enum { THREADS = 4, ROUNDS = 20000 };
static struct mutex *mutex;
static struct condition *condition;
static int ready, gone;
static long count;

static void *work(void *number)
{
	rumpuser_curlwpop(2, number);
	rumpuser_mutex_enter(mutex);
	while (!ready)
		rumpuser_cv_wait(condition, mutex);
	rumpuser_mutex_exit(mutex);
	for (int i = 0; i < ROUNDS; i++) {
		rumpuser_mutex_enter(mutex);
		count++;
		rumpuser_mutex_exit(mutex);
	}
	rumpuser_mutex_enter(mutex);
	gone += rumpuser_curlwp() == number;
	rumpuser_mutex_exit(mutex);
	rumpuser_curlwpop(3, number);
	return NULL;
}

static void initialise(void)
{
	void *threads[THREADS], *page;
	int64_t before, after;
	long before_part, after_part;
	int descriptor;
	char value[16];

	rumpuser_mutex_init(&mutex, 2);
	rumpuser_cv_init(&condition);
	for (long i = 0; i < THREADS; i++)
		if (rumpuser_thread_create(work, (void *)(i + 1), "work", 1, 0, -1, &threads[i]) != 0)
			rumpuser_dprintf("no thread %ld\n", i);
	rumpuser_mutex_enter(mutex);
	ready = 1;
	rumpuser_cv_broadcast(condition);
	rumpuser_mutex_exit(mutex);
	for (int i = 0; i < THREADS; i++)
		rumpuser_thread_join(threads[i]);
	rumpuser_dprintf("%d threads counted to %ld\n", gone, count);

	rumpuser_clock_gettime(1, &before, &before_part);
	rumpuser_clock_sleep(0, 0, 20000000);
	rumpuser_mutex_enter(mutex);
	int timed_out = rumpuser_cv_timedwait(condition, mutex, 0, 1000000);
	rumpuser_mutex_exit(mutex);
	rumpuser_clock_gettime(1, &after, &after_part);
	long slept = (after - before) * 1000000000 + after_part - before_part;
	rumpuser_dprintf("%s, %d\n", slept >= 21000000 ? "slept" : "awake too early", timed_out);

	rumpuser_malloc(4096, 4096, &page);
	rumpuser_dprintf("page at offset %x\n", (unsigned)((uintptr_t)page & 4095));
	rumpuser_free(page, 4096);
	rumpuser_getparam("_RUMPUSER_NCPU", value, sizeof value);
	rumpuser_dprintf("%s CPUs, %5.3s|%-6d|%04x, absent: %d\n", value, "abcdef", -7, 0xab, rumpuser_open("/absent", 0, &descriptor));
}

RUMP_COMPONENT(initialise);

static void found(const struct component *each)
{
	each->initialise();
}

int rump_init(void)
{
	static const void *upcalls[21];
	if (rumpuser_init(1, upcalls) == 0 || rumpuser_init(17, upcalls) != 0)
		return 1;
	rumpuser_dl_bootstrap(NULL, NULL, found);
	return 0;
}
