/*
 * Processes that do one ordinary thing when they are told to, on which the kernel
 * then dies: because it was set up to, or because a word of its memory was changed
 * from outside meanwhile.  Nothing here is wrong by itself.
 */
#define _GNU_SOURCE
#include "awkward.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define SMALL (16 * PAGE)
#define LARGE (2048 * PAGE) /* more than a processor keeps of free pages: some are looked at */

static sigset_t told;

/* Must be called before there are threads. */
static void block(void)
{
	sigemptyset(&told);
	sigaddset(&told, SIGUSR1);
	sigprocmask(SIG_BLOCK, &told, NULL);
}

/* Leave the process id where truth finds it, and sleep until it sends the signal. */
static void wait_until_told(void)
{
	FILE *file = fopen("/run/victim", "w");
	int number;

	if (!file || fprintf(file, "%d\n", (int)getpid()) < 0 || fclose(file) != 0)
		failed("/run/victim");
	ready_file();
	sigwait(&told, &number);
}

/* Ends itself: the kernel takes its address space down. */
static void exits(void)
{
	block();
	touch(anonymous("anonymous", LARGE), LARGE);
	wait_until_told();
	_exit(0);
}

/* Touches more memory than there is. */
static void hog(void)
{
	const size_t step = 64UL << 20;

	block();
	wait_until_told();
	for (;;) {
		void *more = mmap(NULL, step, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

		if (more != MAP_FAILED)
			touch(more, step);
	}
}

/* Reads its own arguments from /proc. */
static void spins(void)
{
	char text[64];
	int fd;

	block();
	wait_until_told();
	fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text)) < 0)
		failed("cmdline");
	_exit(0);
}

static int gate[2]; /* everyone who reads from it goes on when its other end is closed */

static void pass_gate(void)
{
	char byte;

	if (read(gate[0], &byte, 1) < 0)
		failed("gate");
}

/* Sleeps; while it does, its task is made the owner of the lock. */
static void *owner(void *unused)
{
	set_comm("awk-owner");
	pause();
	return unused;
}

/* Takes the lock of the address space for reading. */
static void *looks(void *start)
{
	unsigned char resident[1];

	set_comm("awk-looks");
	pass_gate();
	if (mincore(start, PAGE, resident) < 0)
		failed("mincore");
	return NULL;
}

/* Takes the lock of the address space for writing. */
static void *maps(void *start)
{
	set_comm("awk-maps");
	pass_gate();
	if (mprotect(start, PAGE, PROT_READ) < 0)
		failed("mprotect");
	return NULL;
}

/* Takes the lock of another process's address space for reading. */
static void reads_maps_of(pid_t pid)
{
	char path[64], text[64];
	int fd;

	set_comm("awk-reads");
	close(gate[1]);
	pass_gate();
	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text)) < 0)
		failed(path);
	_exit(0);
}

/* Threads, and another process, that want the lock of one address space. */
static void waits(void)
{
	void *(*const threads[])(void *) = {owner, looks, looks, maps};
	pid_t pid = getpid();
	pthread_t thread;
	void *start;

	block();
	if (pipe2(gate, O_CLOEXEC) < 0)
		failed("pipe2");
	if (fork() == 0)
		reads_maps_of(pid);
	start = anonymous("anonymous", SMALL);
	touch(start, SMALL);
	for (size_t i = 0; i < COUNT(threads); i++) {
		if (pthread_create(&thread, NULL, threads[i], start) != 0)
			failed("pthread_create");
	}
	wait_until_told();
	close(gate[1]);
	looks(start);
	_exit(0);
}

/* Two processes; each looks into the memory of the other. */
static void embrace(void)
{
	static char here[64], there[64];
	struct iovec local = {here, sizeof(here)}, remote = {there, sizeof(there)};
	pid_t parent = getpid(), other;

	block();
	if (pipe2(gate, O_CLOEXEC) < 0)
		failed("pipe2");
	touch(anonymous("anonymous", SMALL), SMALL);
	memset(here, 1, sizeof(here));
	memset(there, 1, sizeof(there));
	other = fork();
	if (other == 0) {
		set_comm("awk-other");
		close(gate[1]);
		memset(here, 2, sizeof(here)); /* a page of its own */
		pass_gate();
		other = parent;
	} else {
		wait_until_told();
		close(gate[1]);
	}
	if (process_vm_readv(other, &local, 1, &remote, 1, 0) < 0)
		failed("process_vm_readv");
	_exit(0);
}

/* Makes VMAs, on a processor that has freed some just before it slept. */
static void grows(void)
{
	enum { MANY = 64 };
	cpu_set_t first;
	char *start;

	block();
	CPU_ZERO(&first);
	CPU_SET(0, &first);
	if (sched_setaffinity(0, sizeof(first), &first) < 0)
		failed("sched_setaffinity");
	start = anonymous("anonymous", MANY * PAGE);
	for (size_t i = 0; start && i < MANY; i += 2) /* every other page is a VMA of its own */
		mprotect(start + i * PAGE, PAGE, PROT_READ);
	munmap(start, MANY * PAGE);
	wait_until_told();
	start = anonymous("more", MANY * PAGE);
	for (size_t i = 0; start && i < MANY; i += 2)
		mprotect(start + i * PAGE, PAGE, PROT_READ);
	_exit(0);
}

const struct role victim_roles[] = {
	{"exits", exits}, {"hog", hog}, {"spins", spins}, {"waits", waits},
	{"embrace", embrace}, {"grows", grows}, {NULL, NULL},
};
