// Signals for threads that only compute: handlers run in the middle of it and leave no trace in the registers; a jump out
// of a handler ends an endless loop; what isn't handled ends the program.
#include <sys/time.h>
#include <fenv.h>
#include <immintrin.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t handled, over;
static sigjmp_buf back;
static pthread_t spinner;

static void expect(int good, const char *what)
{
	if (!good) {
		printf("%s: handled %d\n", what, (int)handled);
		exit(1);
	}
}

// Uses what the interrupted code might use.
__attribute__((target("avx"))) static void use_all(void)
{
	volatile double value = handled + 0.5;
	volatile long double wide = value;
	__asm__ volatile("fninit; fldpi; fldpi; fldpi; vpcmpeqd %%xmm0, %%xmm0, %%xmm0; vmovaps %%ymm0, %%ymm5; vmovaps %%ymm0, %%ymm13" : : : "memory");
	_mm256_zeroall();
	fesetround(FE_UPWARD);
	wide = wide * value;
	expect(wide > 0, "arithmetic");
}

static void handle(int number)
{
	handled++;
	if (__builtin_cpu_supports("avx"))
		use_all();
	(void)number;
}

static void leave(int number)
{
	siglongjmp(back, number);
}

static void every(int microseconds)
{
	struct itimerval value = { { 0, microseconds }, { 0, microseconds } };
	expect(setitimer(ITIMER_REAL, &value, NULL) == 0, "setitimer");
}

// Sums on every kind of register, which come out the same whatever interrupts them.
__attribute__((target("avx"))) static int vectors(int rounds)
{
	__m256d sum = _mm256_setzero_pd();
	__m256d step = _mm256_set_pd(1, 2, 3, 4);
	for (int i = 0; i < rounds; i++) {
		sum = _mm256_add_pd(sum, step);
		__asm__ volatile("" : "+x"(sum));
	}
	double out[4];
	_mm256_storeu_pd(out, sum);
	return out[0] == 4.0 * rounds && out[1] == 3.0 * rounds && out[2] == 2.0 * rounds && out[3] == 1.0 * rounds;
}

static int compute(int rounds)
{
	unsigned long hash = 1, again = 1;
	long double wide = 0;
	double narrow = 0;
	for (int i = 0; i < rounds; i++) {
		hash = hash * 6364136223846793005ul + i;
		wide += 0.5L;
		narrow += 0.25;
		again = again * 6364136223846793005ul + i;
		__asm__ volatile("movq %0, -128(%%rsp); movq -128(%%rsp), %0" : "+r"(again));
	}
	int good = hash == again && wide == rounds * 0.5L && narrow == rounds * 0.25 && fegetround() == FE_TONEAREST;
	return good && (!__builtin_cpu_supports("avx") || vectors(rounds));
}

static void *other(void *argument)
{
	while (!over) {
		expect(compute(10000), "sums of another thread");
		if (argument)
			pthread_kill(spinner, SIGUSR1);
	}
	return argument;
}

int main(int count, char **arguments)
{
	pthread_t threads[2];
	sigset_t set;
	struct timespec now, end;

	if (count > 1) {
		alarm(1);
		for (;;)
			__asm__ volatile("");
	}
	signal(SIGALRM, handle);
	signal(SIGUSR1, handle);
	alarm(1);
	while (handled == 0)
		__asm__ volatile("");
	// Calls that don't sleep.
	alarm(1);
	do {
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (handled == 1);
	// By which the kernel is asked.
	alarm(1);
	while (handled == 2)
		getppid();
	expect(handled == 3, "alarms");
	puts("alarms");

	spinner = pthread_self();
	pthread_create(&threads[0], NULL, other, NULL);
	pthread_create(&threads[1], NULL, other, threads);
	every(10000);
	for (int i = 0; i < 40 || handled < 20; i++)
		expect(compute(20000), "sums");
	over = 1;
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
	puts("registers");

	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	int before = handled;
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec++;
	do {
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec < end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec < end.tv_nsec));
	expect(handled == before, "held off");
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	expect(handled > before, "not lost");
	puts("held off");

	signal(SIGALRM, leave);
	for (volatile int round = 0; round < 5; round++)
		if (sigsetjmp(back, 1) == 0)
			for (;;)
				__asm__ volatile("");
	every(0);
	puts("jumps");
	return 0;
}
