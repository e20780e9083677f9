/*
 * Processes that never rest, as those of storms.c, at work that few programs do: tracing, faults that a process
 * answers itself, registered memory, memory files, probes, modules, CPUs that come and go.
 */
#define _GNU_SOURCE
#include "awkward.h"
#include "storms.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/fuse.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#define NEAR 64 /* pages */

extern char **environ;

/* Write a line into a file of the kernel; no matter whether it takes it. */
static int say(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC | O_APPEND);
	int done = fd < 0 ? -1 : (int)write(fd, text, strlen(text));

	if (fd >= 0)
		close(fd);
	return done;
}

static void *waits(void *unused)
{
	sleep(5);
	return unused;
}

/* A child that ends with its parent. */
static pid_t forked(void (*run)(void))
{
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		run();
		_exit(0);
	}
	return pid;
}

/* Forks for RUN without end, at most MOST at a time. */
static void keep_forking(void (*run)(void), int most)
{
	int alive = 0;

	for (;;) {
		alive += forked(run) > 0;
		reap(&alive, most);
	}
}

/* Threads that give every advice there is on areas that their brothers protect, lock, move, and write to. */
static char *shared_area;

static void *advises(void *unused)
{
	static const int advice[] = {MADV_DONTNEED, MADV_FREE, MADV_COLD, MADV_PAGEOUT, MADV_WILLNEED,
		MADV_POPULATE_WRITE, MADV_DONTFORK, MADV_DOFORK, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_COLLAPSE,
		MADV_MERGEABLE, MADV_UNMERGEABLE, MADV_WIPEONFORK, MADV_KEEPONFORK, MADV_DONTDUMP};
	unsigned seed = (unsigned)(uintptr_t)&unused >> 4;

	all_are_there();
	for (;;) {
		const size_t first = rand_r(&seed) % 1024 * PAGE, count = (1 + rand_r(&seed) % 64) * PAGE;
		char *at = shared_area + first, *copy;

		switch (rand_r(&seed) % 8) {
		case 0:
			mprotect(at, count, PROT_READ);
			mprotect(at, count, PROT_NONE);
			mprotect(at, count, RW);
			break;
		case 1:
			mlock(at, count);
			munlock(at, count);
			break;
		case 2:
			copy = mremap(at, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP);
			if (copy != MAP_FAILED)
				munmap(copy, PAGE);
			break;
		case 3:
			copy = mmap(NULL, count, RW, PRIVATE | MAP_GROWSDOWN, -1, 0);
			if (copy != MAP_FAILED)
				munmap(copy, count);
			break;
		case 4:
			if (mmap(at, count, RW, PRIVATE | MAP_FIXED, -1, 0) == MAP_FAILED)
				failed("over it");
			break;
		case 5:
			mlock2(at, count, MLOCK_ONFAULT);
			munlockall();
			break;
		default:
			madvise(at, count, advice[rand_r(&seed) % COUNT(advice)]);
		}
		for (size_t page = 0; page < count; page += PAGE) {
			struct iovec from = {&seed, 8}, to = {at + page, 8};

			process_vm_writev(getpid(), &from, 1, &to, 1, 0); /* a fault would end it where nobody may write */
		}
	}
	return NULL;
}

static void advice(void)
{
	shared_area = aligned("advised", (1024 + 64) * PAGE, HUGE);
	workers(advises);
}

/* Faults that a thread of the process answers: with a page, with zeros, with a page moved there; write protection. */
static char *answered;
static const size_t answered_size = 4 * NEAR * PAGE;
static int faults;

static void *answers(void *unused)
{
	char *page = mmap(NULL, 2 * PAGE, RW, PRIVATE, -1, 0);
	struct uffd_msg message;

	(void)unused;
	memset(page, 5, PAGE);
	while (read(faults, &message, sizeof(message)) == sizeof(message)) {
		const uint64_t at = message.arg.pagefault.address & -PAGE;
		struct uffdio_copy copy = {.dst = at, .src = (uintptr_t)page, .len = PAGE};
		struct uffdio_zeropage zero = {.range = {at, PAGE}};
		struct uffdio_writeprotect writable = {.range = {at, PAGE}};

		if (message.event != UFFD_EVENT_PAGEFAULT)
			continue;
		if (message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP)
			ioctl(faults, UFFDIO_WRITEPROTECT, &writable);
		else if (below(3))
			ioctl(faults, UFFDIO_COPY, &copy);
		else
			ioctl(faults, UFFDIO_ZEROPAGE, &zero);
	}
	return NULL;
}

