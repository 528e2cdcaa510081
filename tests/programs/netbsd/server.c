// Answers HTTP on port 80 by kqueue (on Linux by epoll), takes in what comes on port 9, and sends without end on port 19.
// usage: server THREADS
#ifdef __linux__
#include <sys/epoll.h>
#else
#include <sys/event.h>
#endif
#include <sys/socket.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONNECTIONS 1024
#define THREADS 16
#define BUFFER 65536

static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 13\r\nContent-Type: text/plain\r\n\r\nhello, world\n";
static int queues[THREADS];
static int threads;
// How much of the blank line at a request's end each connection has seen; used by one thread each.
static unsigned char seen[CONNECTIONS];

#ifdef __linux__
typedef struct epoll_event event;
#define CONNECTION(event) ((event).data.fd)

static int new_queue(void)
{
	return epoll_create1(0);
}

static void watch(int queue, int connection)
{
	event wanted = { .events = EPOLLIN, .data.fd = connection };
	epoll_ctl(queue, EPOLL_CTL_ADD, connection, &wanted);
}

static int wait_for(int queue, event *events, int room)
{
	return epoll_wait(queue, events, room, -1);
}
#else
typedef struct kevent event;
#define CONNECTION(event) ((int)(event).ident)

static int new_queue(void)
{
	return kqueue();
}

static void watch(int queue, int connection)
{
	event wanted;
	EV_SET(&wanted, connection, EVFILT_READ, EV_ADD, 0, 0, 0);
	kevent(queue, &wanted, 1, NULL, 0, NULL);
}

static int wait_for(int queue, event *events, int room)
{
	return kevent(queue, NULL, 0, events, room, NULL);
}
#endif

static int listen_on(int port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
	int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(listener, (void *)&address, sizeof address) || listen(listener, 128)) {
		perror("listen");
		exit(1);
	}
	return listener;
}

// Returns whether the connection lives.
static int serve(int connection)
{
	char bytes[2048];
	ssize_t length = read(connection, bytes, sizeof bytes);
	if (length <= 0)
		return length < 0 && errno == EAGAIN;
	for (ssize_t i = 0; i < length; i++) {
		unsigned char state = seen[connection];
		state = bytes[i] == (state % 2 ? '\n' : '\r') ? state + 1 : bytes[i] == '\r';
		if (state == 4) {
			if (write(connection, answer, sizeof answer - 1) != sizeof answer - 1)
				return 0;
			state = 0;
		}
		seen[connection] = state;
	}
	return 1;
}

static void *answer_all(void *argument)
{
	event events[64];
	int queue = queues[(long)argument];
	for (;;) {
		int count = wait_for(queue, events, 64);
		for (int i = 0; i < count; i++)
			if (!serve(CONNECTION(events[i])))
				close(CONNECTION(events[i]));
	}
	return argument;
}

static void *accept_all(void *argument)
{
	int on = 1, listener = listen_on(80);
	puts("ready");
	for (int next = 0;; next = (next + 1) % threads) {
		int connection = accept(listener, NULL, NULL);
		if (connection < 0 || connection >= CONNECTIONS) {
			close(connection);
			continue;
		}
		seen[connection] = 0;
		setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
		fcntl(connection, F_SETFL, O_NONBLOCK);
		watch(queues[next], connection);
	}
	return argument;
}

static void *stream(void *argument)
{
	int port = (long)argument, listener = listen_on(port);
	char *bytes = calloc(1, BUFFER);
	for (;;) {
		int connection = accept(listener, NULL, NULL);
		if (connection < 0)
			continue;
		while ((port == 9 ? read(connection, bytes, BUFFER) : write(connection, bytes, BUFFER)) > 0)
			;
		close(connection);
	}
	return argument;
}

int main(int count, char **arguments)
{
	pthread_t thread;
	threads = count > 1 ? atoi(arguments[1]) : 1;
	if (threads < 1 || threads > THREADS)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (long i = 0; i < threads; i++) {
		queues[i] = new_queue();
		pthread_create(&thread, NULL, answer_all, (void *)i);
	}
	pthread_create(&thread, NULL, stream, (void *)9);
	pthread_create(&thread, NULL, stream, (void *)19);
	accept_all(NULL);
	return 0;
}
