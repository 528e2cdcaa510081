/*
 * kqueue(2): EVFILT_USER, EV_DISPATCH and EV_RECEIPT, for a NetBSD kernel. It compiles on a tree without EVFILT_USER,
 * too, and fails there when it runs. Prints a line for each group of checks, and "kqueue_user: passed" at the end.
 */
#include <sys/types.h>
#include <sys/event.h>
#include <sys/ioctl.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifndef EVFILT_USER
#define EVFILT_USER 8U
#define NOTE_FFNOP 0x00000000U
#define NOTE_FFAND 0x40000000U
#define NOTE_FFOR 0x80000000U
#define NOTE_FFCOPY 0xc0000000U
#define NOTE_FFCTRLMASK 0xc0000000U
#define NOTE_FFLAGSMASK 0x00ffffffU
#define NOTE_TRIGGER 0x01000000U
#endif

/* NetBSD 10's numbers: a program built for one kernel means the same on the other. */
_Static_assert(EVFILT_USER == 8, "EVFILT_USER");
_Static_assert(NOTE_FFNOP == 0, "NOTE_FFNOP");
_Static_assert(NOTE_FFAND == 0x40000000, "NOTE_FFAND");
_Static_assert(NOTE_FFOR == 0x80000000, "NOTE_FFOR");
_Static_assert(NOTE_FFCOPY == 0xc0000000, "NOTE_FFCOPY");
_Static_assert(NOTE_FFCTRLMASK == 0xc0000000, "NOTE_FFCTRLMASK");
_Static_assert(NOTE_FFLAGSMASK == 0x00ffffff, "NOTE_FFLAGSMASK");
_Static_assert(NOTE_TRIGGER == 0x01000000, "NOTE_TRIGGER");
_Static_assert(EV_RECEIPT == 0x40 && EV_DISPATCH == 0x80, "EV_*");

#define ROUNDS 1000
#define THREADS 4
#define PATIENCE 30 /* seconds, for what must happen */

#define CHECK(condition)                                                                                               \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			printf("kqueue_user: FAILED at line %d: %s (errno %d)\n", __LINE__, #condition, errno);        \
			exit(1);                                                                                       \
		}                                                                                                      \
	} while (0)

/* Makes one change; 0 or errno. */
static int
change(int kq, uintptr_t ident, uint32_t filter, uint32_t flags, uint32_t fflags, int64_t data, uintptr_t udata)
{
	struct kevent event;

	memset(&event, 0, sizeof(event));
	event.ident = ident;
	event.filter = filter;
	event.flags = flags;
	event.fflags = fflags;
	event.data = data;
	event.udata = (__typeof__(event.udata))udata;
	errno = 0;
	return kevent(kq, &event, 1, NULL, 0, NULL) == -1 ? errno : 0;
}

static int
user(int kq, uintptr_t ident, uint32_t flags, uint32_t fflags)
{
	return change(kq, ident, EVFILT_USER, flags, fflags, 0, 0);
}

/* What is pending now: the number of events, the first of them in *event. */
static int
pending(int kq, struct kevent *event)
{
	const struct timespec now = {0, 0};
	struct kevent events[8];
	int count = kevent(kq, NULL, 0, events, 8, &now);

	CHECK(count >= 0);
	if (event != NULL && count > 0)
		*event = events[0];
	return count;
}

