/* Virtual memory as Linux has it: every check holds on the host as well. Prints what fails, then a summary. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define RW (PROT_READ | PROT_WRITE)
#define PRIVATE (MAP_PRIVATE | MAP_ANONYMOUS)
#define SHARED (MAP_SHARED | MAP_ANONYMOUS)

static int checks, failures;
static sigjmp_buf escape;
static volatile sig_atomic_t expected, fault_signal, fault_code;
static void *volatile fault_address;

static void check_at(int line, int good, const char *what)
{
	checks++;
	if (!good) {
		failures++;
		printf("line %d: %s (errno %s)\n", line, what, strerror(errno));
	}
}
#define CHECK(condition) check_at(__LINE__, !!(condition), #condition)
#define FAILS(call, error) check_at(__LINE__, (errno = 0, (long)(call) == -1 && errno == (error)), #call)

static void on_fault(int signal, siginfo_t *info, void *context)
{
	(void)context;
	fault_signal = signal;
	fault_code = info->si_code;
	fault_address = info->si_addr;
	if (!expected) {
		printf("unexpected signal %d at %p\n", signal, info->si_addr);
		_exit(2);
	}
	expected = 0;
	siglongjmp(escape, 1);
}

/* The signal that a read or write of a byte gives; 0 if none. */
static int touch(volatile char *address, int write)
{
	fault_signal = 0;
	expected = 1;
	if (!sigsetjmp(escape, 1)) {
		if (write)
			*address = 1;
		else
			(void)*address;
	}
	expected = 0;
	return fault_signal;
}

static char *map(size_t length, int protection, int flags)
{
	char *result = mmap(NULL, length, protection, flags, -1, 0);
	CHECK(result != MAP_FAILED);
	return result;
}

static void mappings(void)
{
	char *area = map(8 * PAGE, RW, PRIVATE);
	for (size_t i = 0; i < 8 * PAGE; i++)
		if (area[i])
			CHECK(!"new memory is zero");
	memset(area, 7, 8 * PAGE);
	CHECK(munmap(area + 2 * PAGE, PAGE) == 0);
	CHECK(touch(area + 2 * PAGE, 0) == SIGSEGV && fault_code == SEGV_MAPERR);
	CHECK(fault_address == area + 2 * PAGE);
	CHECK(area[PAGE] == 7 && area[3 * PAGE] == 7);
	CHECK(mmap(area + 2 * PAGE, PAGE, RW, PRIVATE | MAP_FIXED_NOREPLACE, -1, 0) == area + 2 * PAGE);
	FAILS(mmap(area + 2 * PAGE, PAGE, RW, PRIVATE | MAP_FIXED_NOREPLACE, -1, 0), EEXIST);
	CHECK(mmap(area, PAGE, RW, PRIVATE | MAP_FIXED, -1, 0) == area && area[0] == 0 && area[PAGE] == 7);
	CHECK(munmap(area, 8 * PAGE) == 0 && munmap(area, 8 * PAGE) == 0);
	char *hint = mmap(area, PAGE, RW, PRIVATE, -1, 0);
	CHECK(hint == area && munmap(hint, PAGE) == 0);
	FAILS(mmap(NULL, 0, RW, PRIVATE, -1, 0), EINVAL);
	FAILS(mmap(NULL, PAGE, RW, MAP_ANONYMOUS, -1, 0), EINVAL);
	FAILS(mmap(NULL, PAGE, RW, MAP_PRIVATE, -1, 0), EBADF);
	FAILS(mmap((void *)1, PAGE, RW, PRIVATE | MAP_FIXED, -1, 0), EINVAL);
	FAILS(mmap(NULL, -PAGE, PROT_NONE, PRIVATE, -1, 0), ENOMEM);
	FAILS(munmap(area + 1, PAGE), EINVAL);
	FAILS(munmap(area, 0), EINVAL);
	char *low = map(PAGE, RW, PRIVATE | MAP_32BIT);
	CHECK((uintptr_t)low < 1ul << 31 && munmap(low, PAGE) == 0);
	char *large = map(16ul << 40, RW, PRIVATE | MAP_NORESERVE);
	large[8ul << 40] = 1;
	CHECK(munmap(large, 16ul << 40) == 0);
	char *populated = map(16 * PAGE, RW, PRIVATE | MAP_POPULATE);
	unsigned char resident[16] = { 0 };
	CHECK(mincore(populated, 16 * PAGE, resident) == 0 && resident[0] & resident[15] & 1);
	CHECK(munmap(populated, 16 * PAGE) == 0);
	FAILS(mincore(populated, PAGE, resident), ENOMEM);
}

