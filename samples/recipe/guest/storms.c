/*
 * Processes that never rest: each does one kind of ordinary work over and over, so that
 * an image of the guest catches the kernel in the middle of it.
 */
#define _GNU_SOURCE
#include "awkward.h"
#include "decoys.h"
#include "storms.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

const char big[] = "/mnt/ext4/big";

void rest(long milliseconds)
{
	struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};

	nanosleep(&time, NULL);
}

unsigned below(unsigned limit)
{
	return (unsigned)random() % limit;
}

void reap(int *alive, int most)
{
	while (*alive > most && waitpid(-1, NULL, 0) > 0)
		--*alive;
}

/* Areas that the process never touches again; the console says where they are. */
static void with_decoys(void)
{
	char line[400];

	if (decoys(line, sizeof(line)) < 0)
		failed("decoys");
	fputs(line, stdout);
	fflush(stdout);
}

void begin(void)
{
	srandom((unsigned)getpid());
	with_decoys();
	ready_file();
}

static void only_decoys(void *unused)
{
	(void)unused;
	with_decoys();
}

/* The same areas in processes that sleep. */
static void quiet(void)
{
	char name[16];

	for (int i = 0; i < 12; i++) {
		snprintf(name, sizeof(name), "awk-quiet-%d", i);
		child(name, only_decoys, NULL);
	}
	ready();
}

/* Children that write to pages they share with their parent, and end. */
static void forks(void)
{
	const unsigned pages = 256;
	char *start = anonymous("copied", pages * PAGE);
	int alive = 0;

	touch(start, pages * PAGE);
	begin();
	for (;;) {
		pid_t pid = fork();

		if (pid == 0) {
			for (unsigned i = below(pages); i < pages; i += 1 + below(9))
				touch(start + i * PAGE, PAGE);
			if (below(3) == 0 && fork() == 0) {
				touch(start, 16 * PAGE);
				_exit(0);
			}
			waitpid(-1, NULL, 0); /* init would not */
			_exit(0);
		}
		alive += pid > 0;
		reap(&alive, 6);
	}
}

/* Ordinary dynamic programs, one after the other and several at a time. */
static void execs(void)
{
	static char *const commands[][4] = {
		{"/usr/bin/cat", "/dev/null", NULL, NULL},
		{"/usr/bin/sleep", "0.01", NULL, NULL},
		{"/bb/true", NULL, NULL, NULL},
		{"/mnt/ext4/usr/bin/cat", "/dev/null", NULL, NULL},
		{"/usr/bin/bash", "-c", "/usr/bin/cat /dev/null | /usr/bin/cat; :", NULL},
		{"/bb/sh", "-c", "cat /proc/self/maps > /dev/null; true", NULL},
	};
	int alive = 0;

	begin();
	for (;;) {
		char *const *command = commands[below(COUNT(commands))];
		pid_t pid = below(4) ? fork() : vfork();

		if (pid == 0) {
			execv(command[0], command);
			_exit(127);
		}
		alive += pid > 0;
		reap(&alive, 4);
	}
}

static pthread_barrier_t all_there; /* from then on nothing is mapped but what is told here */

void all_are_there(void)
{
	pthread_barrier_wait(&all_there);
}

static void *maps_and_unmaps(void *unused)
{
	unsigned seed = (unsigned)(uintptr_t)&unused >> 4;
	int fd = open(big, O_RDWR | O_CLOEXEC);

	all_are_there();
	for (;;) {
		const size_t size = (2 + rand_r(&seed) % 512) * PAGE, half = size / 2 & -PAGE;
		const int kind = rand_r(&seed) % 4;
		char *start;

		if (kind < 2 || fd < 0)
			start = mmap(NULL, size, RW, PRIVATE, -1, 0);
		else
			start = mmap(NULL, size, RW, kind == 2 ? MAP_SHARED : MAP_PRIVATE, fd,
				     (off_t)(rand_r(&seed) % 256 * PAGE));
		if (start == MAP_FAILED)
			continue;
		for (size_t at = 0; at < size; at += PAGE) {
			if (kind == 3 && at % (3 * PAGE))
				(void)*(volatile char *)(start + at);
			else
				*(volatile char *)(start + at + 8) = 1;
		}
		munmap(start, half);
		munmap(start + half, size - half); /* what lies before it may be another thread's by now */
	}
	return NULL;
}