static void
trigger_and_take(void)
{
	struct kevent event;
	int kq = kqueue();

	CHECK(user(kq, 7, 0, NOTE_TRIGGER) == ENOENT);
	CHECK(change(kq, 7, EVFILT_USER, EV_ADD, 0x12, 34, 56) == 0);
	CHECK(pending(kq, NULL) == 0);
	CHECK(change(kq, 7, EVFILT_USER, 0, NOTE_TRIGGER, 78, 90) == 0);
	CHECK(pending(kq, &event) == 1);
	CHECK(event.ident == 7 && event.filter == EVFILT_USER);
	CHECK(event.fflags == 0x12 && event.data == 78 && (uintptr_t)event.udata == 90);

	/* Without EV_CLEAR it stays triggered, until a change takes it back. */
	CHECK(pending(kq, NULL) == 1);
	CHECK(user(kq, 7, EV_CLEAR, 0) == 0);
	CHECK(pending(kq, NULL) == 0);

	/* Identifiers are apart from each other, from descriptors and from other queues. */
	CHECK(user(kq, 8, EV_ADD, 0) == 0);
	CHECK(user(kq, (uintptr_t)kq, EV_ADD, 0) == 0);
	CHECK(user(kq, UINTPTR_MAX, EV_ADD | EV_CLEAR, 0) == 0);
	CHECK(user(kq, UINTPTR_MAX, 0, NOTE_TRIGGER) == 0);
	CHECK(pending(kq, &event) == 1 && event.ident == UINTPTR_MAX && event.fflags == 0);
	CHECK(pending(kq, NULL) == 0);
	CHECK(user(kq, 8, EV_DELETE, 0) == 0);
	CHECK(user(kq, 8, EV_DELETE, 0) == ENOENT);
	CHECK(close(kq) == 0);
	puts("kqueue_user: trigger");
}

static void
clear_and_oneshot(void)
{
	int kq = kqueue();

	CHECK(user(kq, 1, EV_ADD | EV_CLEAR, 0) == 0);
	CHECK(user(kq, 1, 0, NOTE_TRIGGER) == 0);
	CHECK(user(kq, 1, 0, NOTE_TRIGGER) == 0);
	CHECK(pending(kq, NULL) == 1);
	CHECK(pending(kq, NULL) == 0);
	CHECK(user(kq, 1, EV_DELETE, 0) == 0);

	CHECK(user(kq, 2, EV_ADD | EV_ONESHOT, 0) == 0);
	CHECK(user(kq, 2, 0, NOTE_FFCOPY | NOTE_TRIGGER | 0x5) == 0);
	struct kevent event;
	CHECK(pending(kq, &event) == 1 && event.fflags == 0x5);
	CHECK(user(kq, 2, 0, NOTE_TRIGGER) == ENOENT);

	CHECK(user(kq, 3, EV_ADD | EV_CLEAR, 0) == 0);
	CHECK(user(kq, 3, EV_DISABLE, NOTE_TRIGGER) == 0);
	CHECK(pending(kq, NULL) == 0);
	CHECK(user(kq, 3, EV_ENABLE, 0) == 0);
	CHECK(pending(kq, NULL) == 1);
	CHECK(pending(kq, NULL) == 0);
	CHECK(close(kq) == 0);
	puts("kqueue_user: clear, oneshot, disable");
}

static void
flags(void)
{
	static const struct {
		uint32_t change, kept;
	} steps[] = {
	    {NOTE_FFCOPY | 0xabcdef, 0xabcdef}, {NOTE_FFAND | 0xff00ff, 0xab00ef}, {NOTE_FFOR | 0x001100, 0xab11ef},
	    {NOTE_FFNOP | 0xffffff, 0xab11ef},  {NOTE_FFAND | 0, 0},               {NOTE_FFOR | 0xffffff, 0xffffff},
	    {NOTE_FFCOPY | 0, 0},
	};
	struct kevent event;
	int kq = kqueue();

	CHECK(user(kq, 1, EV_ADD | EV_CLEAR, NOTE_FFCOPY | 0x1) == 0);
	CHECK(user(kq, 1, 0, NOTE_TRIGGER) == 0);
	CHECK(pending(kq, &event) == 1 && event.fflags == 0x1);
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		/* Once along with the trigger, once before it, once by EV_ADD of the known event. */
		CHECK(user(kq, 1, 0, steps[i].change | NOTE_TRIGGER) == 0);
		CHECK(pending(kq, &event) == 1 && event.fflags == steps[i].kept);
		CHECK(user(kq, 1, EV_ADD, steps[i].change) == 0);
		CHECK(pending(kq, NULL) == 0);
		CHECK(user(kq, 1, 0, NOTE_TRIGGER) == 0);
		CHECK(pending(kq, &event) == 1 && event.fflags == steps[i].kept);
	}
	CHECK(close(kq) == 0);
	puts("kqueue_user: flags");
}

