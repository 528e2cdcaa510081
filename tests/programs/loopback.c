/* What is sent over the loopback has arrived when the call returns: nobody waits here, and all find what is theirs. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define THREADS 4
#define DATAGRAMS 2500
#define CONNECTIONS 150

static atomic_int missing;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void miss(const char *what, int thread, int round) {
    printf("thread %d, round %d: %s: %d\n", thread, round, what, errno);
    atomic_fetch_add(&missing, 1);
}

static int make(int type) {
    int descriptor = socket(AF_INET, type, 0);
    if (descriptor < 0)
        fail("socket");
    return descriptor;
}

static int bound(int type, struct sockaddr_in *address) {
    socklen_t length = sizeof *address;
    int descriptor = make(type);
    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(descriptor, (void *)address, length) || getsockname(descriptor, (void *)address, &length))
        fail("bind");
    return descriptor;
}

static int is_ready(int descriptor, short events) {
    struct pollfd entry = {.fd = descriptor, .events = events};
    return poll(&entry, 1, 0) == 1 && entry.revents & events;
}

/* Each sends to itself, and looks in every way that doesn't wait. */
static void *datagrams(void *argument) {
    int thread = (int)(long)argument, received;
    struct sockaddr_in address;
    int own = bound(SOCK_DGRAM, &address), watcher = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    if (watcher < 0 || epoll_ctl(watcher, EPOLL_CTL_ADD, own, &event))
        fail("epoll");
    for (int round = 0; round < DATAGRAMS; round++) {
        if (sendto(own, &round, sizeof round, 0, (void *)&address, sizeof address) != sizeof round)
            fail("sendto");
        if (round % 3 == 1 && !is_ready(own, POLLIN))
            miss("poll", thread, round);
        if (round % 3 == 2 && epoll_wait(watcher, &event, 1, 0) != 1)
            miss("epoll_wait", thread, round);
        if (recv(own, &received, sizeof received, MSG_DONTWAIT) != sizeof received || received != round)
            miss("recv", thread, round);
    }
    close(watcher);
    close(own);
    return NULL;
}

/* Two threads tell each other through memory that they have sent. */
static struct side {
    struct sockaddr_in address;
    int socket;
    atomic_int told;
} sides[THREADS];

static void *correspondence(void *argument) {
    int thread = (int)(long)argument, received;
    struct side *own = &sides[thread], *other = &sides[thread ^ 1];
    for (int round = 0; round < DATAGRAMS; round++) {
        if (sendto(own->socket, &round, sizeof round, 0, (void *)&other->address, sizeof other->address) < 0)
            fail("sendto");
        atomic_store(&other->told, round + 1);
        while (atomic_load(&own->told) <= round)
            sched_yield();
        if (recv(own->socket, &received, sizeof received, MSG_DONTWAIT) < 0 || received != round)
            miss("recv", thread, round);
    }
    return NULL;
}

static void *connections(void *argument) {
    int thread = (int)(long)argument;
    char byte;
    for (int round = 0; round < CONNECTIONS; round++) {
        struct sockaddr_in address;
        int no_wait = (round + thread) % 2;
        int server = bound(SOCK_STREAM | SOCK_NONBLOCK, &address);
        int client = make(SOCK_STREAM | (no_wait ? SOCK_NONBLOCK : 0));
        if (listen(server, 1))
            fail("listen");
        if (connect(client, (void *)&address, sizeof address) && !(no_wait && errno == EINPROGRESS))
            fail("connect");
        if (round % 2 && !is_ready(server, POLLIN))
            miss("poll", thread, round);
        int accepted = accept(server, NULL, NULL);
        if (accepted < 0) {
            miss("accept", thread, round);
        } else {
            if (send(client, "?", 1, 0) != 1 || recv(accepted, &byte, 1, MSG_DONTWAIT) != 1)
                miss("recv", thread, round);
            if (send(accepted, "!", 1, 0) != 1 || recv(client, &byte, 1, MSG_DONTWAIT) != 1)
                miss("recv of the answer", thread, round);
            shutdown(client, SHUT_WR);
            if (recv(accepted, &byte, 1, MSG_DONTWAIT) != 0)
                miss("end", thread, round);
            close(accepted);
        }
        close(client);
        close(server);
    }
    return NULL;
}

static void together(const char *name, void *(*function)(void *)) {
    pthread_t threads[THREADS];
    for (long thread = 0; thread < THREADS; thread++)
        if (pthread_create(&threads[thread], NULL, function, (void *)thread))
            fail("pthread_create");
    for (int thread = 0; thread < THREADS; thread++)
        pthread_join(threads[thread], NULL);
    printf("%s: %d missing\n", name, atomic_exchange(&missing, 0));
}

int main(void) {
    for (int thread = 0; thread < THREADS; thread++)
        sides[thread].socket = bound(SOCK_DGRAM, &sides[thread].address);
    together("datagrams", datagrams);
    together("correspondence", correspondence);
    together("connections", connections);
    return 0;
}