static void protections(void)
{
	char *area = map(4 * PAGE, RW, PRIVATE);
	strcpy(area, "kept");
	CHECK(mprotect(area, PAGE, PROT_NONE) == 0);
	CHECK(touch(area, 0) == SIGSEGV && fault_code == SEGV_ACCERR);
	CHECK(mprotect(area, PAGE, PROT_READ) == 0 && !strcmp(area, "kept"));
	CHECK(touch(area, 1) == SIGSEGV && fault_code == SEGV_ACCERR);
	CHECK(mprotect(area, PAGE, RW) == 0 && touch(area, 1) == 0);
	CHECK(munmap(area + 2 * PAGE, PAGE) == 0);
	FAILS(mprotect(area, 4 * PAGE, PROT_READ), ENOMEM);
	FAILS(mprotect(area + 1, PAGE, PROT_READ), EINVAL);
	CHECK(touch(area + PAGE, 1) == SIGSEGV && mprotect(area, 2 * PAGE, RW) == 0);
	/* mov eax, 42; ret */
	memcpy(area, "\xb8\x2a\0\0\0\xc3", 6);
	fault_signal = 0;
	expected = 1;
	if (!sigsetjmp(escape, 1))
		((int (*)(void))area)();
	CHECK(fault_signal == SIGSEGV);
	CHECK(mprotect(area, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
	CHECK(((int (*)(void))area)() == 42);
	CHECK(munmap(area, 4 * PAGE) == 0);
}

static void remapping(void)
{
	char *area = map(8 * PAGE, RW, PRIVATE);
	for (int i = 0; i < 8; i++)
		area[i * PAGE] = i + 1;
	CHECK(munmap(area + 4 * PAGE, 4 * PAGE) == 0);
	char *grown = mremap(area, 4 * PAGE, 6 * PAGE, 0);
	CHECK(grown == area && grown[3 * PAGE] == 4 && grown[4 * PAGE] == 0);
	CHECK(mmap(area + 6 * PAGE, PAGE, PROT_READ, PRIVATE | MAP_FIXED, -1, 0) == area + 6 * PAGE);
	FAILS(mremap(area, 6 * PAGE, 9 * PAGE, 0), ENOMEM);
	char *moved = mremap(area, 6 * PAGE, 9 * PAGE, MREMAP_MAYMOVE);
	CHECK(moved != MAP_FAILED && moved != area && moved[0] == 1 && moved[3 * PAGE] == 4 && moved[8 * PAGE] == 0);
	CHECK(touch(area, 0) == SIGSEGV);
	CHECK(mremap(moved, 9 * PAGE, PAGE, 0) == moved && touch(moved + PAGE, 0) == SIGSEGV);
	char *target = map(PAGE, RW, PRIVATE);
	CHECK(mremap(moved, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target) == target && target[0] == 1);
	FAILS(mremap(target, PAGE, PAGE, MREMAP_FIXED, area), EINVAL);
	FAILS(mremap(target + 1, PAGE, PAGE, 0), EINVAL);
	FAILS(mremap(moved, PAGE, 2 * PAGE, MREMAP_MAYMOVE), EFAULT);
#ifdef MREMAP_DONTUNMAP
	char *other = mremap(target, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	CHECK(other != MAP_FAILED && other[0] == 1 && target[0] == 0);
#endif
	char *shared = map(2 * PAGE, RW, SHARED);
	shared[0] = 5;
	char *twin = mremap(shared, 0, 2 * PAGE, MREMAP_MAYMOVE);
	CHECK(twin != MAP_FAILED && twin != shared && twin[0] == 5);
	twin[PAGE] = 6;
	CHECK(shared[PAGE] == 6);
	char *big = map(6ul << 20, RW, PRIVATE);
	memset(big, 3, 6ul << 20);
	char *bigger = mremap(big, 6ul << 20, 9ul << 20, MREMAP_MAYMOVE);
	CHECK(bigger != MAP_FAILED && bigger[(6ul << 20) - 1] == 3 && bigger[6ul << 20] == 0);
	CHECK(munmap(bigger, 9ul << 20) == 0);
}

static void advice(void)
{
	char *area = map(4 * PAGE, RW, PRIVATE);
	memset(area, 9, 4 * PAGE);
	CHECK(madvise(area, PAGE, MADV_DONTNEED) == 0 && area[0] == 0 && area[PAGE] == 9);
	CHECK(madvise(area, 4 * PAGE, MADV_WILLNEED) == 0 && madvise(area, 4 * PAGE, MADV_NORMAL) == 0);
	CHECK(madvise(area, 4 * PAGE, MADV_DONTFORK) == 0 && madvise(area, 4 * PAGE, MADV_DOFORK) == 0);
	FAILS(madvise(area + 1, PAGE, MADV_DONTNEED), EINVAL);
	FAILS(madvise(area, PAGE, 12345), EINVAL);
	FAILS(madvise(area, PAGE, MADV_REMOVE), EINVAL);
	char *wiped = map(PAGE, RW, PRIVATE), *left_out = map(PAGE, RW, PRIVATE);
	wiped[0] = left_out[0] = 1;
	CHECK(madvise(wiped, PAGE, MADV_WIPEONFORK) == 0 && madvise(left_out, PAGE, MADV_DONTFORK) == 0);
	pid_t child = fork();
	if (child == 0)
		_exit(wiped[0] == 0 && touch(left_out, 0) == SIGSEGV ? 0 : 1);
	int status;
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	char *shared = map(2 * PAGE, RW, SHARED);
	memset(shared, 4, 2 * PAGE);
	CHECK(madvise(shared, PAGE, MADV_DONTNEED) == 0 && shared[0] == 4);
	CHECK(madvise(shared, PAGE, MADV_REMOVE) == 0 && shared[0] == 0 && shared[PAGE] == 4);
	CHECK(munmap(area + PAGE, PAGE) == 0);
	FAILS(madvise(area, 4 * PAGE, MADV_DONTNEED), ENOMEM);
	CHECK(msync(shared, PAGE, MS_SYNC) == 0);
	FAILS(msync(shared, PAGE, MS_SYNC | MS_ASYNC), EINVAL);
	FAILS(msync(area, 4 * PAGE, MS_ASYNC), ENOMEM);
	CHECK(mlock(shared, PAGE) == 0 && munlock(shared, PAGE) == 0 && munlockall() == 0);
	FAILS(mlock(area, 4 * PAGE), ENOMEM);
	FAILS(mlockall(0), EINVAL);
}

static void files(void)
{
	char path[] = "/tmp/memory-XXXXXX";
	int file = mkstemp(path);
	CHECK(file >= 0 && ftruncate(file, 3 * PAGE) == 0);
	CHECK(pwrite(file, "file", 4, PAGE) == 4);
	char *shared = mmap(NULL, 4 * PAGE, RW, MAP_SHARED, file, 0);
	char *private = mmap(NULL, 3 * PAGE, RW, MAP_PRIVATE, file, 0);
	CHECK(shared != MAP_FAILED && private != MAP_FAILED);
	CHECK(!strcmp(shared + PAGE, "file") && !strcmp(private + PAGE, "file"));
	strcpy(shared + PAGE, "changed");
	char text[8] = "";
	CHECK(pread(file, text, 8, PAGE) == 8 && !strcmp(text, "changed"));
	CHECK(pwrite(file, "again", 6, 2 * PAGE) == 6 && !strcmp(shared + 2 * PAGE, "again"));
	strcpy(private + 2 * PAGE, "mine");
	CHECK(!strcmp(shared + 2 * PAGE, "again") && pread(file, text, 8, 2 * PAGE) == 8 && !strcmp(text, "again"));
	CHECK(touch(shared + 3 * PAGE, 0) == SIGBUS && fault_code == BUS_ADRERR);
	CHECK(ftruncate(file, PAGE) == 0);
	CHECK(touch(shared + PAGE, 0) == SIGBUS && touch(private + 2 * PAGE, 0) == SIGBUS && touch(shared, 1) == 0);
	CHECK(ftruncate(file, 3 * PAGE) == 0 && shared[PAGE] == 0 && shared[2 * PAGE] == 0);
	char *second = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, file, PAGE);
	strcpy(shared + PAGE, "seen");
	CHECK(!strcmp(second, "seen"));
	FAILS(mmap(NULL, PAGE, RW, MAP_SHARED, file, 1), EINVAL);
	int reader = open(path, O_RDONLY), writer = open(path, O_WRONLY);
	FAILS(mmap(NULL, PAGE, RW, MAP_SHARED, reader, 0), EACCES);
	FAILS(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, writer, 0), EACCES);
	char *read_only = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, reader, 0);
	CHECK(read_only != MAP_FAILED);
	FAILS(mprotect(read_only, PAGE, RW), EACCES);
	close(reader);
	close(writer);
	close(file);
	CHECK(unlink(path) == 0 && !strcmp(shared + PAGE, "seen"));
	/* What a system call reads and writes may be mapped, and may be the file itself. */
	int self = open("/proc/self/exe", O_RDONLY);
	char *image = mmap(NULL, PAGE, RW, MAP_PRIVATE, self, 0);
	CHECK(image != MAP_FAILED && !memcmp(image, "\x7f" "ELF", 4));
	image[0] = 'x';
	char start[4];
	CHECK(pread(self, start, 4, 0) == 4 && start[0] == 0x7f && image[0] == 'x');
	close(self);
	int zero = open("/dev/zero", O_RDWR);
	char *zeros = mmap(NULL, 2 * PAGE, RW, MAP_PRIVATE, zero, 0);
	CHECK(zeros != MAP_FAILED && zeros[PAGE] == 0 && touch(zeros, 1) == 0);
	char *common = mmap(NULL, PAGE, RW, MAP_SHARED, zero, 0);
	pid_t child = fork();
	if (child == 0) {
		common[0] = 77;
		_exit(0);
	}
	int status;
	CHECK(waitpid(child, &status, 0) == child && common[0] == 77);
	close(zero);
	int directory = open("/", O_RDONLY);
	FAILS(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, directory, 0), ENODEV);
	close(directory);
}