static void *meets(void *unused)
{
	unsigned seed = (unsigned)(uintptr_t)&unused >> 4;

	all_are_there();
	for (;;) {
		const size_t first = rand_r(&seed) % (3 * NEAR) * PAGE, count = (1 + rand_r(&seed) % 32) * PAGE;
		struct uffdio_writeprotect protect = {{(uintptr_t)answered + first, count}, UFFDIO_WRITEPROTECT_MODE_WP};

		for (size_t page = 0; page < count; page += PAGE)
			answered[first + page] = 1;
		if (rand_r(&seed) % 2)
			madvise(answered + first, count, MADV_DONTNEED);
		else
			ioctl(faults, UFFDIO_WRITEPROTECT, &protect);
	}
	return NULL;
}

static void userfaults(void)
{
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP};
	struct uffdio_register range = {.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP};
	pthread_t id;

	answered = anonymous("answered", answered_size);
	faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	range.range.start = (uintptr_t)answered;
	range.range.len = answered_size;
	if (faults < 0 || ioctl(faults, UFFDIO_API, &api) < 0 || ioctl(faults, UFFDIO_REGISTER, &range) < 0)
		failed("userfaultfd");
	pthread_create(&id, NULL, answers, NULL);
	workers(meets);
}

/* A debugger: single steps, breakpoints written into code, words read and written, calls followed into children. */
static void debugged(void)
{
	ptrace(PTRACE_TRACEME, 0, NULL, NULL);
	raise(SIGSTOP);
	for (unsigned i = 0; i < 4; i++) {
		char *area = mmap(NULL, 8 * PAGE, RW, PRIVATE, -1, 0);

		touch(area, 8 * PAGE);
		if (fork() == 0)
			_exit(0);
		waitpid(-1, NULL, __WALL);
		munmap(area, 8 * PAGE);
	}
	execl("/usr/bin/cat", "cat", "/dev/null", NULL);
}

static void traced(void)
{
	begin();
	for (unsigned round = 0;; round++) {
		const long follow = PTRACE_O_TRACEFORK | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL | PTRACE_O_TRACEEXIT;
		const int way = round % 2 ? PTRACE_SYSCALL : PTRACE_SINGLESTEP;
		pid_t first = forked(debugged), pid;
		int status, steps = 0;

		if (waitpid(first, &status, __WALL) != first)
			continue;
		ptrace(PTRACE_SETOPTIONS, first, NULL, (void *)follow);
		ptrace(PTRACE_CONT, first, NULL, NULL);
		while ((pid = waitpid(-1, &status, __WALL)) > 0) {
			struct user_regs_struct registers;
			int signal = WIFSTOPPED(status) ? WSTOPSIG(status) : 0;

			if (!WIFSTOPPED(status))
				continue;
			if (ptrace(PTRACE_GETREGS, pid, NULL, &registers) == 0 && steps % 50 == 0) {
				const long word = ptrace(PTRACE_PEEKTEXT, pid, (void *)registers.rip, NULL);

				ptrace(PTRACE_POKETEXT, pid, (void *)registers.rip, (void *)((word & ~0xffL) | 0xcc));
				ptrace(PTRACE_POKETEXT, pid, (void *)registers.rip, (void *)word);
				ptrace(PTRACE_POKEDATA, pid, (void *)(registers.rsp - 512), (void *)word);
			}
			if (signal == SIGTRAP || signal == SIGSTOP)
				signal = 0;
			if (ptrace(++steps > 3000 ? PTRACE_CONT : way, pid, NULL, (void *)(long)signal) < 0 && steps > 4000)
				kill(pid, SIGKILL);
		}
	}
}

