// Signals of timers: they end sleeps here and in the kernel, have calls made again where that was asked for, reach a
// thread that waits for them, and end a program that doesn't handle them. A wait whose time has passed says so.
#include <sys/time.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t handled;
static int ends[2];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;

static void handle(int number)
{
	handled++;
	if (handled == 100) // for a read that begins again
		write(ends[1], "x", 1);
	(void)number;
}

static volatile siginfo_t told;

static void note(int number, siginfo_t *information, void *context)
{
	told = *information;
	(void)number, (void)context;
}

static void expect(int good, const char *what)
{
	if (!good) {
		printf("%s: handled %d, %s\n", what, (int)handled, strerror(errno));
		exit(1);
	}
}

static void action(int number, int flags)
{
	struct sigaction new = { .sa_handler = handle, .sa_flags = flags };
	expect(sigaction(number, &new, NULL) == 0, "sigaction");
}

// Again and again, as a signal may come before the sleep begins.
static void every(int microseconds)
{
	struct itimerval value = { { 0, microseconds }, { 0, microseconds } };
	expect(setitimer(ITIMER_REAL, &value, NULL) == 0, "setitimer");
}

static void *late(void *argument)
{
	for (int i = 0; i < 2000; i++) {
		struct timespec time;
		clock_gettime(CLOCK_REALTIME, &time);
		time.tv_sec--;
		pthread_mutex_lock(&mutex);
		int error = pthread_cond_timedwait(&condition, &mutex, &time);
		pthread_mutex_unlock(&mutex);
		expect(error == ETIMEDOUT, "pthread_cond_timedwait");
	}
	return argument;
}

int main(void)
{
	char byte;
	int number;
	sigset_t set;
	pthread_t threads[8];
	struct timespec hour = { 3600, 0 };
	struct pollfd wanted = { .events = POLLIN };

	for (int i = 0; i < 8; i++)
		pthread_create(&threads[i], NULL, late, NULL);
	for (int i = 0; i < 8; i++)
		pthread_join(threads[i], NULL);
	puts("late waits say so");

	pipe(ends);
	wanted.fd = ends[0];
	action(SIGALRM, 0);
	alarm(1);
	expect(nanosleep(&hour, NULL) == -1 && errno == EINTR && handled == 1, "nanosleep");
	every(20000);
	expect(read(ends[0], &byte, 1) == -1 && errno == EINTR && handled > 1, "read");
	expect(poll(&wanted, 1, -1) == -1 && errno == EINTR, "poll");
	expect(pause() == -1 && errno == EINTR, "pause");
	action(SIGALRM, SA_RESTART);
	handled = 95;
	expect(read(ends[0], &byte, 1) == 1 && byte == 'x' && handled >= 100, "read, made again");
	every(0);
	puts("sleeps end");

	timer_t timer;
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
	struct itimerspec soon = { .it_value = { 0, 20000000 } };
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	expect(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0, "timer_create");
	expect(timer_settime(timer, 0, &soon, NULL) == 0, "timer_settime");
	expect(sigwait(&set, &number) == 0 && number == SIGUSR1, "sigwait");
	puts("a timer's signal is waited for");

	struct sigaction noting = { .sa_sigaction = note, .sa_flags = SA_SIGINFO };
	expect(sigaction(SIGUSR2, &noting, NULL) == 0, "sigaction");
	kill(getpid(), SIGUSR2);
	expect(told.si_signo == SIGUSR2 && told.si_code == SI_USER && told.si_pid == getpid(), "kill's information");
	pthread_kill(pthread_self(), SIGUSR2);
	expect(told.si_code == SI_LWP && told.si_pid == getpid() && told.si_uid == 0, "pthread_kill's information");
	puts("handlers are told who sent");

	signal(SIGALRM, SIG_IGN);
	every(10000);
	expect(poll(&wanted, 1, 100) == 0, "poll beside signals that are ignored");
	signal(SIGALRM, SIG_DFL);
	read(ends[0], &byte, 1);
	puts("not ended");
	return 0;
}