void workers(void *(*work)(void *))
{
	pthread_t id;

	begin();
	pthread_barrier_init(&all_there, NULL, WORKERS);
	for (int i = 0; i < WORKERS; i++) {
		if (pthread_create(&id, NULL, work, NULL) != 0)
			failed("thread");
	}
	sleep_for_ever();
}

/* Threads that map, touch and unmap: anonymous memory, and a file, private and shared. */
static void unmaps(void)
{
	workers(maps_and_unmaps);
}

static void *moves_and_protects(void *unused)
{
	const size_t size = 64 * PAGE;
	unsigned seed = (unsigned)(uintptr_t)&unused >> 4;
	char *home = mmap(NULL, 4 * size, PROT_NONE, PRIVATE, -1, 0);
	char *at = mmap(NULL, size, RW, PRIVATE, -1, 0);
	int far = 0;

	all_are_there();
	for (;;) {
		const size_t first = rand_r(&seed) % 32 * PAGE, count = (1 + rand_r(&seed) % 16) * PAGE;
		char *moved;

		for (size_t page = 0; page < size; page += PAGE)
			*(volatile char *)(at + page) = 1;
		mprotect(at + first, count, PROT_READ);
		mprotect(at + first, count, PROT_NONE);
		mprotect(at, size, RW);
		madvise(at + first, count, MADV_DONTNEED);
		moved = mremap(at, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, home + (far ? 0 : 2 * size));
		if (moved == MAP_FAILED)
			continue;
		at = moved;
		far = !far;
	}
	return NULL;
}

/* Threads that move, protect, split and merge areas. */
static void moves(void)
{
	workers(moves_and_protects);
}

static void *ends(void *unused)
{
	char local[8 * PAGE];

	touch((char *)(((uintptr_t)local + PAGE - 1) & -PAGE), 6 * PAGE);
	return unused;
}

/* Threads that end at once. */
static void threads(void)
{
	pthread_t ids[WORKERS];

	begin();
	for (;;) {
		size_t count = 0;

		while (count < COUNT(ids) && pthread_create(&ids[count], NULL, ends, NULL) == 0)
			count++;
		while (count > 0)
			pthread_join(ids[--count], NULL);
	}
}

