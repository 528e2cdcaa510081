#include <sys/socket.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static long count;
static volatile int stop;
static __thread long mine = 1;
static int listener;

static void *work(void *number)
{
	for (int i = 0; i < 100000; i++) {
		pthread_mutex_lock(&mutex);
		count++;
		pthread_mutex_unlock(&mutex);
	}
	mine += (long)number;
	return (void *)mine;
}

static void *spin(void *argument)
{
	volatile double x = 1;
	while (!stop)
		x *= 1.0000001;
	return argument;
}

static void *echo(void *argument)
{
	char bytes[64];
	long length;
	int connection = accept(listener, NULL, NULL);
	while ((length = read(connection, bytes, sizeof bytes)) > 0)
		write(connection, bytes, length);
	close(connection);
	return argument;
}

int main(void)
{
	pthread_t threads[8];
	long sum = 0, echoed = 0;
	void *result;
	char bytes[10];
	struct sockaddr_in address = { .sin_len = sizeof address, .sin_family = AF_INET, .sin_port = htons(7777),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

	for (long i = 0; i < 8; i++)
		pthread_create(&threads[i], NULL, work, (void *)i);
	for (int i = 0; i < 8; i++) {
		pthread_join(threads[i], &result);
		sum += (long)result;
	}
	printf("counted %ld, sum %ld\n", count, sum);

	pthread_create(&threads[0], NULL, spin, NULL);
	struct timespec time = { 0, 10000000 };
	nanosleep(&time, NULL);
	stop = 1;
	pthread_join(threads[0], NULL);
	puts("slept beside a spinning thread");

	listener = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(listener, (void *)&address, sizeof address) || listen(listener, 5))
		return 1;
	pthread_create(&threads[0], NULL, echo, NULL);
	int connection = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(connection, (void *)&address, sizeof address))
		return 2;
	for (int i = 0; i < 500; i++) {
		write(connection, "0123456789", 10);
		for (int got = 0; got < 10;) {
			int length = read(connection, bytes, 10 - got);
			if (length <= 0)
				return 3;
			got += length;
			echoed += length;
		}
	}
	close(connection);
	pthread_join(threads[0], NULL);
	printf("echoed %ld\n", echoed);
	return 0;
}
