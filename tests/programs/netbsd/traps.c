// The processor's traps as signals: what handlers are told, the stacks that they run on, jumps out of them, contexts that
// they change, floating-point exceptions that were asked for. With an argument, a trap that nothing handles.
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <errno.h>
#include <fenv.h>
#include <float.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

static __thread sigjmp_buf back;
static __thread volatile siginfo_t got;
static __thread volatile int skip, count;
static __thread volatile uintptr_t handler_stack;
static __thread volatile unsigned long skipped_at;

static void expect(int good, const char *what)
{
	if (!good) {
		printf("%s: signal %d code %d address %p trap %d, %s\n", what, got.si_signo, got.si_code, got.si_addr, got.si_trap, strerror(errno));
		exit(1);
	}
}

static void handle(int number, siginfo_t *information, void *argument)
{
	ucontext_t *context = argument;
	int here;
	expect(number == information->si_signo, "the number");
	memcpy((void *)&got, information, sizeof(got));
	handler_stack = (uintptr_t)&here;
	count++;
	skipped_at = _UC_MACHINE_PC(context);
	if (skip) {
		context->uc_mcontext.__gregs[_REG_RIP] += skip;
		context->uc_mcontext.__gregs[_REG_RAX] = 4711;
		return;
	}
	siglongjmp(back, 1);
}

static void catch(int number, int flags)
{
	struct sigaction action = { .sa_sigaction = handle, .sa_flags = SA_SIGINFO | flags };
	expect(sigaction(number, &action, NULL) == 0, "sigaction");
}

// Runs something that traps; it must come back here by the handler.
#define TRAPS(what) do { memset((void *)&got, 0, sizeof(got)); if (sigsetjmp(back, 1) == 0) { what; expect(0, #what); } } while (0)
#define IS(signal, code) expect(got.si_signo == (signal) && got.si_code == (code), #signal " " #code)

static volatile int zero;
static volatile double nothing, sink;
static volatile long double long_nothing, long_sink;

#pragma GCC diagnostic ignored "-Winfinite-recursion"
static int __attribute__((noinline)) deep(int depth)
{
	volatile char space[512];
	space[depth % 512] = depth;
	return deep(depth + 1) + space[(depth + 1) % 512];
}

static void *overflow(void *argument)
{
	stack_t stack = { .ss_sp = malloc(SIGSTKSZ), .ss_size = SIGSTKSZ };
	expect(sigaltstack(&stack, NULL) == 0, "sigaltstack");
	for (volatile int round = 0; round < 3; round++) {
		TRAPS(deep(0));
		IS(SIGSEGV, SEGV_ACCERR);
		expect(handler_stack - (uintptr_t)stack.ss_sp < SIGSTKSZ, "the handler's stack");
	}
	stack_t before;
	expect(sigaltstack(&(stack_t){ .ss_flags = SS_DISABLE }, &before) == 0 && before.ss_sp == stack.ss_sp, "no stack");
	return argument;
}

static void memory(void)
{
	char *page = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_ANON | MAP_PRIVATE, -1, 0);
	TRAPS(*(volatile char *)0x123 = 1);
	IS(SIGSEGV, SEGV_MAPERR);
	expect(got.si_addr == (void *)0x123 && got.si_trap == 6, "the address");
	mprotect(page, 4096, PROT_READ);
	expect(page[5] == 0, "to read");
	TRAPS(page[7] = 1);
	IS(SIGSEGV, SEGV_ACCERR);
	expect(got.si_addr == page + 7, "the address");
	mprotect(page, 4096, PROT_NONE);
	TRAPS(sink = page[9]);
	IS(SIGSEGV, SEGV_ACCERR);
	munmap(page, 4096);
	TRAPS(sink = page[9]);
	IS(SIGSEGV, SEGV_MAPERR);
	// In functions of libc's, and in those that the kernel has, too.
	TRAPS(sink = strlen((char *)1));
	IS(SIGSEGV, SEGV_MAPERR);
	TRAPS(memcpy(page, "x", zero + 1));
	IS(SIGSEGV, SEGV_MAPERR);
	TRAPS(sink = strtol((char *)8, NULL, 0));
	IS(SIGSEGV, SEGV_MAPERR);
	// Jumps to nowhere, and to data; an address that is none.
	TRAPS(((void (*)(void))(uintptr_t)zero)());
	IS(SIGSEGV, SEGV_MAPERR);
	page[4096] = 0x90;
	TRAPS(((void (*)(void))(page + 4096))());
	IS(SIGSEGV, SEGV_ACCERR);
	TRAPS(*(volatile char *)0x1234567812345678 = 1);
	expect(got.si_signo == SIGSEGV, "no address");
	// What is there, but not to be written.
	TRAPS(*(volatile char *)"constant" = 1);
	expect(got.si_signo == SIGSEGV, "a constant");
	munmap(page + 4096, 12288);
}

