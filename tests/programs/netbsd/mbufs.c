/*
 * NetBSD's mbufs and socket buffers, whatever their sizes: streams and datagrams over the loopback, with every length
 * around the sizes of mbufs, clusters and pages. Prints "mbufs: passed" at the end.
 */
#include <sys/param.h>
#include <sys/socket.h>
#include <sys/sysctl.h>

#include <netinet/in.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STREAM_BYTES (8 << 20)
#define LARGEST 20000
#define FRAME 1472 /* the data of a UDP datagram that fills an Ethernet frame */

#define CHECK(condition)                                                                                               \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			printf("mbufs: FAILED at line %d: %s (errno %d)\n", __LINE__, #condition, errno);              \
			exit(1);                                                                                       \
		}                                                                                                      \
	} while (0)

static unsigned char pattern[LARGEST + 251];

/* A bound socket and its address. */
static int
bound(int type, struct sockaddr_in *address)
{
	socklen_t length = sizeof(*address);
	int descriptor = socket(AF_INET, type, 0);

	CHECK(descriptor >= 0);
	memset(address, 0, sizeof(*address));
	address->sin_len = sizeof(*address);
	address->sin_family = AF_INET;
	address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	CHECK(bind(descriptor, (struct sockaddr *)address, sizeof(*address)) == 0);
	CHECK(getsockname(descriptor, (struct sockaddr *)address, &length) == 0);
	return descriptor;
}

static void *
read_stream(void *argument)
{
	static unsigned char buffer[LARGEST];
	int descriptor = *(int *)argument;
	size_t place = 0;

	while (place < STREAM_BYTES) {
		ssize_t got = read(descriptor, buffer, 1 + place % LARGEST);
		CHECK(got > 0);
		CHECK(memcmp(buffer, pattern + place % 251, (size_t)got) == 0);
		place += (size_t)got;
	}
	CHECK(read(descriptor, buffer, 1) == 0);
	return NULL;
}

static void
stream(void)
{
	/* Lengths around the sizes: 256, 512, 1460, 2048, 4096, 8192 and what their headers leave. */
	static const int edges[] = {1, 100, 256, 452, 512, 1460, 2048, 3984, 4040, 4096, 8024, 8192, 16384, LARGEST - 3};
	struct sockaddr_in address;
	pthread_t reader;
	int listening = bound(SOCK_STREAM, &address), client, server;
	size_t place = 0, turn = 0;

	CHECK(listen(listening, 1) == 0);
	client = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(client >= 0 && connect(client, (struct sockaddr *)&address, sizeof(address)) == 0);
	server = accept(listening, NULL, NULL);
	CHECK(server >= 0);
	CHECK(pthread_create(&reader, NULL, read_stream, &server) == 0);
	while (place < STREAM_BYTES) {
		size_t length = (size_t)edges[turn % (sizeof(edges) / sizeof(edges[0]))] + turn % 3;
		ssize_t sent;

		if (length > STREAM_BYTES - place)
			length = STREAM_BYTES - place;
		sent = write(client, pattern + place % 251, length);
		CHECK(sent > 0);
		place += (size_t)sent;
		turn++;
	}
	CHECK(close(client) == 0);
	CHECK(pthread_join(reader, NULL) == 0);
	CHECK(close(server) == 0 && close(listening) == 0);
	puts("mbufs: stream");
}

static void
datagrams(void)
{
	static unsigned char buffer[LARGEST];
	struct sockaddr_in address, last_address;
	int receiver = bound(SOCK_DGRAM, &address), last = bound(SOCK_DGRAM, &last_address);
	int sender = socket(AF_INET, SOCK_DGRAM, 0);
	int space = 65536, received = 0, large = LARGEST;
	socklen_t size = sizeof(space);

	CHECK(sender >= 0 && setsockopt(sender, SOL_SOCKET, SO_SNDBUF, &large, sizeof(large)) == 0);
	CHECK(connect(sender, (struct sockaddr *)&address, sizeof(address)) == 0);
	for (int length = 0; length <= 9000; length += length < 600 ? 1 : 37) {
		CHECK(send(sender, pattern, (size_t)length, 0) == length);
		CHECK(recv(receiver, buffer, sizeof(buffer), 0) == length);
		CHECK(memcmp(buffer, pattern, (size_t)length) == 0);
	}
	puts("mbufs: datagrams");

	/* A buffer holds what it was asked to hold, in full frames, and doesn't hold much more. */
	CHECK(setsockopt(receiver, SOL_SOCKET, SO_RCVBUF, &space, sizeof(space)) == 0);
	CHECK(getsockopt(receiver, SOL_SOCKET, SO_RCVBUF, &space, &size) == 0 && space == 65536);
	CHECK(fcntl(receiver, F_SETFL, O_NONBLOCK) == 0);
	for (int sent = 0; sent < 200; sent++)
		CHECK(send(sender, pattern, FRAME, 0) == FRAME);
	/* What goes to another socket after them arrives after them. */
	CHECK(connect(sender, (struct sockaddr *)&last_address, sizeof(last_address)) == 0);
	CHECK(send(sender, pattern, 1, 0) == 1);
	CHECK(recv(last, buffer, sizeof(buffer), 0) == 1);
	while (recv(receiver, buffer, sizeof(buffer), 0) == FRAME)
		received++;
	CHECK(errno == EAGAIN);
	printf("mbufs: %d frames in a buffer of %d bytes\n", received, space);
	CHECK(received * FRAME > space * 3 / 4 && received * FRAME <= space);

	/* The largest reservation doesn't depend on the sizes. */
	space = 200000;
	CHECK(setsockopt(receiver, SOL_SOCKET, SO_RCVBUF, &space, sizeof(space)) == 0);
	CHECK(close(receiver) == 0 && close(sender) == 0 && close(last) == 0);
	puts("mbufs: buffers");
}

int
main(void)
{
	static const char *const names[] = {"kern.mbuf.msize", "kern.mbuf.mclbytes"};
	int sizes[2] = {0, 0};

	for (int i = 0; i < 2; i++) {
		size_t length = sizeof(sizes[i]);
		CHECK(sysctlbyname(names[i], &sizes[i], &length, NULL, 0) == 0);
	}
	printf("mbufs: %d bytes an mbuf, %d bytes a cluster\n", sizes[0], sizes[1]);
	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = (unsigned char)(i % 251);
	stream();
	datagrams();
	puts("mbufs: passed");
	return 0;
}