/* More of a file than stays in memory: read, written, dropped, cut off under a mapping. */
static void cache(void)
{
	static char block[64 * PAGE];
	const size_t size = 32UL << 20;
	int fd = open("/mnt/ext4/cache", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	char *mapped;

	if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
		failed("cache");
	mapped = mmap(NULL, size, RW, MAP_SHARED, fd, 0);
	begin();
	for (unsigned round = 0;; round++) {
		const off_t half = (off_t)size / 2;

		for (off_t at = 0; at < (off_t)size; at += (off_t)sizeof(block)) {
			if (round % 2 ? pread(fd, block, sizeof(block), at) < 0
				      : pwrite(fd, block, sizeof(block), at) < 0)
				failed("cache");
		}
		for (size_t at = 0; mapped != MAP_FAILED && at < size / 2; at += PAGE)
			*(volatile char *)(mapped + at) = (char)round;
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		if (ftruncate(fd, half / 2) < 0 || ftruncate(fd, (off_t)size) < 0)
			failed("cache");
	}
}

/* Anonymous memory that goes to swap and comes back. */
static void swap(void)
{
	const size_t size = 40UL << 20;
	char *start = anonymous("swapped", size);

	begin();
	for (;;) {
		const size_t part = size / 8, first = below(8) * part;

		touch(start, size);
		madvise(start + first, part, MADV_PAGEOUT);
		for (size_t at = 0; at < part; at += (1 + below(4)) * PAGE)
			(void)*(volatile char *)(start + first + at);
		madvise(start + below(8) * part, part, MADV_PAGEOUT);
		rest(below(20));
	}
}

/* Huge pages: collapsed by khugepaged, split, taken apart, given at once. */
static void huge(void)
{
	const size_t size = 4 * HUGE;
	char *start = aligned("huge", size, HUGE);

	begin();
	for (;;) {
		madvise(start, size, MADV_DONTNEED);
		madvise(start, size, MADV_NOHUGEPAGE);
		for (size_t at = 0; at < 2 * HUGE; at += PAGE)
			*(volatile char *)(start + at) = 1;
		madvise(start, size, MADV_HUGEPAGE);
		for (size_t at = 2 * HUGE; at < size; at += PAGE)
			*(volatile char *)(start + at) = 1;
		rest(300 + below(500));
		madvise(start + below(1024) * PAGE, 7 * PAGE, MADV_DONTNEED);
		mprotect(start + 2 * HUGE + 100 * PAGE, 5 * PAGE, PROT_READ);
		if (below(3) == 0 && fork() == 0) {
			for (size_t at = 0; at < size; at += 64 * PAGE)
				*(volatile char *)(start + at) = 2;
			_exit(0);
		}
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		mprotect(start, size, RW);
	}
}

/* Equal pages that ksmd merges and a write takes apart. */
static void ksm(void)
{
	const size_t size = 1024 * PAGE;
	char *start = anonymous("merged", size);

	madvise(start, size, MADV_MERGEABLE);
	begin();
	for (;;) {
		for (size_t at = 0; at < size; at += PAGE)
			memset(start + at, (int)(at / PAGE % 8), PAGE);
		rest(100 + below(300));
		for (unsigned i = 0; i < 200; i++)
			start[below(1024) * PAGE] = (char)i;
		if (below(8) == 0)
			madvise(start + below(512) * PAGE, 128 * PAGE, MADV_DONTNEED);
	}
}

/* Memory in pieces, and pages that move to make room: /proc/sys/vm/compact_memory. */
static void pages(void)
{
	const size_t count = 6000;
	int fd = open("/proc/sys/vm/compact_memory", O_WRONLY | O_CLOEXEC);
	char *start = anonymous("pieces", count * PAGE);

	begin();
	for (;;) {
		for (size_t i = 0; i < count; i++)
			start[i * PAGE] = 1;
		for (size_t i = below(2); i < count; i += 2 + below(3))
			madvise(start + i * PAGE, PAGE, MADV_DONTNEED);
		if (fd < 0 || write(fd, "1", 1) < 0)
			failed("compact_memory");
		rest(below(30));
	}
}

/* Code that is written, made executable, run, and written again. */
static void jit(void)
{
	static const unsigned char back[] = {0xb8, 0x2a, 0, 0, 0, 0xc3}; /* mov $42, %eax; ret */
	const size_t size = 16 * PAGE;

	begin();
	for (;;) {
		char *code = mmap(NULL, size, RW, PRIVATE, -1, 0);
		const unsigned rounds = 1 + below(30);

		for (unsigned i = 0; code != MAP_FAILED && i < rounds; i++) {
			char *at = code + below(16) * PAGE;

			memcpy(at, back, sizeof(back));
			if (mprotect(at, PAGE, PROT_READ | PROT_EXEC) == 0)
				((int (*)(void))(uintptr_t)at)();
			mprotect(code, size, below(4) ? RW : RW | PROT_EXEC);
			mprotect(code, size, RW);
		}
		if (code != MAP_FAILED)
			munmap(code, size);
	}
}

static void *task(void *seed)
{
	unsigned chance = (unsigned)(uintptr_t)seed;
	const size_t size = (16 + rand_r(&chance) % 64) * PAGE;
	char *start = mmap(NULL, size, RW, PRIVATE, -1, 0);

	if (start == MAP_FAILED)
		return NULL;
	touch(start, size);
	madvise(start, size, MADV_FREE);
	touch(start, size / 2);
	munmap(start, size);
	return NULL;
}

/* A pool of threads that is made, given work and taken down. */
static void pool(void)
{
	pthread_t ids[4 * WORKERS];

	begin();
	for (uintptr_t seed = 1;;) {
		size_t count = 0;

		while (count < COUNT(ids) && pthread_create(&ids[count], NULL, task, (void *)seed++) == 0)
			count++;
		while (count > 0)
			pthread_join(ids[--count], NULL);
	}
}

static const char groups[] = "/run/groups";

void note(const char *name, const char *text)
{
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", groups, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		failed(name);
	close(fd);
}

void confine(const char *group, const char *limit, const char *most)
{
	char pid[16], name[300];

	mkdir(groups, 0755);
	if (mount("groups", groups, "cgroup2", 0, NULL) < 0 && errno != EBUSY)
		failed("cgroup2");
	note("cgroup.subtree_control", "+memory +pids");
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	snprintf(name, sizeof(name), "%s/%s", groups, group);
	mkdir(name, 0755);
	snprintf(name, sizeof(name), "%s/%s", group, limit);
	note(name, most);
	snprintf(name, sizeof(name), "%s/cgroup.procs", group);
	note(name, pid);
}

/* More memory than its control group may have: reclaimed, swapped and charged all the time. */
static void group(void)
{
	const size_t size = 20UL << 20;
	char *start = anonymous("charged", size);
	int fd = open(big, O_RDONLY | O_CLOEXEC);
	const char *mapped = mmap(NULL, 256 * PAGE, PROT_READ, MAP_SHARED, fd, 0);

	begin();
	confine("small", "memory.high", "12582912");
	for (;;) {
		for (size_t at = 0; at < size; at += (1 + below(3)) * PAGE)
			start[at] = 1;
		for (size_t at = 0; mapped != MAP_FAILED && at < 256 * PAGE; at += PAGE)
			(void)*(volatile const char *)(mapped + at);
		madvise(start + below(4000) * PAGE, 512 * PAGE, MADV_COLD);
	}
}

/* Containers that are started, run a program or two, and end. */
static void boxes(void)
{
	int alive = 0;

	begin();
	for (;;) {
		pid_t pid = fork();

		if (pid == 0) {
			if (unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC) < 0)
				_exit(1);
			pid = fork(); /* the first of its pid namespace */
			if (pid == 0) {
				mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
				mount("box", "/ovl/work", "tmpfs", 0, "size=1m");
				sethostname("box", 3);
				if (chroot("/ovl/merged") < 0 || chdir("/") < 0)
					_exit(1);
				execl("/usr/bin/bash", "bash", "-c", "/usr/bin/cat /dev/null | /usr/bin/cat; :", NULL);
				_exit(127);
			}
			waitpid(pid, NULL, 0);
			_exit(0);
		}
		alive += pid > 0;
		reap(&alive, 3);
	}
}