/* Programs that are started by every way but fork: vfork, posix_spawn, clone into the same memory, exec by a thread. */
static int runs_beside(void *argument)
{
	char *at = argument;

	for (unsigned i = 0; i < 20; i++) {
		char *area = mmap(NULL, 4 * PAGE, RW, PRIVATE, -1, 0);

		at[i] = 1;
		if (area != MAP_FAILED) {
			area[PAGE] = 1;
			munmap(area, 4 * PAGE);
		}
	}
	if (*at % 2) /* a new address space for one of two that shared one */
		execl("/bb/true", "true", NULL);
	_exit(0);
}

static void *executes(void *unused)
{
	(void)unused;
	execl("/bb/true", "true", NULL);
	return NULL;
}

static void execs_of_threads(void)
{
	pthread_t id;

	for (unsigned i = 0; i < 4; i++)
		pthread_create(&id, NULL, i == 3 ? executes : waits, NULL);
	if (below(2))
		pthread_exit(NULL);
	rest(1000);
}

static void clones(void)
{
	static char *const arguments[] = {"cat", "/dev/null", NULL};
	const size_t size = 16 * PAGE;
	int alive = 0;

	begin();
	for (unsigned round = 0;; round++) {
		const int flags[] = {CLONE_VM | SIGCHLD, CLONE_VM | CLONE_VFORK | SIGCHLD, CLONE_VM | CLONE_FILES | SIGCHLD,
			CLONE_VM | CLONE_NEWPID | SIGCHLD};
		char *stack = mmap(NULL, size, RW, PRIVATE | MAP_STACK, -1, 0);
		pid_t pid = 0;

		if (round % 6 == 0)
			posix_spawn(&pid, "/usr/bin/cat", NULL, NULL, arguments, environ);
		else if (round % 6 == 1)
			pid = forked(execs_of_threads);
		else
			pid = clone(runs_beside, stack + size, flags[below(COUNT(flags))], stack);
		alive += pid > 0;
		reap(&alive, 5);
		if (alive == 0 || below(8) == 0) {
			reap(&alive, 0);
			munmap(stack, size);
		}
	}
}

/* Memory of others, read and written while they map and unmap it; pages that are asked for and moved. */
static char *theirs;

static void target(void)
{
	for (;;) {
		munmap(theirs + below(NEAR) * PAGE, 8 * PAGE);
		if (mmap(theirs, 2 * NEAR * PAGE, RW, PRIVATE | MAP_FIXED, -1, 0) != MAP_FAILED)
			touch(theirs, NEAR * PAGE);
	}
}

static void others(void)
{
	static char buffer[NEAR * PAGE];
	char path[64];
	pid_t pid;
	int fd;

	theirs = mmap(NULL, 2 * NEAR * PAGE, RW, PRIVATE, -1, 0);
	pid = forked(target);
	snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
	fd = open(path, O_RDWR | O_CLOEXEC);
	begin();
	for (;;) {
		struct iovec mine = {buffer, sizeof(buffer)}, there = {theirs + below(NEAR) * PAGE, sizeof(buffer)};

		process_vm_readv(pid, &mine, 1, &there, 1, 0);
		process_vm_writev(pid, &mine, 1, &there, 1, 0);
		if (pwrite(fd, buffer, 3 * PAGE, (off_t)(uintptr_t)theirs) < 0 && errno != EIO)
			failed("mem");
		snprintf(path, sizeof(path), "/proc/%d/clear_refs", (int)pid);
		say(path, below(2) ? "1" : "4");
	}
}

