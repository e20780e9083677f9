/* What only some machines have room for: pages of 1 GiB, persistent memory, terabytes of addresses. */
#define _GNU_SOURCE
#include "awkward.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GIBIBYTE (1UL << 30)
#define SIZE_1G (30 << MAP_HUGE_SHIFT)
#define RESERVED (16UL << 40)
#define RW (PROT_READ | PROT_WRITE)

static void gibibyte(void)
{
	char *start = map("hugetlb_gibibyte", NULL, GIBIBYTE, RW,
			  MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | SIZE_1G, -1, 0);

	touch(start, 2 * HUGE);
	ready();
}

/* A file of a disk that is memory: its pages have no page cache. */
static void dax(void)
{
	int fd = file("/mnt/dax/a file", 2 * HUGE);
	char *start;

	if (fd < 0) {
		failed("dax");
		ready();
	}
	touch(map("dax_shared", NULL, 2 * HUGE, RW, MAP_SHARED, fd, 0), 2 * HUGE);
	touch(map("dax_sync", NULL, HUGE, RW, MAP_SHARED_VALIDATE | MAP_SYNC, fd, HUGE), 16 * PAGE);
	start = map("dax_private", NULL, 64 * PAGE, RW, MAP_PRIVATE, fd, 0);
	touch(start, 8 * PAGE);
	if (start)
		(void)*(volatile char *)(start + 32 * PAGE);
	start = map("dax_read", NULL, 64 * PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (start)
		(void)*(volatile char *)(start + 3 * PAGE);
	ready();
}

/* As browsers reserve addresses for what they may need. */
static void reserved(void)
{
	char *start = map("reserved", NULL, RESERVED, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	size_t at;

	for (at = 0; start && at < RESERVED; at += RESERVED / 8) {
		if (mprotect(start + at + HUGE, 4 * PAGE, PROT_READ | PROT_WRITE) < 0)
			failed("reserved");
		touch(start + at + HUGE, 2 * PAGE);
	}
	ready();
}

const struct role machine_roles[] = {
	{"gibibyte", gibibyte},
	{"dax", dax},
	{"reserved", reserved},
	{NULL, NULL},
};
