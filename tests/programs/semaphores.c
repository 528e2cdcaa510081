// System V semaphores: values, operations on several at once, waiting, time limits, undoing, removal.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

union semun {
    int val;
    struct semid_ds *buf;
    unsigned short *array;
};

static int operate(int set, int index, int change, int flags) {
    struct sembuf operation = {index, change, flags};
    return semop(set, &operation, 1) == 0 ? 0 : errno;
}

static int value(int set, int index) {
    return semctl(set, index, GETVAL);
}

static void handler(int signal) {
    (void)signal;
}

int main(void) {
    int set = semget(IPC_PRIVATE, 3, IPC_CREAT | 0600);
    union semun argument;
    unsigned short values[3] = {1, 0, 7};
    argument.array = values;
    printf("set %d\n", semctl(set, 0, SETALL, argument));
    struct sembuf both[2] = {{0, -1, 0}, {2, -7, 0}};
    printf("both %d: %d %d %d\n", semop(set, both, 2), value(set, 0), value(set, 1), value(set, 2));
    printf("no wait %s\n", strerror(operate(set, 0, -1, IPC_NOWAIT)));
    printf("range %s\n", strerror(operate(set, 3, 1, 0)));
    argument.val = 40000;
    printf("large %s\n", semctl(set, 0, SETVAL, argument) ? strerror(errno) : "set");
    struct sembuf wait = {1, -1, 0};
    struct timespec moment = {0, 20000000};
    printf("time limit %s\n", semtimedop(set, &wait, 1, &moment) ? strerror(errno) : "done");
    signal(SIGALRM, handler);
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    // Again and again, as a signal may come before the wait begins.
    ualarm(20000, 20000);
    printf("signal %s\n", strerror(operate(set, 1, -1, 0)));
    ualarm(0, 0);

    // Two processes take turns.
    int turns = 2000;
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < turns; i++) {
            if (operate(set, 0, -1, 0) || operate(set, 1, 1, 0)) _exit(1);
        }
        _exit(0);
    }
    for (int i = 0; i < turns; i++) {
        if (operate(set, 0, 1, 0) || operate(set, 1, -1, 0)) return 1;
    }
    int status;
    waitpid(child, &status, 0);
    printf("turns %d: %d %d\n", status, value(set, 0), value(set, 1));

    // What a child takes with SEM_UNDO comes back when it ends, by whatever means.
    argument.val = 5;
    semctl(set, 0, SETVAL, argument);
    child = fork();
    if (child == 0) {
        operate(set, 0, -3, SEM_UNDO);
        operate(set, 1, 2, SEM_UNDO);
        raise(SIGKILL);
    }
    waitpid(child, &status, 0);
    printf("undone %d: %d %d last %d\n", status, value(set, 0), value(set, 1), semctl(set, 0, GETPID) == child);

    // Waiters are counted, wait for zero, and leave when the set is removed.
    child = fork();
    if (child == 0) _exit(operate(set, 0, 0, 0) == EIDRM ? 42 : 1);
    while (semctl(set, 0, GETZCNT) != 1) usleep(1000);
    printf("waiting %d %d\n", semctl(set, 0, GETNCNT), semctl(set, 0, GETZCNT));
    struct semid_ds about;
    argument.buf = &about;
    status = semctl(set, 0, IPC_STAT, argument);
    printf("stat %d: %lu %o\n", status, about.sem_nsems, about.sem_perm.mode);
    printf("remove %d\n", semctl(set, 0, IPC_RMID));
    waitpid(child, &status, 0);
    printf("removed %d, %s\n", WEXITSTATUS(status), strerror(operate(set, 0, 1, 0)));

    key_t key = 0x52554d50;
    int named = semget(key, 2, IPC_CREAT | IPC_EXCL | 0600);
    printf("named %d %d\n", named >= 0, semget(key, 0, 0) == named);
    printf("again %s\n", semget(key, 2, IPC_CREAT | IPC_EXCL | 0600) < 0 ? strerror(errno) : "made");
    printf("more %s\n", semget(key, 3, 0) < 0 ? strerror(errno) : "found");
    semctl(named, 0, IPC_RMID);
    printf("gone %s\n", semget(key, 2, 0) < 0 ? strerror(errno) : "found");
    return 0;
}