static void memory_files(void)
{
	int file = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	CHECK(file >= 0 && ftruncate(file, 2 * PAGE) == 0);
	char *area = mmap(NULL, 2 * PAGE, RW, MAP_SHARED, file, 0);
	CHECK(area != MAP_FAILED);
	strcpy(area, "memory");
	FAILS(fcntl(file, F_ADD_SEALS, F_SEAL_WRITE), EBUSY);
	CHECK(munmap(area, 2 * PAGE) == 0);
	CHECK(fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_WRITE) == 0);
	FAILS(ftruncate(file, PAGE), EPERM);
	FAILS(mmap(NULL, PAGE, RW, MAP_SHARED, file, 0), EPERM);
	FAILS(write(file, "x", 1), EPERM);
	char *private = mmap(NULL, PAGE, RW, MAP_PRIVATE, file, 0);
	CHECK(private != MAP_FAILED && !strcmp(private, "memory") && touch(private, 1) == 0);
	close(file);
	FAILS(memfd_create("x", 0x4000), EINVAL);
}

static void processes(void)
{
	char *private = map(64 * PAGE, RW, PRIVATE), *shared = map(PAGE, RW, SHARED);
	memset(private, 1, 64 * PAGE);
	pid_t child = fork();
	if (child == 0) {
		for (int i = 0; i < 64; i++)
			if (private[i * PAGE] != 1)
				_exit(1);
		memset(private, 2, 64 * PAGE);
		shared[0] = 3;
		_exit(0);
	}
	int status;
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	int same = 1;
	for (size_t i = 0; i < 64 * PAGE; i++)
		same &= private[i] == 1;
	CHECK(same && shared[0] == 3);
	char there[] = "other process", here[14] = "";
	int pipes[2];
	CHECK(pipe(pipes) == 0);
	child = fork();
	if (child == 0) {
		there[0] = 'O';
		char byte;
		_exit(write(pipes[1], "x", 1) == 1 && pause() && read(pipes[0], &byte, 1));
	}
	char byte;
	CHECK(read(pipes[0], &byte, 1) == 1);
	struct iovec local = { here, sizeof(here) }, remote = { there, sizeof(there) };
	CHECK(process_vm_readv(child, &local, 1, &remote, 1, 0) == 14 && !strcmp(here, "Other process"));
	strcpy(here, "written to it");
	CHECK(process_vm_writev(child, &local, 1, &remote, 1, 0) == 14);
	memset(here, 0, sizeof(here));
	CHECK(process_vm_readv(child, &local, 1, &remote, 1, 0) == 14 && !strcmp(here, "written to it"));
	struct iovec bad = { (void *)8, 8 };
	FAILS(process_vm_readv(child, &local, 1, &bad, 1, 0), EFAULT);
	CHECK(there[0] == 'o' && kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child);
	FAILS(process_vm_readv(child, &local, 1, &remote, 1, 0), ESRCH);
}