static void read_all(const char *pid, const char *name)
{
	static char text[1 << 16];
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "/proc/%s/%s", pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	while (read(fd, text, sizeof(text)) > 0)
		;
	close(fd);
}

/* Looks at every process, as monitors do. */
static void looks(void)
{
	begin();
	for (;;) {
		DIR *proc = opendir("/proc");
		struct dirent *entry;

		while (proc && (entry = readdir(proc))) {
			if (entry->d_name[0] < '1' || entry->d_name[0] > '9')
				continue;
			read_all(entry->d_name, "maps");
			read_all(entry->d_name, "smaps_rollup");
			read_all(entry->d_name, "cmdline");
		}
		if (proc)
			closedir(proc);
		rest(20);
	}
}

const struct role storm_roles[] = {
	{"quiet", quiet},	  {"storm-forks", forks},   {"storm-execs", execs},
	{"storm-unmap", unmaps},  {"storm-moves", moves},   {"storm-thrds", threads},
	{"storm-cache", cache},	  {"storm-swap", swap},	    {"storm-huge", huge},
	{"storm-ksm", ksm},	  {"storm-pages", pages},   {"storm-looks", looks},
	{"storm-jit", jit},	  {"storm-pool", pool},	    {"storm-group", group},
	{"storm-boxes", boxes},
	{NULL, NULL},
};
