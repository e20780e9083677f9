/* Awkward processes: threads, forks, shared address spaces, odd states. */
#define _GNU_SOURCE
#include "awkward.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/rseq.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define RW (PROT_READ | PROT_WRITE)
#define PRIVATE (MAP_PRIVATE | MAP_ANONYMOUS)

static pthread_barrier_t barrier;

static void *thread(void *argument)
{
	char name[16];

	snprintf(name, sizeof(name), "awk thread %d", (int)(intptr_t)argument);
	set_comm(name);
	free(malloc(1 << 16)); /* an arena of its own */
	pthread_barrier_wait(&barrier);
	sleep_for_ever();
}

static void start_threads(unsigned count)
{
	pthread_attr_t attributes;
	pthread_t id;

	pthread_attr_init(&attributes);
	pthread_barrier_init(&barrier, NULL, count + 1);
	for (unsigned i = 0; i < count; i++) {
		pthread_attr_setstacksize(&attributes, (64 + 16 * i) << 10);
		pthread_attr_setguardsize(&attributes, i % 4 * PAGE);
		if (pthread_create(&id, &attributes, thread, (void *)(intptr_t)i) != 0) {
			failed("thread");
			exit(1);
		}
	}
	pthread_barrier_wait(&barrier);
}

static void threads(void)
{
	start_threads(8);
	ready();
}

/* The first thread has ended: it has no address space, the others have. */
static void headless(void)
{
	start_threads(3);
	ready_file();
	pthread_exit(NULL);
}

static void *copied;

static void dirty_some(void *argument)
{
	size_t step = (size_t)argument;

	for (size_t at = 0; at < 256; at += step)
		touch((char *)copied + at * PAGE, PAGE);
	if (step == 3)
		child("awk-grandchild", NULL, NULL);
}

static void forks(void)
{
	void *kept, *wiped;

	copied = anonymous("copy_on_write", 256 * PAGE);
	touch(copied, 256 * PAGE);
	kept = mmap(NULL, 4 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	touch(kept, PAGE);
	kept = anonymous("dontfork", 4 * PAGE);
	touch(kept, 4 * PAGE);
	if (kept && madvise(kept, 4 * PAGE, MADV_DONTFORK) < 0)
		failed("dontfork");
	wiped = anonymous("wipeonfork", 4 * PAGE);
	touch(wiped, 4 * PAGE);
	if (wiped && madvise(wiped, 4 * PAGE, MADV_WIPEONFORK) < 0)
		failed("wipeonfork");
	child("awk-child-0", NULL, NULL);
	child("awk-child-3", dirty_some, (void *)3);
	child("awk-child-7", dirty_some, (void *)7);
	ready();
}

static void blocked_in_vfork(void)
{
	pid_t pid = vfork();

	if (pid == 0) {
		set_comm("awk-vforked");
		ready_file();
		for (;;)
			syscall(SYS_pause);
	}
	failed("vfork");
}

static int sharer(void *argument)
{
	(void)argument;
	set_comm("awk-sharer");
	ready_file();
	for (;;)
		syscall(SYS_pause);
	return 0;
}

/* Two processes, not threads, with one address space. */
static void share(void)
{
	char *stack = anonymous("sharer_stack", 16 * PAGE);

	if (!stack || clone(sharer, stack + 16 * PAGE, CLONE_VM | SIGCHLD, NULL) < 0)
		failed("share");
	sleep_for_ever();
}

static void states(void)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		set_comm("awk-zombie");
		_exit(3);
	}
	pid = fork();
	if (pid == 0) {
		set_comm("awk-stopped");
		raise(SIGSTOP);
		sleep_for_ever();
	}
	waitpid(pid, &status, WUNTRACED);
	pid = fork();
	if (pid == 0) {
		set_comm("awk-traced");
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		sleep_for_ever();
	}
	waitpid(pid, &status, 0);
	ready();
}

/* Run a copy of the program, then delete the copy. */
static void gone(void)
{
	const char *path = "/run/gone prog";
	int from = open("/proc/self/exe", O_RDONLY), to;
	struct stat info;
	pid_t pid;

	to = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0755);
	if (from < 0 || to < 0 || fstat(from, &info) < 0 ||
	    sendfile(to, from, NULL, (size_t)info.st_size) != info.st_size)
		failed("copy of the program");
	close(from);
	close(to);
	pid = fork();
	if (pid == 0) {
		execl(path, "a made-up name", "gone", (char *)NULL);
		failed("exec of the copy");
		_exit(1);
	}
	while (access("/run/ready/gone", F_OK) != 0 && waitpid(pid, NULL, WNOHANG) == 0)
		usleep(50000);
	unlink(path);
	ready();
}

static void mm_option(const char *step, unsigned long option, void *value)
{
	if (prctl(PR_SET_MM, option, value, 0, 0) == 0)
		made(step, value, 0);
	else
		failed(step);
}