/* Rings with registered buffers and files, made and torn down. */
static void rings(void)
{
	const size_t size = 64 * PAGE;
	char *buffers = anonymous("registered", size);
	int fd = open(big, O_RDWR | O_CLOEXEC);

	begin();
	for (;;) {
		struct io_uring_params params = {.flags = below(2) ? IORING_SETUP_SQPOLL : 0, .sq_thread_idle = 5};
		int ring = (int)syscall(SYS_io_uring_setup, 32, &params);
		const size_t room = params.sq_off.array + params.sq_entries * sizeof(unsigned);
		struct iovec parts[4];
		char *queue;
		struct io_uring_sqe *entries;

		if (ring < 0) {
			failed("ring");
			sleep_for_ever();
		}
		for (unsigned i = 0; i < COUNT(parts); i++)
			parts[i] = (struct iovec){buffers + i * 16 * PAGE + below(8) * PAGE, (1 + below(8)) * PAGE};
		syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, parts, COUNT(parts));
		syscall(SYS_io_uring_register, ring, IORING_REGISTER_FILES, &fd, 1);
		queue = mmap(NULL, room, RW, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
		entries = mmap(NULL, params.sq_entries * sizeof(*entries), RW, MAP_SHARED | MAP_POPULATE, ring,
			       IORING_OFF_SQES);
		for (unsigned i = 0; queue != MAP_FAILED && entries != MAP_FAILED && i < 8; i++) {
			entries[i] = (struct io_uring_sqe){.opcode = i % 2 ? IORING_OP_READ_FIXED : IORING_OP_WRITE_FIXED,
				.fd = fd, .addr = (uintptr_t)parts[i % 4].iov_base, .len = PAGE, .off = below(500) * PAGE,
				.buf_index = (uint16_t)(i % 4), .flags = i % 3 ? 0 : IOSQE_ASYNC};
			((unsigned *)(queue + params.sq_off.array))[i] = i;
			__atomic_store_n((unsigned *)(queue + params.sq_off.tail), i + 1, __ATOMIC_RELEASE);
		}
		syscall(SYS_io_uring_enter, ring, 8, below(8), IORING_ENTER_GETEVENTS | IORING_ENTER_SQ_WAKEUP, NULL, 0);
		if (below(3) == 0)
			madvise(buffers, size, MADV_DONTNEED); /* the ring keeps the pages */
		if (below(3) == 0)
			syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_BUFFERS, NULL, 0);
		if (below(3) == 0 && fork() == 0)
			_exit(0);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		if (queue != MAP_FAILED)
			munmap(queue, room);
		if (entries != MAP_FAILED)
			munmap(entries, params.sq_entries * sizeof(*entries));
		close(ring);
	}
}

/* Memory files: sealed, holed, cut, mapped shared and private, run; System V segments removed while attached. */
static void memory_files(void)
{
	static char program[1 << 20];
	int from = open("/usr/bin/cat", O_RDONLY | O_CLOEXEC), alive = 0;
	const ssize_t length = read(from, program, sizeof(program));

	begin();
	for (;;) {
		const size_t size = (1 + below(128)) * PAGE;
		int fd = memfd_create("a memory file", MFD_ALLOW_SEALING | MFD_CLOEXEC), segment;
		char *shared, *private;
		pid_t pid;

		if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
			failed("memfd");
		shared = mmap(NULL, size, RW, MAP_SHARED, fd, 0);
		private = mmap(NULL, size, RW, MAP_PRIVATE, fd, 0);
		touch(shared, size);
		touch(private, size / 2);
		fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(size / 3 & -PAGE), 2 * PAGE);
		munmap(shared, size);
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_WRITE);
		if (ftruncate(fd, PAGE) == 0)
			madvise(private, size, MADV_PAGEOUT);
		munmap(private, size);
		close(fd);
		segment = shmget(IPC_PRIVATE, size, IPC_CREAT | 0600);
		shared = shmat(segment, NULL, 0);
		shmctl(segment, IPC_RMID, NULL);
		if (shared != (void *)-1) {
			touch(shared, size);
			if (below(2))
				remap_file_pages(shared, PAGE, 0, size / PAGE - 1, 0);
			shmdt(shared);
		}
		pid = fork();
		if (pid == 0) {
			fd = memfd_create("a program", MFD_CLOEXEC);
			if (write(fd, program, (size_t)length) == length)
				fexecve(fd, (char *[]){"cat", "/dev/null", NULL}, environ);
			_exit(127);
		}
		alive += pid > 0;
		reap(&alive, 3);
	}
}

