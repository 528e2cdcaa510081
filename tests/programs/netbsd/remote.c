/*
 * A client of a NetBSD kernel elsewhere (RUMP_SERVER): a program of the host that makes system calls there by
 * librumpclient. Each word of its command line is a step; structures and numbers are NetBSD's.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <rump/rump_syscalls.h>
#include <rump/rumpclient.h>

enum { INET = 2, STREAM = 1, DATAGRAM = 2 };
enum { READ_WRITE = 2, CREATE = 0x200 };
#define IFCREATE 0x8090697aul
#define ADD_ADDRESS 0x8040691aul
#define GET_FLAGS 0xc0906911ul
#define SET_FLAGS 0x80906910ul
#define SET_LINK 0x80286988ul

struct address {
	uint8_t length, family;
	uint16_t port;
	uint8_t address[4], zero[8];
};

struct interface_request {
	char name[16];
	union {
		int16_t flags;
		char bytes[128];
	} value;
};

struct alias_request {
	char name[16];
	struct address address, broadcast, mask;
};

struct driver_request {
	char name[16];
	unsigned long command;
	size_t length;
	const void *data;
};

static int check(int value, const char *what)
{
	if (value < 0) {
		perror(what);
		exit(1);
	}
	return value;
}

static struct address address(const char *text, int port)
{
	struct address address = { .length = sizeof address, .family = INET };
	sscanf(text, "%hhu.%hhu.%hhu.%hhu", &address.address[0], &address.address[1], &address.address[2],
	       &address.address[3]);
	address.port = (uint16_t)(port >> 8 | port << 8);
	return address;
}

/* shmif BUS ADDRESS: an interface on a bus that is a file of the host. */
static void shmif(const char *bus, const char *text)
{
	int descriptor = check(rump_sys_socket(INET, DATAGRAM, 0), "socket");
	struct interface_request request = { "shmif0" };
	check(rump_sys_ioctl(descriptor, IFCREATE, &request), "create");
	struct driver_request link = { "shmif0", 0, strlen(bus) + 1, bus };
	check(rump_sys_ioctl(descriptor, SET_LINK, &link), "linkstr");
	struct alias_request alias = { "shmif0", address(text, 0), address(text, 0), address("255.255.255.0", 0) };
	alias.broadcast.address[3] = 255;
	check(rump_sys_ioctl(descriptor, ADD_ADDRESS, &alias), "address");
	check(rump_sys_ioctl(descriptor, GET_FLAGS, &request), "flags");
	request.value.flags |= 1;
	check(rump_sys_ioctl(descriptor, SET_FLAGS, &request), "up");
}

/* send ADDRESS PORT TEXT: a datagram. */
static void send_to(const char *text, int port, const char *message)
{
	int descriptor = check(rump_sys_socket(INET, DATAGRAM, 0), "socket");
	struct address to = address(text, port);
	long sent = rump_sys_sendto(descriptor, message, strlen(message), 0, (struct sockaddr *)&to, sizeof to);
	printf("sent %ld\n", sent);
}

/* receive PORT: prints the first datagram. */
static void receive(int port)
{
	int descriptor = check(rump_sys_socket(INET, DATAGRAM, 0), "socket");
	struct address any = address("0.0.0.0", port);
	check(rump_sys_bind(descriptor, (struct sockaddr *)&any, sizeof any), "bind");
	printf("ready\n");
	fflush(stdout);
	char message[128] = "";
	check((int)rump_sys_recvfrom(descriptor, message, sizeof message - 1, 0, NULL, NULL), "receive");
	printf("received %s\n", message);
}

/* file PATH: writes it and reads it again. */
static void file(const char *path)
{
	static char big[200000], again[sizeof big];
	memset(big, 'x', sizeof big);
	int descriptor = check(rump_sys_open(path, READ_WRITE | CREATE, 0644), "open");
	check((int)rump_sys_write(descriptor, big, sizeof big), "write");
	check((int)rump_sys_pwrite(descriptor, "from afar", 9, 0), "pwrite");
	check((int)rump_sys_pread(descriptor, again, sizeof again, 0), "pread");
	memcpy(big, "from afar", 9);
	printf("%s: %.9s, %s\n", path, again, memcmp(big, again, sizeof big) ? "wrong" : "right");
	check(rump_sys_close(descriptor), "close");
}

/* fork: a child that has the parent's descriptors. */
static void do_fork(void)
{
	int ends[2];
	check(rump_sys_pipe(ends), "pipe");
	int mine = rump_sys_getpid();
	pid_t child = check(rumpclient_fork(), "fork");
	if (child == 0) {
		char other = rump_sys_getpid() != mine && rump_sys_getppid() > 0 ? 'y' : 'n';
		rump_sys_write(ends[1], &other, 1);
		_exit(0);
	}
	char other = 0;
	check((int)rump_sys_read(ends[0], &other, 1), "read");
	waitpid(child, NULL, 0);
	printf("the child is another process: %c\n", other);
}

int main(int count, char **words)
{
	check(rumpclient_init(), "rumpclient_init");
	for (int at = 1; at < count; at++) {
		if (strcmp(words[at], "pid") == 0) {
			printf("process %s\n", rump_sys_getpid() > 1 ? "of its own" : "of nobody");
		} else if (strcmp(words[at], "socket") == 0) {
			int descriptor = check(rump_sys_socket(INET, STREAM, 0), "socket");
			printf("socket at %d\n", descriptor);
			check(rump_sys_close(descriptor), "close");
		} else if (strcmp(words[at], "shmif") == 0 && at + 2 < count) {
			shmif(words[at + 1], words[at + 2]);
			at += 2;
		} else if (strcmp(words[at], "send") == 0 && at + 3 < count) {
			send_to(words[at + 1], atoi(words[at + 2]), words[at + 3]);
			at += 3;
		} else if (strcmp(words[at], "receive") == 0 && at + 1 < count) {
			receive(atoi(words[++at]));
		} else if (strcmp(words[at], "file") == 0 && at + 1 < count) {
			file(words[++at]);
		} else if (strcmp(words[at], "fork") == 0) {
			do_fork();
		} else if (strcmp(words[at], "halt") == 0) {
			printf("halt %d\n", rump_sys_reboot(0, NULL));
		} else {
			fprintf(stderr, "no step %s\n", words[at]);
			return 2;
		}
		fflush(stdout);
	}
	return 0;
}