static void
dispatch(void)
{
	const struct timespec patience = {PATIENCE, 0}, moment = {0, 100000000};
	struct kevent event;
	int kq = kqueue(), ends[2];

	CHECK(user(kq, 1, EV_ADD | EV_CLEAR | EV_DISPATCH, 0) == 0);
	CHECK(user(kq, 1, 0, NOTE_TRIGGER) == 0);
	CHECK(pending(kq, NULL) == 1);
	CHECK(user(kq, 1, 0, NOTE_TRIGGER) == 0);
	CHECK(pending(kq, NULL) == 0);
	CHECK(user(kq, 1, EV_ENABLE, 0) == 0);
	CHECK(pending(kq, NULL) == 1);
	CHECK(user(kq, 1, EV_DELETE, 0) == 0);

	/* Data that stays is reported again once the event is enabled again. */
	CHECK(pipe(ends) == 0);
	CHECK(change(kq, (uintptr_t)ends[0], EVFILT_READ, EV_ADD | EV_DISPATCH, 0, 0, 0) == 0);
	CHECK(write(ends[1], "abc", 3) == 3);
	CHECK(pending(kq, &event) == 1 && event.data == 3);
	CHECK(pending(kq, NULL) == 0);
	CHECK(change(kq, (uintptr_t)ends[0], EVFILT_READ, EV_ENABLE, 0, 0, 0) == 0);
	CHECK(pending(kq, &event) == 1 && event.data == 3);
	CHECK(pending(kq, NULL) == 0);
	CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);

	/* A timer sets EV_CLEAR by itself. */
	CHECK(change(kq, 5, EVFILT_TIMER, EV_ADD | EV_DISPATCH, 0, 10, 0) == 0);
	CHECK(kevent(kq, NULL, 0, &event, 1, &patience) == 1 && event.ident == 5);
	CHECK(kevent(kq, NULL, 0, &event, 1, &moment) == 0);
	CHECK(change(kq, 5, EVFILT_TIMER, EV_ENABLE, 0, 0, 0) == 0);
	CHECK(kevent(kq, NULL, 0, &event, 1, &patience) == 1 && event.ident == 5);
	CHECK(close(kq) == 0);
	puts("kqueue_user: dispatch");
}

static void
receipt(void)
{
	struct kevent changes[3], events[3];
	int kq = kqueue();

	memset(changes, 0, sizeof(changes));
	for (int i = 0; i < 3; i++) {
		changes[i].ident = (uintptr_t)i;
		changes[i].filter = EVFILT_USER;
		changes[i].flags = EV_ADD | EV_CLEAR | EV_RECEIPT;
	}
	changes[1].filter = 0x4711;
	CHECK(kevent(kq, changes, 3, events, 3, NULL) == 3);
	for (int i = 0; i < 3; i++) {
		CHECK(events[i].ident == (uintptr_t)i && events[i].flags == EV_ERROR);
		CHECK(events[i].data == (i == 1 ? EINVAL : 0));
	}

	/* Receipts come alone, though an event is pending. */
	for (int i = 0; i < 3; i++) {
		changes[i].flags = EV_RECEIPT;
		changes[i].fflags = NOTE_TRIGGER;
	}
	CHECK(kevent(kq, changes, 1, events, 3, NULL) == 1 && events[0].flags == EV_ERROR && events[0].data == 0);
	CHECK(pending(kq, NULL) == 1);

	/* Where there is no room for receipts the changes are made all the same. */
	changes[1] = changes[2];
	CHECK(kevent(kq, changes, 2, NULL, 0, NULL) == 0);
	CHECK(pending(kq, NULL) == 2);
	CHECK(close(kq) == 0);
	puts("kqueue_user: receipt");
}

