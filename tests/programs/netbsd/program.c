/* A program for a tree with a C library of one function: its arguments, its thread-local storage, memory of its own, a trap
   that it handles. */
typedef __SIZE_TYPE__ size_t;
#define NULL ((void *)0)

void rumpuser_dprintf(const char *, ...);
void *mmap(void *, size_t, int, int, int, long);
void *malloc(size_t);
void free(void *);
int *__errno(void);
int answer(void);
int execve(const char *, char *const[], char *const[]);

static __thread int local = 5;
static __thread int zero;
static int constructed;

struct action {
	void (*handler)(int, int *, char *);
	unsigned mask[4];
	int flags;
};
int __sigaction14(int, const struct action *, struct action *);

/* The code and the address of the memory fault; the instruction has 6 bytes, and rip stands at 56 + 21 * 8 in the context. */
static long fault[2];

static void handle(int number, int *information, char *context)
{
	fault[0] = number * 10 + information[1];
	fault[1] = *(long *)(information + 4);
	*(long *)(context + 224) += 6;
}

static void __attribute__((constructor)) construct(void)
{
	constructed = 1;
}

int main(int count, char **arguments, char **environment)
{
	char *memory = mmap(NULL, 10000, 3, 0x1000, -1, 0);
	memory[9999] = 1;
	void *block = malloc(100000);
	free(block);
	int failed = execve("/x", arguments, environment);
	int error = *__errno();
	__sigaction14(11, &(struct action){ .handler = handle, .flags = 0x40 }, NULL);
	__asm__ volatile("movl $1, (%0)" : : "a"(0x1234L) : "memory");
	rumpuser_dprintf("fault %d at %d\n", (int)fault[0], (int)fault[1]);
	rumpuser_dprintf("program %s: %d arguments, last %s, local %d %d, constructed %d, execve %d %d, answer %d\n", arguments[0], count,
	    arguments[count - 1], local++, zero, constructed, failed, error, answer());
	return count;
}