static void segments(void)
{
	int id = shmget(IPC_PRIVATE, 3 * PAGE - 5, IPC_CREAT | 0600);
	CHECK(id >= 0);
	char *first = shmat(id, NULL, 0), *second = shmat(id, NULL, SHM_RDONLY);
	CHECK(first != MAP_FAILED && second != MAP_FAILED && first != second);
	strcpy(first, "segment");
	CHECK(!strcmp(second, "segment") && touch(second, 1) == SIGSEGV);
	struct shmid_ds status;
	CHECK(shmctl(id, IPC_STAT, &status) == 0 && status.shm_nattch == 2 && status.shm_segsz == 3 * PAGE - 5);
	CHECK(status.shm_cpid == getpid() && (status.shm_perm.mode & 0777) == 0600);
	pid_t child = fork();
	if (child == 0) {
		shmctl(id, IPC_STAT, &status);
		first[0] = 'S';
		_exit(status.shm_nattch == 4 ? 0 : 1);
	}
	int code;
	CHECK(waitpid(child, &code, 0) == child && code == 0 && second[0] == 'S');
	CHECK(shmctl(id, IPC_RMID, NULL) == 0 && shmdt(second) == 0 && first[0] == 'S');
	FAILS(shmdt(second), EINVAL);
	CHECK(shmdt(first) == 0);
	FAILS(shmat(id, NULL, 0), EINVAL);
	key_t key = 0x1234abcd;
	id = shmget(key, PAGE, IPC_CREAT | IPC_EXCL | 0600);
	CHECK(id >= 0 && shmget(key, 0, 0) == id);
	FAILS(shmget(key, PAGE, IPC_CREAT | IPC_EXCL), EEXIST);
	FAILS(shmget(key, 2 * PAGE, 0), EINVAL);
	CHECK(shmctl(id, IPC_RMID, NULL) == 0);
	FAILS(shmget(key, PAGE, 0), ENOENT);
}

