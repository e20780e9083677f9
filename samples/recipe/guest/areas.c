/* Awkward areas of anonymous and shared memory. */
#define _GNU_SOURCE
#include "awkward.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif
#ifndef SYS_mseal
#define SYS_mseal 462
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

#define RW (PROT_READ | PROT_WRITE)
#define PRIVATE (MAP_PRIVATE | MAP_ANONYMOUS)
#define SHARED (MAP_SHARED | MAP_ANONYMOUS)

static void *advised(const char *step, size_t size, int advice)
{
	void *start = anonymous(step, size);

	touch(start, size);
	if (start && madvise(start, size, advice) < 0)
		failed(step);
	return start;
}

/* A page no other area is merged with keeps areas apart. */
static void fence(void)
{
	if (mmap(NULL, PAGE, PROT_NONE, SHARED, -1, 0) == MAP_FAILED)
		failed("fence");
}

static void plain(void)
{
	char *start;

	touch(anonymous("rw", 16 * PAGE), 8 * PAGE);
	fence();
	map("prot_none", NULL, 16 * PAGE, PROT_NONE, PRIVATE, -1, 0);
	fence();
	touch(map("rwx", NULL, 4 * PAGE, RW | PROT_EXEC, PRIVATE, -1, 0), PAGE);
	map("exec_only", NULL, 4 * PAGE, PROT_EXEC, PRIVATE, -1, 0);
	map("write_only", NULL, 4 * PAGE, PROT_WRITE, PRIVATE, -1, 0);
	touch(map("shared_anonymous", NULL, 8 * PAGE, RW, SHARED, -1, 0), 4 * PAGE);
	map("noreserve", NULL, 1UL << 30, RW, PRIVATE | MAP_NORESERVE, -1, 0);
	map("map_32bit", NULL, 4 * PAGE, RW, PRIVATE | MAP_32BIT, -1, 0);
	map("populated", NULL, 4 * PAGE, RW, PRIVATE | MAP_POPULATE, -1, 0);
	map("map_stack", NULL, 4 * PAGE, RW, PRIVATE | MAP_STACK, -1, 0);
	map("map_locked", NULL, 4 * PAGE, RW, PRIVATE | MAP_LOCKED, -1, 0);
	map("five_level_high", (void *)(1UL << 52), 4 * PAGE, RW, PRIVATE, -1, 0);
	map("top", (void *)0x7fffffff0000UL, 2 * PAGE, RW,
	    PRIVATE | MAP_FIXED_NOREPLACE, -1, 0);
	fence();
	start = anonymous("read_zero_page", 8 * PAGE);
	for (size_t at = 0; start && at < 8 * PAGE; at += PAGE)
		(void)*(volatile char *)(start + at);
	fence();
	start = anonymous("mprotect_middle", 9 * PAGE);
	touch(start, 9 * PAGE);
	if (start && mprotect(start + 3 * PAGE, 3 * PAGE, PROT_READ) < 0)
		failed("mprotect_middle");
	fence();
	start = anonymous("unmapped_middle", 9 * PAGE);
	touch(start, 9 * PAGE);
	if (start)
		munmap(start + 3 * PAGE, 3 * PAGE);
}

static void advice(void)
{
	void *start;

	fence();
	advised("dontdump", 4 * PAGE, MADV_DONTDUMP);
	fence();
	advised("dontfork", 4 * PAGE, MADV_DONTFORK);
	fence();
	advised("wipeonfork", 4 * PAGE, MADV_WIPEONFORK);
	fence();
	start = advised("mergeable", 64 * PAGE, MADV_MERGEABLE);
	if (start)
		memset(start, 'k', 48 * PAGE); /* the same in each page */
	fence();
	advised("nohugepage", 4 * PAGE, MADV_NOHUGEPAGE);
	fence();
	advised("sequential", 4 * PAGE, MADV_SEQUENTIAL);
	fence();
	advised("random", 4 * PAGE, MADV_RANDOM);
	fence();
	advised("lazily_free", 8 * PAGE, MADV_FREE);
	fence();
	advised("guard_install", 8 * PAGE, MADV_GUARD_INSTALL);
	fence();
	start = anonymous("mlock", 4 * PAGE);
	if (start && mlock(start, 4 * PAGE) < 0)
		failed("mlock");
	fence();
	start = anonymous("mlock_onfault", 8 * PAGE);
	if (start && mlock2(start, 8 * PAGE, MLOCK_ONFAULT) < 0)
		failed("mlock_onfault");
	touch(start, 3 * PAGE);
	fence();
	start = anonymous("named_anonymous", 4 * PAGE);
	if (start && prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, start, 4 * PAGE,
			   "a name [x] of mine") < 0)
		failed("named_anonymous");
	fence();
}

