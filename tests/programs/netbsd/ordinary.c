/* An ordinary program of the host, which knows no rump kernels: sends a datagram. ADDRESS PORT TEXT. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **words)
{
	if (count != 4)
		return 2;
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(words[2])) };
	inet_pton(AF_INET, words[1], &to.sin_addr);
	int descriptor = socket(AF_INET, SOCK_DGRAM, 0);
	if (sendto(descriptor, words[3], strlen(words[3]), 0, (struct sockaddr *)&to, sizeof to) < 0) {
		perror("sendto");
		return 1;
	}
	close(descriptor);
	return 0;
}
