/* A TCP server with epoll, for thousands of connections. Port 7 echoes; port 9 reads nothing and sends as much as goes;
 * port 13 says how many KiB of memory are free and what sockets there are, and closes. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define CONNECTIONS 16384
#define ROOM 65536

/* What of an echo could not be sent yet; allocated only then. */
static struct connection {
    char *pending;
    int start, length, port, over;
} connections[CONNECTIONS];
static int poller;
static char buffer[ROOM];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void watch(int descriptor, int operation, unsigned events) {
    struct epoll_event event = {.events = events, .data.fd = descriptor};
    if (epoll_ctl(poller, operation, descriptor, &event))
        fail("epoll_ctl");
}

static int listener(int port) {
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    int one = 1, descriptor = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (descriptor < 0 || bind(descriptor, (void *)&address, sizeof address) || listen(descriptor, 1024))
        fail("listen");
    connections[descriptor].port = port;
    watch(descriptor, EPOLL_CTL_ADD, EPOLLIN);
    return descriptor;
}

static void finish(int descriptor) {
    free(connections[descriptor].pending);
    memset(&connections[descriptor], 0, sizeof connections[descriptor]);
    close(descriptor);
}

/* Appends a file to what is in the buffer already. */
static int append(const char *name, int length) {
    int file = open(name, O_RDONLY);
    long size = file < 0 ? 0 : read(file, buffer + length, ROOM - length);
    close(file);
    return size > 0 ? length + size : length;
}

static void accept_all(int from) {
    for (;;) {
        int descriptor = accept4(from, NULL, NULL, SOCK_NONBLOCK);
        if (descriptor < 0)
            return;
        if (descriptor >= CONNECTIONS) {
            close(descriptor);
            continue;
        }
        connections[descriptor] = (struct connection){.port = -connections[from].port};
        if (connections[from].port == 13) {
            struct sysinfo info;
            sysinfo(&info);
            int length = sprintf(buffer, "%lu\n", info.freeram * info.mem_unit / 1024);
            length = append("/proc/net/sockstat", length);
            if (write(descriptor, buffer, length) != length)
                perror("write");
            finish(descriptor);
            continue;
        }
        watch(descriptor, EPOLL_CTL_ADD, connections[from].port == 9 ? EPOLLOUT : EPOLLIN);
    }
}

static void echo(int descriptor) {
    struct connection *own = &connections[descriptor];
    for (;;) {
        if (own->pending) {
            long done = send(descriptor, own->pending + own->start, own->length, MSG_NOSIGNAL);
            if (done < 0 && errno == EAGAIN)
                return;
            if (done < 0)
                return finish(descriptor);
            own->start += done;
            if ((own->length -= done))
                continue;
            free(own->pending);
            own->pending = NULL;
            watch(descriptor, EPOLL_CTL_MOD, EPOLLIN);
        }
        long size = read(descriptor, buffer, ROOM);
        if (size < 0 && errno == EAGAIN)
            return;
        if (size <= 0)
            return finish(descriptor);
        long done = send(descriptor, buffer, size, MSG_NOSIGNAL);
        if (done < 0 && errno != EAGAIN)
            return finish(descriptor);
        done = done < 0 ? 0 : done;
        if (done < size) {
            own->pending = malloc(size - done);
            memcpy(own->pending, buffer + done, size - done);
            own->start = 0;
            own->length = size - done;
            watch(descriptor, EPOLL_CTL_MOD, EPOLLOUT);
        }
    }
}

static void flood(int descriptor) {
    for (;;) {
        long done = send(descriptor, buffer, ROOM, MSG_NOSIGNAL);
        if (done < 0 && errno == EAGAIN)
            return;
        if (done < 0)
            return finish(descriptor);
    }
}

int main(void) {
    struct rlimit limit = {CONNECTIONS, CONNECTIONS};
    setrlimit(RLIMIT_NOFILE, &limit);
    poller = epoll_create1(0);
    listener(7);
    listener(9);
    listener(13);
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[256];
        int count = epoll_wait(poller, events, 256, -1);
        for (int index = 0; index < count; index++) {
            int descriptor = events[index].data.fd, port = connections[descriptor].port;
            if (port > 0)
                accept_all(descriptor);
            else if (port == -9)
                flood(descriptor);
            else if (port == -7)
                echo(descriptor);
        }
    }
}