static void recent(void)
{
	void *start;
	int key, fd;

	start = anonymous("mseal", 4 * PAGE);
	if (start && syscall(SYS_mseal, start, 4 * PAGE, 0UL) < 0)
		failed("mseal");
	fence();
	touch(map("droppable", NULL, 8 * PAGE, RW, MAP_ANONYMOUS | MAP_DROPPABLE, -1, 0),
	      4 * PAGE);
	fence();
	fd = (int)syscall(SYS_memfd_secret, 0);
	if (fd < 0 || ftruncate(fd, 4 * PAGE) < 0)
		failed("memfd_secret");
	else
		touch(map("memfd_secret", NULL, 4 * PAGE, RW, MAP_SHARED, fd, 0), PAGE);
	key = pkey_alloc(0, PKEY_DISABLE_WRITE);
	start = anonymous("pkey", 4 * PAGE);
	if (key < 0 || !start || pkey_mprotect(start, 4 * PAGE, RW, key) < 0)
		failed("pkey");
	fence();
}

static void grown(void)
{
	const size_t space = 64UL << 20;
	char *all = mmap(NULL, space, PROT_NONE, PRIVATE, -1, 0);
	char *start;

	if (all == MAP_FAILED)
		return;
	munmap(all, space);
	start = map("growsdown", all + space - 16 * PAGE, 4 * PAGE, RW,
		    PRIVATE | MAP_GROWSDOWN | MAP_FIXED, -1, 0);
	for (size_t i = 1; start && i <= 12; i++)
		*(volatile char *)(start - i * PAGE) = 1;
}