static int recurse(int depth)
{
	volatile char frame[1024];
	frame[0] = (char)depth;
	return depth == 0 ? 0 : recurse(depth - 1) + (frame[0] != (char)depth);
}

static void stack_and_heap(void)
{
	/* 6 MiB of the default 8. */
	CHECK(recurse(6 << 10) == 0);
	char *old = sbrk(0);
	CHECK(sbrk(10 * PAGE) == old);
	memset(old, 5, 10 * PAGE);
	CHECK(sbrk(-10 * (long)PAGE) == old + 10 * PAGE && touch(old + 2 * PAGE, 0) == SIGSEGV);
	CHECK(sbrk(10 * PAGE) == old && old[2 * PAGE] == 0);
	char *big = malloc(100 << 20);
	CHECK(big != NULL);
	big[50 << 20] = 1;
	free(big);
	struct rlimit limit, small;
	CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
	small = limit;
	small.rlim_cur = 1ul << 30;
	CHECK(setrlimit(RLIMIT_AS, &small) == 0);
	FAILS(mmap(NULL, 2ul << 30, PROT_NONE, PRIVATE, -1, 0), ENOMEM);
	CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
}

/* Threads that touch the same pages at the same time lose nothing. */
static char *contended;
static pthread_barrier_t barrier;

