/* Gives servers areas that they never touch; loaded into every program of their disk, by /etc/ld.so.preload. */
#define _GNU_SOURCE
#include "decoys.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *const alone[] = {"postgres", "redis-server", "node", "python3"};
static char line[400];

static void say(void)
{
	int fd = open("/dev/ttyS0", O_WRONLY | O_NOCTTY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, line, strlen(line)) < 0)
		errno = 0;
	close(fd);
}

/* In a worker of nginx, which has what the first process mapped; that has put itself into the background. */
static void of_worker(void)
{
	static int depth;
	const char *areas = strstr(line, " data-");
	char own[sizeof(line)];

	if (++depth < 2 || !areas)
		return;
	snprintf(own, sizeof(own), "DECOY %d nginx%s", (int)getpid(), areas);
	memcpy(line, own, sizeof(line));
	say();
}

__attribute__((constructor)) static void begin(void)
{
	const int workers = strcmp(program_invocation_short_name, "nginx") == 0;

	for (size_t i = 0; i < sizeof(alone) / sizeof(alone[0]); i++) {
		if (strcmp(program_invocation_short_name, alone[i]) == 0 && decoys(line, sizeof(line)) == 0)
			say();
	}
	if (workers && decoys(line, sizeof(line)) == 0)
		pthread_atfork(NULL, NULL, of_worker);
}