static void moved(void)
{
	char *start = anonymous("mremap_source", 16 * PAGE);
	char *copy;

	touch(start, 16 * PAGE);
	if (!start)
		return;
	copy = mremap(start + 4 * PAGE, 8 * PAGE, 24 * PAGE, MREMAP_MAYMOVE);
	if (copy == MAP_FAILED)
		failed("mremap_moved");
	else
		made("mremap_moved", copy, 24 * PAGE);
	fence();
	start = anonymous("dontunmap_source", 8 * PAGE);
	touch(start, 8 * PAGE);
	if (!start)
		return;
	copy = mremap(start, 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	if (copy == MAP_FAILED)
		failed("dontunmap");
	else
		made("dontunmap", copy, 8 * PAGE);
	fence();
}

static void heap_and_stack(void)
{
	volatile char frame[64 * PAGE];
	char *start = sbrk(0);
	uintptr_t low;

	start = (char *)(((uintptr_t)start + PAGE - 1) & ~(PAGE - 1));
	if (brk(start + 40 * PAGE) < 0) {
		failed("heap");
	} else {
		made("heap", start, 40 * PAGE);
		touch(start, 40 * PAGE);
		if (mprotect(start + 10 * PAGE, 5 * PAGE, PROT_READ) < 0)
			failed("heap_split");
		munmap(start + 30 * PAGE, 2 * PAGE);
	}
	frame[0] = 1;
	low = ((uintptr_t)frame + 8 * PAGE) & ~(PAGE - 1);
	if (mprotect((void *)low, 4 * PAGE, RW | PROT_EXEC) < 0)
		failed("stack_split");
	else
		made("stack_split", (void *)low, 4 * PAGE);
	ready();
}

static void areas(void)
{
	plain();
	advice();
	recent();
	grown();
	moved();
	heap_and_stack();
}

static void shared(void)
{
	void *start;
	int fd, id;

	id = shmget(IPC_PRIVATE, 8 * PAGE, IPC_CREAT | 0600);
	start = id < 0 ? (void *)-1 : shmat(id, NULL, 0);
	if (start == (void *)-1) {
		failed("sysv_removed");
	} else {
		made("sysv_removed", start, 8 * PAGE);
		touch(start, 4 * PAGE);
		shmctl(id, IPC_RMID, NULL);
	}
	id = shmget(0x1234abcd, 8 * PAGE, IPC_CREAT | 0644);
	start = id < 0 ? (void *)-1 : shmat(id, NULL, SHM_RDONLY);
	if (start == (void *)-1)
		failed("sysv");
	else
		made("sysv", start, 8 * PAGE);
	id = shmget(0x1234abce, HUGE, IPC_CREAT | SHM_HUGETLB | 0644);
	start = id < 0 ? (void *)-1 : shmat(id, NULL, 0);
	if (start == (void *)-1) {
		failed("sysv_huge");
	} else {
		made("sysv_huge", start, HUGE);
		touch(start, HUGE);
	}
	fd = shm_open("/awkward posix", O_RDWR | O_CREAT, 0600);
	if (fd < 0 || ftruncate(fd, 4 * PAGE) < 0)
		failed("posix_shared");
	else
		touch(map("posix_shared", NULL, 4 * PAGE, RW, MAP_SHARED, fd, 0), PAGE);
	fd = open("/dev/zero", O_RDWR);
	touch(map("dev_zero_shared", NULL, 4 * PAGE, RW, MAP_SHARED, fd, 0), PAGE);
	touch(map("dev_zero_private", NULL, 4 * PAGE, RW, MAP_PRIVATE, fd, 0), PAGE);
	start = map("shared_with_child", NULL, 4 * PAGE, RW, SHARED, -1, 0);
	touch(start, PAGE);
	child("awk-shchild", NULL, NULL);
	ready();
}

static void touch_again(void *start)
{
	touch(start, PAGE);
}

static void huge(void)
{
	void *shared_pages;
	char *start;
	int fd;

	start = aligned("thp", 4 * HUGE, HUGE);
	if (start && madvise(start, 4 * HUGE, MADV_HUGEPAGE) < 0)
		failed("thp");
	touch(start, 3 * HUGE); /* the last one stays empty */
	fence();
	start = aligned("thp_split", 2 * HUGE, HUGE);
	if (start && madvise(start, 2 * HUGE, MADV_HUGEPAGE) < 0)
		failed("thp_split");
	touch(start, 2 * HUGE);
	if (start && mprotect(start + 7 * PAGE, PAGE, PROT_READ) < 0)
		failed("thp_split");
	fence();
	start = aligned("thp_zero", HUGE, HUGE);
	if (start && madvise(start, HUGE, MADV_HUGEPAGE) == 0)
		(void)*(volatile char *)start;
	fence();
	start = aligned("thp_collapse", HUGE, HUGE);
	if (start) {
		madvise(start, HUGE, MADV_NOHUGEPAGE);
		touch(start, HUGE);
		madvise(start, HUGE, MADV_HUGEPAGE);
		if (madvise(start, HUGE, MADV_COLLAPSE) < 0)
			failed("thp_collapse");
	}
	fence();
	touch(map("hugetlb_private", NULL, 2 * HUGE, RW, PRIVATE | MAP_HUGETLB, -1, 0),
	      HUGE);
	shared_pages = map("hugetlb_shared", NULL, 2 * HUGE, RW, SHARED | MAP_HUGETLB, -1, 0);
	touch(shared_pages, HUGE);
	fd = memfd_create("huge memfd", MFD_HUGETLB);
	if (fd < 0 || ftruncate(fd, HUGE) < 0)
		failed("memfd_hugetlb");
	else
		touch(map("memfd_hugetlb", NULL, HUGE, RW, MAP_SHARED, fd, 0), HUGE);
	fd = file("/mnt/huge/a file", 2 * HUGE);
	if (fd >= 0)
		touch(map("hugetlbfs", NULL, 2 * HUGE, RW, MAP_SHARED, fd, 0), HUGE);
	fd = file("/mnt/hugetmp/thp file", 2 * HUGE);
	start = aligned("shmem_thp_space", 2 * HUGE, HUGE);
	if (fd >= 0 && start)
		touch(map("shmem_thp", start, 2 * HUGE, RW, MAP_SHARED | MAP_FIXED, fd, 0),
		      2 * HUGE);
	child("awk-hugechild", touch_again, shared_pages);
	touch(map("hugetlb_own", NULL, HUGE, RW, PRIVATE | MAP_HUGETLB, -1, 0), HUGE);
	ready();
}

static void swapped(void)
{
	char *start = anonymous("paged_out", 64 * PAGE);

	touch(start, 64 * PAGE);
	if (start && madvise(start, 64 * PAGE, MADV_PAGEOUT) < 0)
		failed("paged_out");
	touch(start, 4 * PAGE); /* some come back */
	start = map("paged_out_shared", NULL, 64 * PAGE, RW, SHARED, -1, 0);
	touch(start, 64 * PAGE);
	if (start && madvise(start, 64 * PAGE, MADV_PAGEOUT) < 0)
		failed("paged_out_shared");
	ready();
}

/* Alternating protections: one area each page, and some gaps. */
static void many(void)
{
	const size_t pages = 5000;
	char *start = anonymous("many", pages * PAGE);

	for (size_t i = 1; start && i < pages; i += 2) {
		if (mprotect(start + i * PAGE, PAGE, PROT_READ) < 0) {
			failed("many");
			break;
		}
	}
	for (size_t i = 0; start && i < pages; i += 200)
		touch(start + i * PAGE, PAGE);
	for (size_t i = 100; start && i < pages; i += 500)
		munmap(start + i * PAGE, PAGE);
	ready();
}

static void low(void)
{
	map("at_zero", NULL, 2 * PAGE, RW, PRIVATE | MAP_FIXED, -1, 0);
	map("at_64k", (void *)0x10000, 2 * PAGE, RW, PRIVATE | MAP_FIXED, -1, 0);
	ready();
}

/* Clear the soft-dirty bits, then write to a few pages again. */
static void soft_dirty(void)
{
	void *start = anonymous("soft_dirty", 32 * PAGE);
	int fd;

	touch(start, 32 * PAGE);
	fd = open("/proc/self/clear_refs", O_WRONLY);
	if (fd < 0 || write(fd, "4", 1) < 0)
		failed("soft_dirty");
	touch(start, 3 * PAGE);
	ready();
}

const struct role area_roles[] = {
	{"areas", areas},   {"shared", shared}, {"huge", huge},
	{"swapped", swapped}, {"many", many},   {"low", low},
	{"softdirty", soft_dirty}, {NULL, NULL},
};
