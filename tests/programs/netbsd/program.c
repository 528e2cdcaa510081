/* A program for a tree with a C library of one function: its arguments, its thread-local storage, memory of its own. */
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
	rumpuser_dprintf("program %s: %d arguments, last %s, local %d %d, constructed %d, execve %d %d, answer %d\n", arguments[0], count,
	    arguments[count - 1], local++, zero, constructed, failed, error, answer());
	return count;
}
