// Goes wrong in the way that the first argument names.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int zero;

static int recurse(volatile char *above) {
    volatile char frame[4096];
    frame[0] = above[0];
    return recurse(frame) + frame[0];
}

// Takes memory until there is none; being killed for it, or ENOMEM, are both right.
static void take_all(void) {
    for (;;) {
        char *block = malloc(1 << 20);
        if (block == NULL) {
            puts("no more memory");
            exit(3);
        }
        memset(block, 1, 1 << 20);
    }
}

static void fork_without_end(void) {
    for (;;) {
        pid_t child = fork();
        if (child < 0) {
            // Enough: every process ends by itself, the first one last.
            int reason = errno;
            while (wait(NULL) > 0) {}
            if (getpid() == getpgrp()) printf("fork: %s\n", strerror(reason));
            exit(4);
        }
        if (child == 0) continue;
    }
}

int main(int count, char **arguments) {
    const char *how = count > 1 ? arguments[1] : "";
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("about to misbehave");
    if (strcmp(how, "exit") == 0) exit(atoi(arguments[2]));
    if (strcmp(how, "write-null") == 0) *(volatile int *)(uintptr_t)zero = 1;
    if (strcmp(how, "jump-null") == 0) ((void (*)(void))(uintptr_t)zero)();
    if (strcmp(how, "execute-data") == 0) {
        static unsigned char code[] = {0xc3};
        ((void (*)(void))(uintptr_t)code)();
    }
    if (strcmp(how, "write-code") == 0) *(volatile char *)(uintptr_t)main = 0;
    if (strcmp(how, "write-kernel") == 0) *(volatile char *)0xffffffff80100000 = 0;
    if (strcmp(how, "read-direct-map") == 0) putchar(*(volatile char *)0xffff800000100000);
    if (strcmp(how, "non-canonical") == 0) *(volatile char *)0x8000000000000000 = 0;
    if (strcmp(how, "recurse") == 0) return recurse("");
    if (strcmp(how, "divide") == 0) {
        volatile int quotient = 1 / zero;
        return quotient;
    }
    if (strcmp(how, "illegal") == 0) __asm__ volatile("ud2");
    if (strcmp(how, "halt") == 0) __asm__ volatile("hlt");
    if (strcmp(how, "no-interrupts") == 0) __asm__ volatile("cli; 1: jmp 1b");
    if (strcmp(how, "port") == 0) __asm__ volatile("outb %%al, $0x80" ::: "memory");
    if (strcmp(how, "trap-flag") == 0) __asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq; nop" ::: "memory");
    if (strcmp(how, "bad-stack") == 0) __asm__ volatile("movq $0x8000000000000000, %%rsp; push %%rax" ::: "memory");
    if (strcmp(how, "bad-stack-call") == 0) __asm__ volatile("movq $0xffffffff80100000, %%rsp; movl $39, %%eax; syscall; push %%rax" ::: "memory");
    if (strcmp(how, "segments") == 0) __asm__ volatile("xorl %%eax, %%eax; movl %%eax, %%gs; movl %%eax, %%ds; movl %%eax, %%es; movl $39, %%eax; syscall; ud2" ::: "eax", "rcx", "r11", "memory");
    if (strcmp(how, "abort") == 0) abort();
    if (strcmp(how, "memory") == 0) take_all();
    if (strcmp(how, "forks") == 0) fork_without_end();
    if (strcmp(how, "past-end-of-file") == 0) {
        FILE *file = tmpfile();
        char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
        page[0] = 1;
    }
    if (strcmp(how, "children-crash") == 0) {
        for (int i = 0; i < 20; i++) {
            pid_t child = fork();
            if (child == 0) *(volatile int *)(uintptr_t)zero = 1;
            int status = 0;
            waitpid(child, &status, 0);
            if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSEGV) return 1;
        }
        puts("20 children crashed");
    }
    return 0;
}