/* Huge pages of hugetlbfs: shared, copied on write, cut off, holed. */
static void huge_files(void)
{
	const size_t size = 3 * HUGE;
	int fd = open("/mnt/huge/storm", O_RDWR | O_CREAT | O_CLOEXEC, 0600), alive = 0;

	begin();
	for (;;) {
		char *shared, *private;
		pid_t pid;

		if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
			failed("huge file");
		shared = mmap(NULL, size, RW, MAP_SHARED, fd, 0);
		private = mmap(NULL, HUGE, RW, PRIVATE | MAP_HUGETLB, -1, 0);
		if (shared == MAP_FAILED) {
			failed("shared huge");
			sleep_for_ever();
		}
		for (size_t at = 0; at < size; at += HUGE)
			shared[at] = 1;
		if (private != MAP_FAILED)
			private[0] = 1;
		pid = fork();
		if (pid == 0) {
			for (size_t at = 0; at < size; at += HUGE)
				shared[at + PAGE] = 2;
			mprotect(shared + HUGE, HUGE, PROT_READ);
			_exit(0);
		}
		alive += pid > 0;
		reap(&alive, 1);
		mprotect(shared, HUGE, PROT_READ);
		fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)HUGE, (off_t)HUGE);
		munmap(shared + HUGE, HUGE);
		if (ftruncate(fd, 0) < 0)
			failed("huge file");
		munmap(shared, HUGE);
		munmap(shared + 2 * HUGE, HUGE);
		if (private != MAP_FAILED)
			munmap(private, HUGE);
	}
}

/* More memory than its control group may have at all: one of its processes is killed for it. */
static void greedy(void)
{
	char *start = mmap(NULL, 24UL << 20, RW, PRIVATE, -1, 0);

	say("/proc/self/oom_score_adj", "1000");
	touch(start, 24UL << 20);
}

static void killed(void)
{
	begin();
	confine("least", "memory.max", "8388608");
	note("least/memory.swap.max", "4194304");
	keep_forking(greedy, 1);
}

/* Processes of several threads that abort, and leave a core file. */
static void aborted(void)
{
	const struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
	char *start = mmap(NULL, 512 * PAGE, RW, PRIVATE, -1, 0);
	pthread_t id;

	setrlimit(RLIMIT_CORE, &all);
	touch(start, 512 * PAGE);
	for (unsigned i = 0; i < 3; i++)
		pthread_create(&id, NULL, waits, NULL);
	*(volatile int *)0 = below(2) ? 1 : 2;
}

static void cores(void)
{
	int alive = 0;

	say("/proc/sys/kernel/print-fatal-signals", "0");
	begin();
	for (;;) {
		say("/proc/sys/kernel/core_pattern", below(2) ? "/run/log/core" : "|/usr/bin/cat");
		alive += forked(aborted) > 0;
		reap(&alive, 1);
	}
}

/* Modules that come and go. */
static void modules(void)
{
	begin();
	for (;;) {
		if (system("for name in /modules/more/*.ko; do insmod $name; done 2> /dev/null;"
			   "for name in $(lsmod | awk '$3 == 0 && NR > 1 { print $1 }'); do"
			   "  test -e /modules/more/$name.ko && rmmod $name; done 2> /dev/null; true") < 0)
			failed("modules");
	}
}

/* Probes in the kernel and in programs, put in and taken out. The tracer of functions patches more than QEMU bears. */
static void probes(void)
{
	static const char script[] =
		"cd /sys/kernel/tracing; echo 'p:vma_open do_sys_openat2' >> kprobe_events;"
		"echo 'r:vma_fork kernel_clone' >> kprobe_events; echo 'p:vma_cat /usr/bin/cat:0x3000' >> uprobe_events;"
		"echo 1 > events/kprobes/enable; echo 1 > events/uprobes/enable; /usr/bin/cat /dev/null;"
		"echo 0 > events/kprobes/enable; echo 0 > events/uprobes/enable;"
		"echo > kprobe_events; echo > uprobe_events; echo > trace";

	begin();
	for (;;) {
		int child = fork();

		if (child == 0) {
			freopen("/dev/null", "w", stderr);
			execl("/bb/sh", "sh", "-c", script, NULL);
			_exit(127);
		}
		waitpid(child, NULL, 0);
	}
}