/* Areas that are called heap and stack without being so. */
static void set_mm(void)
{
	char *heap = anonymous("false_heap", 8 * PAGE);
	char *space = mmap(NULL, PAGE, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char *stack = anonymous("false_stack", 8 * PAGE);
	char *text = anonymous("false_arguments", PAGE);

	if (!heap || !stack || !text || space == MAP_FAILED)
		return;
	touch(heap, 8 * PAGE);
	touch(stack, 8 * PAGE);
	memcpy(text, "false\0argu\nments\0x", 19);
	mm_option("set_brk", PR_SET_MM_BRK, heap + 6 * PAGE);
	mm_option("set_start_brk", PR_SET_MM_START_BRK, heap + 2 * PAGE);
	mm_option("set_start_stack", PR_SET_MM_START_STACK, stack + 4 * PAGE);
	mm_option("set_arg_start", PR_SET_MM_ARG_START, text);
	mm_option("set_arg_end", PR_SET_MM_ARG_END, text + 19);
	ready();
}

struct range {
	unsigned long start, end;
};

/* The areas of this process; their number. */
static size_t own_areas(struct range *ranges, size_t most, const char *keep)
{
	static char text[65536];
	int fd = open("/proc/self/maps", O_RDONLY);
	size_t used = 0, count = 0;
	ssize_t n;
	char *line, *rest = NULL;

	while (fd >= 0 && used < sizeof(text) - 1 &&
	       (n = read(fd, text + used, sizeof(text) - 1 - used)) > 0)
		used += (size_t)n;
	text[used] = '\0';
	if (fd >= 0)
		close(fd);
	for (line = strtok_r(text, "\n", &rest); line && count < most;
	     line = strtok_r(NULL, "\n", &rest)) {
		if (keep && !strstr(line, keep))
			continue;
		if (sscanf(line, "%lx-%lx", &ranges[count].start, &ranges[count].end) == 2)
			count++;
	}
	return count;
}

static void moved_vdso(void)
{
	struct range found;
	size_t size;
	void *space;

	if (own_areas(&found, 1, "[vdso]") != 1) {
		failed("vdso");
		return;
	}
	size = found.end - found.start;
	space = mmap(NULL, size + 16 * PAGE, PROT_NONE, PRIVATE, -1, 0);
	ready_file();
	if (mremap((void *)found.start, size, size, MREMAP_MAYMOVE | MREMAP_FIXED,
		   (char *)space + 8 * PAGE) == MAP_FAILED)
		failed("vdso");
	else
		made("vdso", (char *)space + 8 * PAGE, size);
	for (;;)
		syscall(SYS_pause);
}

static inline long raw(long number, long a, long b, long c)
{
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "0"(number), "D"(a), "S"(b), "d"(c)
			 : "rcx", "r11", "memory");
	return result;
}

/* Unmap all but the program's code and the stack. */
static void unmapped(void)
{
	struct range ranges[200];
	unsigned long code = (unsigned long)(uintptr_t)&unmapped;
	unsigned long stack = (unsigned long)(uintptr_t)ranges;
	volatile char path[] = "/run/ready/unmapped";
	size_t count = own_areas(ranges, COUNT(ranges), NULL);

	/* The kernel kills who lets it find no restartable sequence area. */
	if (__rseq_size)
		syscall(SYS_rseq, (char *)__builtin_thread_pointer() + __rseq_offset, 32,
			1, RSEQ_SIG);
	for (size_t i = 0; i < count; i++) {
		unsigned long start = ranges[i].start, end = ranges[i].end;

		if ((start <= code && code < end) || (start <= stack && stack < end))
			continue;
		raw(SYS_munmap, (long)start, (long)(end - start), 0);
	}
	raw(SYS_close, raw(SYS_open, (long)path, O_WRONLY | O_CREAT, 0644), 0, 0);
	for (;;)
		raw(SYS_pause, 0, 0, 0);
}

__attribute__((noinline, used)) void probed(void)
{
	/* Not an instruction the kernel emulates: it must need a slot. */
	__asm__ volatile("xorl %%eax, %%eax; nop; nop" ::: "eax", "cc");
}

static int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_APPEND), done;

	if (fd < 0)
		return 0;
	done = write(fd, text, strlen(text)) >= 0;
	close(fd);
	return done;
}

/* A uprobe that was hit gives the process an area called [uprobes]. */
static void uprobe(void)
{
	const char *folder = "/sys/kernel/tracing";
	unsigned long at = (unsigned long)(uintptr_t)&probed;
	char line[256], path[128];
	FILE *maps = fopen("/proc/self/maps", "r");
	unsigned long start, end, offset, place = 0;

	while (maps && fgets(line, sizeof(line), maps))
		if (sscanf(line, "%lx-%lx %*s %lx", &start, &end, &offset) == 3 &&
		    start <= at && at < end)
			place = at - start + offset;
	if (maps)
		fclose(maps);
	snprintf(path, sizeof(path), "%s/uprobe_events", folder);
	snprintf(line, sizeof(line), "p:awkward/probed /usr/bin/awkward:0x%lx\n", place);
	if (!write_text(path, line)) {
		failed("uprobe");
		return;
	}
	snprintf(path, sizeof(path), "%s/events/awkward/probed/enable", folder);
	if (!write_text(path, "1\n"))
		failed("uprobe_enable");
	probed();
	ready();
}

const struct role process_roles[] = {
	{"threads", threads}, {"headless", headless}, {"forks", forks},
	{"vfork", blocked_in_vfork}, {"share", share}, {"states", states},
	{"deleter", gone}, {"setmm", set_mm}, {"vdso", moved_vdso},
	{"unmapped", unmapped}, {"uprobe", uprobe}, {NULL, NULL},
};