static void
names(void)
{
	char name[] = "EVFILT_USER", found[32] = "";
	struct kfilter_mapping mapping = {.name = name};
	int kq = kqueue();

	CHECK(ioctl(kq, KFILTER_BYNAME, &mapping) == 0 && mapping.filter == EVFILT_USER);
	mapping.name = found;
	mapping.len = sizeof(found);
	CHECK(ioctl(kq, KFILTER_BYFILTER, &mapping) == 0 && strcmp(found, name) == 0);
	CHECK(close(kq) == 0);
	puts("kqueue_user: names");
}

static int there, back;

/* Waits for event 1 of a queue; returns what it brought. */
static uint32_t
wait_for(int kq)
{
	const struct timespec patience = {PATIENCE, 0};
	struct kevent event;

	CHECK(kevent(kq, NULL, 0, &event, 1, &patience) == 1 && event.ident == 1);
	return event.fflags;
}

static void *
answer(void *argument)
{
	(void)argument;
	for (uint32_t i = 1; i <= ROUNDS; i++) {
		CHECK(wait_for(there) == i);
		CHECK(user(back, 1, 0, NOTE_FFCOPY | NOTE_TRIGGER | i) == 0);
	}
	return NULL;
}

static void *
raise_flag(void *argument)
{
	for (int i = 0; i < ROUNDS; i++)
		CHECK(user(there, 1, 0, NOTE_FFOR | NOTE_TRIGGER | *(uint32_t *)argument) == 0);
	return NULL;
}

static void
threads(void)
{
	pthread_t others[THREADS];
	uint32_t bits[THREADS], seen = 0;
	struct pollfd watched;

	/* Wakes a thread that waits, and is woken by it. */
	there = kqueue();
	back = kqueue();
	CHECK(user(there, 1, EV_ADD | EV_CLEAR, 0) == 0 && user(back, 1, EV_ADD | EV_CLEAR, 0) == 0);
	CHECK(pthread_create(&others[0], NULL, answer, NULL) == 0);
	for (uint32_t i = 1; i <= ROUNDS; i++) {
		CHECK(user(there, 1, 0, NOTE_FFCOPY | NOTE_TRIGGER | i) == 0);
		CHECK(wait_for(back) == i);
	}
	CHECK(pthread_join(others[0], NULL) == 0);

	/* Many at once: triggers may fall together, but what the last of each thread did is seen. */
	CHECK(user(there, 1, 0, NOTE_FFCOPY | 0) == 0);
	for (int i = 0; i < THREADS; i++) {
		bits[i] = 1U << i;
		CHECK(pthread_create(&others[i], NULL, raise_flag, &bits[i]) == 0);
	}
	while (seen != (1U << THREADS) - 1)
		seen |= wait_for(there);
	for (int i = 0; i < THREADS; i++)
		CHECK(pthread_join(others[i], NULL) == 0);

	/* poll(2) of the queue itself. */
	while (pending(there, NULL) != 0)
		continue;
	watched.fd = there;
	watched.events = POLLIN;
	CHECK(poll(&watched, 1, 0) == 0);
	CHECK(user(there, 1, 0, NOTE_TRIGGER) == 0);
	CHECK(poll(&watched, 1, PATIENCE * 1000) == 1 && watched.revents == POLLIN);
	CHECK(close(there) == 0 && close(back) == 0);
	puts("kqueue_user: threads");
}

int
main(void)
{
	trigger_and_take();
	clear_and_oneshot();
	flags();
	dispatch();
	receipt();
	names();
	threads();
	puts("kqueue_user: passed");
	return 0;
}