static void *toucher(void *argument)
{
	long number = (long)argument;
	for (int round = 0; round < 20; round++) {
		pthread_barrier_wait(&barrier);
		for (int page = 0; page < 600; page++)
			contended[page * PAGE + number] = (char)(round + 1);
		pthread_barrier_wait(&barrier);
		for (int page = 0; page < 600; page++)
			if (contended[page * PAGE + number] != (char)(round + 1))
				return (void *)1;
		pthread_barrier_wait(&barrier);
		if (number == 0 && madvise(contended, 600 * PAGE, MADV_DONTNEED))
			return (void *)2;
	}
	return NULL;
}

static void threads(void)
{
	contended = map(600 * PAGE, RW, PRIVATE);
	pthread_barrier_init(&barrier, NULL, 4);
	pthread_t ids[4];
	for (long i = 0; i < 4; i++)
		CHECK(pthread_create(&ids[i], NULL, toucher, (void *)i) == 0);
	for (int i = 0; i < 4; i++) {
		void *result;
		CHECK(pthread_join(ids[i], &result) == 0 && result == NULL);
	}
}

static void clocks(void)
{
	CHECK(getauxval(AT_SYSINFO_EHDR) != 0);
	struct timespec first, second, direct;
	for (int clock = 0; clock < 8; clock++) {
		if (clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID)
			continue;
		CHECK(clock_gettime(clock, &first) == 0 && syscall(SYS_clock_gettime, clock, &direct) == 0);
		CHECK(clock_gettime(clock, &second) == 0);
		long long a = first.tv_sec * 1000000000ll + first.tv_nsec, b = direct.tv_sec * 1000000000ll + direct.tv_nsec;
		long long c = second.tv_sec * 1000000000ll + second.tv_nsec;
		/* Coarse clocks may be some ticks behind. */
		CHECK(a - 20000000 <= b && b <= c + 20000000 && a <= c);
	}
	CHECK(sched_getcpu() >= 0 && sched_getcpu() < sysconf(_SC_NPROCESSORS_CONF));
}

static void reports(void)
{
	char *area = mmap((void *)0x123456000ul, 3 * PAGE, PROT_READ, SHARED | MAP_FIXED_NOREPLACE, -1, 0);
	CHECK(area == (void *)0x123456000ul);
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512];
	int found = 0, stack = 0, vdso = 0;
	while (fgets(line, sizeof(line), maps)) {
		found |= !strncmp(line, "123456000-123459000 r--s 00000000", 33);
		stack |= strstr(line, "rw-p") && strstr(line, "[stack]");
		vdso |= strstr(line, "r-xp") && strstr(line, "[vdso]");
	}
	fclose(maps);
	CHECK(found && stack && vdso);
}

int main(void)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	setvbuf(stdout, NULL, _IONBF, 0);
	mappings();
	protections();
	remapping();
	advice();
	files();
	memory_files();
	processes();
	segments();
	stack_and_heap();
	threads();
	clocks();
	reports();
	printf("%d checks, %d failed\n", checks, failures);
	return failures != 0;
}