/* File systems that are mounted, mapped, unmounted while mapped; namespaces of every kind. */
static void mounted(void)
{
	static const int kinds[] = {CLONE_NEWNS, CLONE_NEWNS | CLONE_NEWUSER, CLONE_NEWNS | CLONE_NEWNET,
		CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS, CLONE_NEWNS | CLONE_NEWPID, CLONE_NEWNS | CLONE_NEWCGROUP};
	const int kind = kinds[below(COUNT(kinds))];
	char *area;
	int fd;

	if (unshare(kind) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		_exit(1);
	for (unsigned i = 0; i < 4; i++) {
		if (mount("rare", "/ovl/work", "tmpfs", 0, "size=1m") < 0)
			_exit(1);
		fd = open("/ovl/work/file", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (ftruncate(fd, 16 * PAGE) == 0) {
			area = mmap(NULL, 16 * PAGE, RW, MAP_SHARED, fd, 0);
			touch(area, 16 * PAGE);
		}
		close(fd);
		unlink("/ovl/work/file");
		umount2("/ovl/work", MNT_DETACH);
	}
	if (fork() == 0)
		execl("/bb/true", "true", NULL);
	waitpid(-1, NULL, 0);
}

static void mounts(void)
{
	begin();
	keep_forking(mounted, 3);
}

/* CPUs that are taken away and come back. */
static void cpus(void)
{
	begin();
	for (unsigned round = 0;; round++) {
		char path[64];

		snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%u/online", 1 + below(3));
		say(path, round % 2 ? "1" : "0");
		rest(below(50));
	}
}

/* Swap that is taken away and comes back, caches that are dropped. */
static void swapoffs(void)
{
	char line[256], device[128] = "";
	FILE *swaps = fopen("/proc/swaps", "r");

	while (swaps && fgets(line, sizeof(line), swaps))
		sscanf(line, "/dev/%100s", device + sprintf(device, "/dev/"));
	begin();
	for (;;) {
		rest(200 + below(500));
		if (swapoff(device) < 0 && errno != ENOMEM)
			failed("swapoff");
		say("/proc/sys/vm/drop_caches", "3");
		swapon(device, 0);
	}
}

/* Processes that are stopped, go on, die stopped, and are not waited for. */
static void works(void)
{
	char *area = anonymous("stopped", NEAR * PAGE);

	for (;;) {
		madvise(area, NEAR * PAGE, MADV_DONTNEED);
		touch(area, NEAR * PAGE);
	}
}

static void stops(void)
{
	pid_t pids[8] = {0};

	begin();
	for (;;) {
		pid_t *one = &pids[below(COUNT(pids))];

		if (*one == 0)
			*one = forked(below(3) ? works : execs_of_threads);
		kill(*one, below(2) ? SIGSTOP : SIGCONT);
		rest(below(10));
		if (below(3) == 0) {
			kill(*one, SIGKILL);
			rest(below(30)); /* a zombie */
			waitpid(*one, NULL, 0);
			*one = 0;
		}
	}
}

/* A file system whose server lets others wait: for a page that they have mapped, too. */
static void serve(int fd)
{
	static char request[1 << 18];
	static struct {
		struct fuse_out_header head;
		union {
			struct fuse_init_out init;
			struct fuse_attr_out attr;
			struct fuse_entry_out entry;
			struct fuse_open_out open;
			char page[32 * PAGE];
		};
	} answer;

	for (;;) {
		const ssize_t length = read(fd, request, sizeof(request));
		const struct fuse_in_header *in = (struct fuse_in_header *)request;
		const struct fuse_attr folder = {.ino = 1, .mode = S_IFDIR | 0755, .nlink = 2};
		const struct fuse_attr file = {.ino = 2, .mode = S_IFREG | 0644, .nlink = 1, .size = 4 * NEAR * PAGE};
		size_t size = 0;

		if (length < (ssize_t)sizeof(*in)) {
			if (errno == ENODEV)
				_exit(0);
			continue;
		}
		if (in->opcode == FUSE_FORGET || in->opcode == FUSE_BATCH_FORGET)
			continue;
		memset(&answer, 0, sizeof(answer.head) + sizeof(answer.entry));
		answer.head.unique = in->unique;
		switch (in->opcode) {
		case FUSE_INIT:
			answer.init = (struct fuse_init_out){.major = 7, .minor = 31, .max_write = 32 * PAGE};
			size = sizeof(answer.init);
			break;
		case FUSE_GETATTR:
			answer.attr.attr = in->nodeid == 1 ? folder : file;
			size = sizeof(answer.attr);
			break;
		case FUSE_LOOKUP:
			answer.entry.nodeid = 2;
			answer.entry.attr = file;
			size = sizeof(answer.entry);
			break;
		case FUSE_OPEN:
			size = sizeof(answer.open);
			break;
		case FUSE_READ:
			rest(below(40));
			size = ((struct fuse_read_in *)(in + 1))->size;
			size = size < sizeof(answer.page) ? size : sizeof(answer.page);
			break;
		case FUSE_FLUSH:
		case FUSE_RELEASE:
			break;
		default:
			answer.head.error = -ENOSYS;
		}
		answer.head.len = (uint32_t)(sizeof(answer.head) + size);
		if (write(fd, &answer, answer.head.len) < 0 && errno == ENODEV)
			_exit(0);
	}
}

static void reads_slowly(void)
{
	int fd = open("/run/fuse/file", O_RDONLY | O_CLOEXEC);
	char *start = mmap(NULL, 4 * NEAR * PAGE, PROT_READ, MAP_PRIVATE, fd, 0);

	for (size_t at = 0; start != MAP_FAILED && at < 4 * NEAR * PAGE; at += PAGE)
		(void)*(volatile char *)(start + at);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

static void slow_files(void)
{
	int fd = open("/dev/fuse", O_RDWR);
	char options[100];
	pid_t server;

	mkdir("/run/fuse", 0755);
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
	if (fd < 0 || mount("slow", "/run/fuse", "fuse.slow", 0, options) < 0) {
		failed("fuse");
		ready();
	}
	server = fork();
	if (server == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		serve(fd);
	}
	close(fd);
	begin();
	keep_forking(reads_slowly, 3);
}

/* Filters on system calls, for all threads of a process; a supervisor that answers; names and limits set anew. */
static void filtered(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = {COUNT(code), code};
	char *area = mmap(NULL, 8 * PAGE, RW, PRIVATE, -1, 0);
	pthread_t id;

	for (unsigned i = 0; i < 3; i++)
		pthread_create(&id, NULL, waits, NULL);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	for (unsigned i = 0; i < 8; i++) {
		char name[16];

		syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
		snprintf(name, sizeof(name), "named %u", i);
		prctl(0x53564d41 /* PR_SET_VMA */, 0, area, 8 * PAGE, name);
		syscall(SYS_getppid);
		sbrk(below(2) ? 64 * PAGE : 0);
		say("/proc/self/clear_refs", "4");
	}
}

static void filters(void)
{
	begin();
	keep_forking(filtered, 3);
}

const struct role rare_roles[] = {
	{"storm-advic", advice}, {"storm-uffd", userfaults}, {"storm-trace", traced},	 {"storm-clone", clones},
	{"storm-other", others}, {"storm-rings", rings},     {"storm-memfd", memory_files}, {"storm-hugtl", huge_files},
	{"storm-ooms", killed},	 {"storm-cores", cores},     {"storm-modul", modules},	 {"storm-probe", probes},
	{"storm-mount", mounts}, {"storm-cpus", cpus},	     {"storm-swpof", swapoffs},	 {"storm-stops", stops},
	{"storm-fuse", slow_files}, {"storm-seccm", filters},
	{NULL, NULL},
};