static void instructions(void)
{
	unsigned long result;
	TRAPS(__asm__ volatile("ud2"));
	IS(SIGILL, ILL_ILLOPC);
	skip = 2;
	__asm__ volatile("xor %%eax, %%eax; movq $0x77, -120(%%rsp); ud2; cmpq $0x77, -120(%%rsp); jne 1f; mov %%rax, %0; jmp 2f; 1: movq $0, %0; 2:"
	    : "=r"(result) : : "rax", "memory");
	expect(result == 4711, "goes on behind");
	skip = 0;
	TRAPS(__asm__ volatile("int3"));
	IS(SIGTRAP, TRAP_BRKPT);
	TRAPS(sink = 77 / zero);
	IS(SIGFPE, FPE_INTDIV);
	expect(got.si_addr == (void *)skipped_at, "the instruction");
}

static void arithmetic(void)
{
	sink = 1.0 / nothing;
	expect(fetestexcept(FE_DIVBYZERO), "not trapped");
	feclearexcept(FE_ALL_EXCEPT);
	// QEMU's own processor has no exceptions of SSE.
	feenableexcept(FE_DIVBYZERO | FE_INVALID | FE_OVERFLOW);
	if (sigsetjmp(back, 1) == 0) {
		sink = 1.0 / nothing;
	} else {
		IS(SIGFPE, FPE_FLTDIV);
		// The handler began with exceptions masked, and left by a jump.
		feenableexcept(FE_DIVBYZERO | FE_INVALID | FE_OVERFLOW);
		TRAPS(sink = nothing / nothing);
		IS(SIGFPE, FPE_FLTINV);
		feenableexcept(FE_OVERFLOW);
		TRAPS(sink = DBL_MAX; sink = sink * 2);
		IS(SIGFPE, FPE_FLTOVF);
	}
	feclearexcept(FE_ALL_EXCEPT);
	feenableexcept(FE_DIVBYZERO);
	TRAPS(long_sink = 1.0L / long_nothing; __asm__ volatile("fwait"));
	IS(SIGFPE, FPE_FLTDIV);
	fedisableexcept(FE_ALL_EXCEPT);
	feclearexcept(FE_ALL_EXCEPT);
}

static void *rounding(void *argument)
{
	int mode = argument ? FE_UPWARD : FE_DOWNWARD;
	fesetround(mode);
	for (int i = 0; i < 300; i++) {
		if (i % 3 == 0)
			usleep(100);
		volatile double third = 1.0, three = 3.0;
		third = third / three;
		expect((third * 3 > 1.0) == (mode == FE_UPWARD) && fegetround() == mode, "rounding stays the thread's");
	}
	return argument;
}

static ucontext_t first, second;
static int trace[8], traced;

static void routine(int a, int b, int c, int d, int e, int f, int g, int h)
{
	trace[traced++] = a * 1 + b * 2 + c * 3 + d * 4 + e * 5 + f * 6 + g * 7 + h * 8;
	swapcontext(&second, &first);
	trace[traced++] = 2;
}

static void contexts(void)
{
	getcontext(&second);
	second.uc_stack.ss_sp = malloc(65536);
	second.uc_stack.ss_size = 65536;
	second.uc_link = &first;
	makecontext(&second, (void (*)(void))routine, 8, 1, 2, 3, 4, 5, 6, 7, 8);
	swapcontext(&first, &second);
	trace[traced++] = 1;
	swapcontext(&first, &second);
	expect(traced == 3 && trace[0] == 204 && trace[1] == 1 && trace[2] == 2, "contexts");
	volatile int times = 0;
	getcontext(&first);
	if (times++ < 3)
		setcontext(&first);
	expect(times == 4, "setcontext");
}

int main(int count_of, char **arguments)
{
	pthread_t threads[4];
	if (count_of > 1) {
		switch (arguments[1][0]) {
		case 'm': *(volatile int *)0x2345 = 1; break;
		case 'f': sink = 77 / zero; break;
		case 'i': signal(SIGILL, SIG_IGN); __asm__ volatile("ud2"); break;
		case 'o': deep(0); break;
		case 'k': sigaction(SIGUSR1, (struct sigaction *)0x10, NULL); break;
		}
		return 1;
	}
	for (int number = 1; number < 32; number++)
		if (number == SIGSEGV || number == SIGBUS || number == SIGILL || number == SIGFPE || number == SIGTRAP)
			catch(number, SA_ONSTACK);
	memory();
	puts("memory");
	instructions();
	puts("instructions");
	arithmetic();
	puts("arithmetic");
	contexts();
	puts("contexts");
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, overflow, NULL);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	puts("stacks");
	for (intptr_t i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, rounding, (void *)(i % 2));
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	puts("rounding");
	errno = 0;
	expect(write(1, (void *)0x10, 5) == -1 && errno == EFAULT, "write from nowhere");
	expect(stat("/", (struct stat *)0x10) == -1 && errno == EFAULT, "stat to nowhere");
	errno = 0;
	expect(chdir((char *)0x20) == -1 && errno == EFAULT, "a path from nowhere");
	errno = 0;
	expect(getpriority(PRIO_PROCESS, 0) == 0 && nice(5) == 5 && getpriority(PRIO_PROCESS, getpid()) == 5, "nice");
	expect(setpriority(PRIO_PROCESS, 0, -3) == 0 && getpriority(PRIO_USER, 0) == -3 && errno == 0, "setpriority");
	expect(setpriority(9, 0, 0) == -1 && errno == EINVAL, "no such kind");
	expect(getpriority(PRIO_PROCESS, 9999) == -1 && errno == ESRCH, "no such process");
	puts("calls");
	printf("%d traps\n", count);
	return 0;
}
