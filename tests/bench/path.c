/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Sender and receiver of a packet path in one thread: what is sent has arrived when the system call returns, because
 * the path runs in the sender's softirq. No wake-up, no scheduler: what remains is the path. Every function returns the
 * nanoseconds of the whole, or minus errno.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static long now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000L + now.tv_nsec;
}

static long pass(int from, int to, char *buffer, size_t size)
{
	if (send(from, buffer, size, 0) != (ssize_t)size)
		return -errno;
	/* an acknowledgement may still be on its way through the other processor's queue: try again, a while */
	for (int tries = 0; tries < 1000000; tries++) {
		if (recv(to, buffer, size, MSG_DONTWAIT) == (ssize_t)size)
			return 0;
		if (errno != EAGAIN)
			return -errno;
	}
	return -ETIMEDOUT;
}

long one_way(int from, int to, long count)
{
	char buffer[64] = {0};
	long began = now_ns(), bad;

	while (count--)
		if ((bad = pass(from, to, buffer, sizeof(buffer))))
			return bad;
	return now_ns() - began;
}

long request_response(int client, int server, long count)
{
	char buffer[1] = {0};
	long began = now_ns(), bad;

	while (count--)
		if ((bad = pass(client, server, buffer, 1)) || (bad = pass(server, client, buffer, 1)))
			return bad;
	return now_ns() - began;
}

/* Connect, one byte there and one back, close; the client in the namespace `netns`, where the thread then stays. */
long connections(int netns, const struct sockaddr *address, unsigned length, int listener, long count)
{
	char buffer[1] = {0};
	long began, bad;

	if (setns(netns, CLONE_NEWNET))
		return -errno;
	began = now_ns();
	while (count--) {
		int client = socket(address->sa_family, SOCK_STREAM, 0), server;

		if (client < 0)
			return -errno;
		if (connect(client, address, length))
			return -errno;
		server = accept(listener, 0, 0);
		if (server < 0)
			return -errno;
		if ((bad = pass(client, server, buffer, 1)) || (bad = pass(server, client, buffer, 1)))
			return bad;
		/* the server waits in TIME_WAIT, so that the client does not run out of ports */
		close(server);
		close(client);
	}
	return now_ns() - began;
}

long bulk(int from, int to, long count)
{
	static char buffer[65536];
	long began = now_ns();

	while (count--) {
		size_t left = sizeof(buffer), sent = 0;

		while (left) {
			ssize_t done;

			if (sent < sizeof(buffer)) {
				done = send(from, buffer + sent, sizeof(buffer) - sent, MSG_DONTWAIT);
				if (done < 0 && errno != EAGAIN)
					return -errno;
				sent += done > 0 ? done : 0;
			}
			done = recv(to, buffer, sizeof(buffer), MSG_DONTWAIT);
			if (done < 0 && errno != EAGAIN)
				return -errno;
			left -= done > 0 ? done : 0;
		}
	}
	return now_ns() - began;
}
