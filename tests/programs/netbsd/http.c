/*
 * An HTTP server, a thread for each connection, over IPv4 and IPv6: it answers every request on port 80 with its path;
 * `/lookup/NAME` with the name's addresses, `/mtu/NAME` with an interface's MTU, `/quit` ends the program.
 */
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <arpa/inet.h>
#include <err.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void
lookup(const char *name, char *text, size_t size)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found, *each;
	int error = getaddrinfo(name, NULL, &hints, &found);

	if (error != 0) {
		snprintf(text, size, "%s", gai_strerror(error));
		return;
	}
	text[0] = '\0';
	for (each = found; each != NULL; each = each->ai_next) {
		char address[64];
		getnameinfo(each->ai_addr, each->ai_addrlen, address, sizeof(address), NULL, 0, NI_NUMERICHOST);
		strlcat(text, address, size);
		strlcat(text, " ", size);
	}
	freeaddrinfo(found);
}

static void *
serve(void *argument)
{
	int connection = (int)(long)argument, on = 1;
	char request[4096], body[600], answer[1024], path[512];
	size_t filled = 0;
	ssize_t count;

	setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	while (filled < sizeof(request) - 1 &&
	    (count = read(connection, request + filled, sizeof(request) - 1 - filled)) > 0) {
		char *end;
		filled += count;
		request[filled] = '\0';
		while ((end = strstr(request, "\r\n\r\n")) != NULL) {
			if (sscanf(request, "GET %511s", path) != 1)
				goto out;
			if (strncmp(path, "/lookup/", 8) == 0)
				lookup(path + 8, body, sizeof(body));
			else if (strncmp(path, "/mtu/", 5) == 0) {
				struct ifreq interface = { 0 };
				strlcpy(interface.ifr_name, path + 5, sizeof(interface.ifr_name));
				ioctl(connection, SIOCGIFMTU, &interface);
				snprintf(body, sizeof(body), "%d", interface.ifr_mtu);
			} else
				snprintf(body, sizeof(body), "this is %s", path);
			int length = snprintf(answer, sizeof(answer),
			    "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
			if (write(connection, answer, length) != length)
				goto out;
			if (strcmp(path, "/quit") == 0)
				exit(0);
			filled -= end + 4 - request;
			memmove(request, end + 4, filled + 1);
		}
	}
out:
	close(connection);
	return NULL;
}

static void *
listen_on(void *argument)
{
	int family = (int)(long)argument, on = 1;
	struct sockaddr_in any = { .sin_len = sizeof(any), .sin_family = AF_INET, .sin_port = htons(80) };
	struct sockaddr_in6 any6 = { .sin6_len = sizeof(any6), .sin6_family = AF_INET6, .sin6_port = htons(80) };
	int listener = socket(family, SOCK_STREAM, 0);

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(listener, family == AF_INET ? (void *)&any : (void *)&any6,
	    family == AF_INET ? sizeof(any) : sizeof(any6)) != 0 || listen(listener, 128) != 0)
		err(1, "listening");
	for (;;) {
		int connection = accept(listener, NULL, NULL);
		pthread_t thread;
		if (connection >= 0 && pthread_create(&thread, NULL, serve, (void *)(long)connection) == 0)
			pthread_detach(thread);
	}
}

int
main(void)
{
	pthread_t thread;

	pthread_create(&thread, NULL, listen_on, (void *)(long)AF_INET6);
	listen_on((void *)(long)AF_INET);
}
