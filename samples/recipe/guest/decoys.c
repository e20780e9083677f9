/* Areas that a process never touches again: anonymous ones that have pages, and code of a file. */
#define _GNU_SOURCE
#include "decoys.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define PAGE 4096UL
#define DECOYS 12

int decoys(char *line, size_t room)
{
	const size_t step = 8 * PAGE, size = 7 * PAGE; /* a page between two */
	const int fixed = MAP_PRIVATE | MAP_FIXED;
	char *start = mmap(NULL, DECOYS * step + PAGE, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int fd = open("/usr/bin/bash", O_RDONLY | O_CLOEXEC);
	char comm[16];
	int used;

	prctl(PR_GET_NAME, comm, 0, 0, 0);
	used = snprintf(line, room, "DECOY %d %s", (int)getpid(), comm);
	for (size_t i = 0; start != MAP_FAILED && i < DECOYS; i++) {
		const int code = i >= DECOYS / 2; /* a file's, the others anonymous */
		const size_t page = code ? 8 + ((size_t)getpid() * 37 + i * 61) % 200 : 0;
		char *at = mmap(start + PAGE + i * step, size, PROT_READ | (code ? PROT_EXEC : PROT_WRITE),
				fixed | (code ? 0 : MAP_ANONYMOUS), code ? fd : -1, (off_t)(page * PAGE));

		if (at == MAP_FAILED) {
			start = MAP_FAILED;
			break;
		}
		/* an area that is made a page smaller loses none */
		for (size_t done = 0; done < size - (code ? 0 : PAGE); done += PAGE) {
			if (code)
				(void)*(volatile char *)(at + done);
			else
				memcpy(at + done, "awkward", 8);
		}
		used += snprintf(line + used, room - (size_t)used, " %s-%lx", code ? "code" : "data",
				 (unsigned long)at);
	}
	close(fd);
	snprintf(line + used, room - (size_t)used, ".\n");
	return start == MAP_FAILED ? -1 : 0;
}
