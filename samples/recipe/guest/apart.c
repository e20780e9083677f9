/*
 * Processes that never rest, as those of storms.c, at what makes and breaks what records share: forks and programs
 * that fail half-way, tables of files and namespaces taken apart, files renamed while they are mapped, buffers of the
 * kernel that are mapped and let go of.
 */
#define _GNU_SOURCE
#include "awkward.h"
#include "storms.h"

#include <asm/ldt.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/if_packet.h>
#include <linux/perf_event.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>
#include <net/ethernet.h>
#include <arpa/inet.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef RENAME_EXCHANGE
#define RENAME_EXCHANGE 2
#endif
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 8
#endif
#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE 2
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define CLONE_INTO_GROUP 0x200000000ULL /* CLONE_INTO_CGROUP, include/uapi/linux/sched.h */
#define MADV_GUARD 102 /* MADV_GUARD_INSTALL, since 6.13; the next takes it back */
#define MERGE 67 /* PR_SET_MEMORY_MERGE, since 6.4 */
#define STACK (16 * PAGE)

static void *lingers(void *milliseconds)
{
	rest((long)(intptr_t)milliseconds);
	return NULL;
}

static void ticks(int signal)
{
	(void)signal;
}

/* Forks and threads that come to nothing: for a signal, for want of numbers, in a namespace that has ended. */
static void interrupted_forks(void)
{
	const struct sigaction action = {.sa_handler = ticks};
	const struct itimerval fast = {{0, 700}, {0, 700}}, none = {{0, 0}, {0, 0}};
	char *area = anonymous("copied in vain", 512 * PAGE);
	int alive = 0;

	sigaction(SIGALRM, &action, NULL);
	touch(area, 512 * PAGE);
	for (unsigned i = 0; i < 40; i++) {
		pid_t pid;

		setitimer(ITIMER_REAL, &fast, NULL);
		/* not fork(), which would be tried again */
		pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
		if (pid == 0)
			_exit(0);
		alive += pid > 0;
		setitimer(ITIMER_REAL, &none, NULL);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			alive--;
	}
}

static void too_many(void)
{
	pthread_t ids[6];
	pid_t pids[6];
	size_t count = 0;

	for (size_t i = 0; i < COUNT(ids); i++) {
		count += pthread_create(&ids[count], NULL, lingers, (void *)(intptr_t)5) == 0;
		pids[i] = fork();
		if (pids[i] == 0) {
			rest(3);
			_exit(0);
		}
	}
	while (count > 0)
		pthread_join(ids[--count], NULL);
	while (waitpid(-1, NULL, 0) > 0)
		;
}

static void in_ended_namespace(void)
{
	pid_t first;

	if (unshare(CLONE_NEWPID) < 0)
		_exit(1);
	first = fork();
	if (first == 0)
		_exit(0);
	waitpid(first, NULL, 0);
	for (unsigned i = 0; i < 20; i++) {
		if (fork() == 0) /* ENOMEM: the first of the namespace has ended */
			_exit(0);
	}
}

/* A program of which the kernel learns too late that it cannot be run. */
static void broken_program(void)
{
	struct {
		Elf64_Ehdr head;
		Elf64_Phdr part;
	} program = {
		.head = {.e_ident = ELFMAG, .e_type = ET_EXEC, .e_machine = EM_X86_64, .e_version = 1,
			.e_entry = 0x400000, .e_phoff = sizeof(Elf64_Ehdr), .e_ehsize = sizeof(Elf64_Ehdr),
			.e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 1},
		.part = {.p_type = PT_LOAD, .p_flags = PF_R | PF_X, .p_vaddr = (uint64_t)-1 << 48 | 0x400000,
			.p_filesz = 4096, .p_memsz = 4096, .p_align = 4096},
	};
	int fd = open("/run/broken", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);

	program.head.e_ident[EI_CLASS] = ELFCLASS64;
	program.head.e_ident[EI_DATA] = ELFDATA2LSB;
	program.head.e_ident[EI_VERSION] = EV_CURRENT;
	if (fd >= 0 && write(fd, &program, sizeof(program)) != sizeof(program))
		failed("broken");
	if (fd >= 0)
		close(fd);
	execl("/run/broken", "broken", NULL);
}

static void fails(void)
{
	static void (*const ways[])(void) = {interrupted_forks, too_many, in_ended_namespace, broken_program};
	int alive = 0;

	begin();
	confine("few", "pids.max", "9");
	for (;;) {
		pid_t pid = fork();

		if (pid == 0) {
			srandom((unsigned)getpid());
			ways[below(COUNT(ways))]();
			_exit(0);
		}
		alive += pid > 0;
		reap(&alive, 2);
	}
}

/* What tasks share, in every mixture, taken apart by each in its own time. */
static int takes_apart(void *unused)
{
	static const int kinds[] = {CLONE_FS, CLONE_FILES, CLONE_FS | CLONE_FILES, CLONE_NEWUTS, CLONE_NEWIPC | CLONE_FS,
		CLONE_NEWNS, CLONE_NEWNET | CLONE_FILES, CLONE_SYSVSEM, 0};
	const int from = (int)(intptr_t)unused;

	for (unsigned i = 0; i < 6; i++) {
		int kind = kinds[below(COUNT(kinds))], fd;

		switch (below(4)) {
		case 0:
			if (unshare(kind) == 0)
				chdir(below(2) ? "/run" : "/");
			break;
		case 1:
			syscall(SYS_close_range, 200, 300, CLOSE_RANGE_UNSHARE);
			break;
		case 2:
			fd = open(below(2) ? "/proc/1/ns/uts" : "/proc/1/ns/ipc", O_RDONLY | O_CLOEXEC);
			setns(fd, 0);
			close(fd);
			break;
		default:
			fd = (int)syscall(SYS_pidfd_open, from, 0);
			setns(fd, CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP);
			close(fd);
		}
		rest(below(3));
	}
	return 0;
}

static void *unshares(void *unused)
{
	takes_apart((void *)(intptr_t)getppid());
	if (below(6) == 0)
		execl("/bb/true", "true", NULL);
	return unused;
}

static int starts_again(void *from)
{
	pthread_t ids[3];

	for (size_t i = 0; i < COUNT(ids); i++)
		pthread_create(&ids[i], NULL, unshares, from);
	takes_apart(from);
	if (below(2))
		execl("/bb/true", "true", NULL);
	if (below(2))
		pthread_exit(NULL); /* the first thread, before the others */
	_exit(0);
}

static void parts(void)
{
	static const unsigned long flags[] = {CLONE_FILES, CLONE_FS, CLONE_FILES | CLONE_FS,
		CLONE_VM | CLONE_SIGHAND, CLONE_VM | CLONE_SIGHAND | CLONE_FILES | CLONE_FS, CLONE_NEWUTS | CLONE_FILES,
		CLONE_VM | CLONE_VFORK, CLONE_NEWPID | CLONE_NEWUTS, CLONE_PARENT_SETTID | CLONE_SYSVSEM, 0};
	char *stacks = anonymous("stacks", 8 * STACK);
	const pid_t self = getpid();
	int alive = 0;

	begin();
	for (unsigned round = 0;; round++) {
		const unsigned long which = flags[below(COUNT(flags))];
		const int own_memory = !(which & CLONE_VM);
		pid_t pid;

		if (own_memory && below(3) == 0) {
			struct clone_args again = {.flags = below(2) ? CLONE_CLEAR_SIGHAND : which, .exit_signal = SIGCHLD};

			pid = (pid_t)syscall(SYS_clone3, &again, sizeof(again));
			if (pid == 0) {
				srandom((unsigned)getpid());
				_exit(takes_apart((void *)(intptr_t)self));
			}
		} else {
			pid = clone(own_memory ? starts_again : takes_apart, stacks + (1 + round % 8) * STACK,
				    (int)which | SIGCHLD, (void *)(intptr_t)self);
		}
		alive += pid > 0;
		reap(&alive, 5);
	}
}

/* Files that are renamed, exchanged, linked, unlinked, named only then, copied up, while they are mapped and run. */
static void renames(void)
{
	static const char *const folders[] = {"/mnt/ext4/names", "/run/names", "/ovl/merged/names"};
	static char program[1 << 20];
	int from = open("/bin/busybox", O_RDONLY | O_CLOEXEC), alive = 0;
	ssize_t length = read(from, program, sizeof(program));
	char path[4][100], proc[64];

	begin();
	for (unsigned round = 0;; round++) {
		const char *folder = folders[round % COUNT(folders)];
		char *area[3] = {MAP_FAILED, MAP_FAILED, MAP_FAILED};
		pid_t pid;
		int fd;

		mkdir(folder, 0755);
		for (unsigned i = 0; i < 4; i++)
			snprintf(path[i], sizeof(path[i]), "%s/%u%s", folder, i,
				 i % 2 ? "" : " with a name that is too long for a dentry to have in itself");
		for (unsigned i = 0; i < 3; i++) {
			fd = open(path[i], O_RDWR | O_CREAT | O_CLOEXEC, 0755);
			if (fd < 0 || ftruncate(fd, 8 * PAGE) < 0) {
				close(fd);
				continue;
			}
			area[i] = mmap(NULL, 8 * PAGE, RW, i % 2 ? MAP_PRIVATE : MAP_SHARED, fd, 0);
			if (area[i] != MAP_FAILED)
				touch(area[i], (1 + below(8)) * PAGE);
			close(fd);
		}
		syscall(SYS_renameat2, AT_FDCWD, path[0], AT_FDCWD, path[1], RENAME_EXCHANGE);
		rename(path[1], path[2]);
		link(path[2], path[3]);
		rename(path[0], path[1]);
		fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0755);
		/* of a memory file without a name nobody can say that it will have one: there it is no program */
		if (fd >= 0 && pwrite(fd, program, (size_t)length, round % COUNT(folders) != 0) == length) {
			void *mapped = mmap(NULL, 8 * PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);

			snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
			unlink(path[3]);
			linkat(AT_FDCWD, proc, AT_FDCWD, path[3], AT_SYMLINK_FOLLOW);
			if (mapped != MAP_FAILED)
				munmap(mapped, 8 * PAGE);
		}
		close(fd);
		pid = fork();
		if (pid == 0) {
			execl(path[3], "sleep", "0.05", NULL);
			_exit(127);
		}
		alive += pid > 0;
		rename(path[3], path[1]);
		if (below(2))
			unlink(path[1]);
		unlink(path[2]);
		/* what lies beneath it is copied up while it is mapped for reading */
		fd = open("/ovl/merged/usr/bin/cat", O_RDONLY | O_CLOEXEC);
		if (fd >= 0) {
			void *below_it = mmap(NULL, 4 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0);

			chmod("/ovl/merged/usr/bin/cat", 0755);
			rename("/ovl/merged/usr/bin/cat", "/ovl/merged/usr/bin/dog");
			rename("/ovl/merged/usr/bin/dog", "/ovl/merged/usr/bin/cat");
			if (below_it != MAP_FAILED)
				munmap(below_it, 4 * PAGE);
			close(fd);
		}
		for (unsigned i = 0; i < 3; i++) {
			if (area[i] != MAP_FAILED)
				munmap(area[i], 8 * PAGE);
		}
		reap(&alive, 3);
	}
}

/* Buffers of the kernel that are mapped: of perf events, packets, asynchronous requests and the tracer. */
static void *maps_buffers(void *unused)
{
	unsigned seed = (unsigned)(uintptr_t)&unused >> 4;

	all_are_there();
	for (;;) {
		struct perf_event_attr event = {.type = PERF_TYPE_SOFTWARE, .size = sizeof(event),
			.config = rand_r(&seed) % 2 ? PERF_COUNT_SW_CPU_CLOCK : PERF_COUNT_SW_PAGE_FAULTS,
			.sample_period = 100000, .sample_type = PERF_SAMPLE_IP | PERF_SAMPLE_CALLCHAIN, .mmap = 1, .task = 1};
		struct tpacket_req request = {.tp_block_size = 4 * PAGE, .tp_block_nr = 4, .tp_frame_size = 2048,
			.tp_frame_nr = 32};
		const size_t size = (1 + (1U << rand_r(&seed) % 5)) * PAGE;
		aio_context_t context = 0;
		char *area;
		int fd;

		switch (rand_r(&seed) % 5) {
		case 0:
			fd = (int)syscall(SYS_perf_event_open, &event, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
			area = fd < 0 ? MAP_FAILED : mmap(NULL, size, RW, MAP_SHARED, fd, 0);
			if (area != MAP_FAILED) {
				(void)*(volatile char *)area;
				(void)*(volatile char *)(area + size - PAGE);
				rest(1);
				munmap(area, size);
			}
			close(fd);
			break;
		case 1:
			fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL));
			if (fd >= 0 && setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof(request)) == 0) {
				area = mmap(NULL, 16 * PAGE, RW, MAP_SHARED, fd, 0);
				if (area != MAP_FAILED) {
					(void)*(volatile char *)(area + 3 * PAGE);
					munmap(area, 16 * PAGE);
				}
			}
			close(fd);
			break;
		case 2:
			if (syscall(SYS_io_setup, 8 + rand_r(&seed) % 200, &context) == 0)
				syscall(SYS_io_destroy, context);
			break;
		case 3:
			fd = open("/sys/kernel/tracing/per_cpu/cpu0/trace_pipe_raw", O_RDONLY | O_CLOEXEC | O_NONBLOCK);
			area = fd < 0 ? MAP_FAILED : mmap(NULL, 4 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
			if (area != MAP_FAILED) {
				(void)*(volatile char *)(area + PAGE);
				munmap(area, 4 * PAGE);
			}
			close(fd);
			break;
		default:
			fd = open("/dev/zero", (rand_r(&seed) % 2 ? O_RDONLY : O_RDWR) | O_CLOEXEC);
			area = mmap(NULL, 8 * PAGE, PROT_READ, rand_r(&seed) % 2 ? MAP_SHARED : MAP_PRIVATE, fd, 0);
			for (size_t page = 0; area != MAP_FAILED && page < 8 * PAGE; page += PAGE)
				(void)*(volatile char *)(area + page);
			if (area != MAP_FAILED)
				munmap(area, 8 * PAGE);
			close(fd);
		}
	}
	return NULL;
}

static void buffers(void)
{
	workers(maps_buffers);
}

/* Memory that is locked, files and all; memory that may be dropped; descriptors of segments of one's own. */
static void *locks(void *unused)
{
	unsigned seed = (unsigned)(uintptr_t)&unused >> 4;
	int fd = open(big, O_RDWR | O_CLOEXEC), program = open("/usr/bin/bash", O_RDONLY | O_CLOEXEC);

	all_are_there();
	for (;;) {
		const size_t size = (8 + rand_r(&seed) % 120) * PAGE, part = size / 3 & -PAGE;
		struct user_desc segment = {.entry_number = rand_r(&seed) % 600, .base_addr = 0x10000, .limit = 0xfffff,
			.seg_32bit = 1, .limit_in_pages = 1, .useable = 1};
		char *area[4] = {mmap(NULL, size, RW, MAP_PRIVATE, fd, 0), mmap(NULL, size, RW, MAP_SHARED, fd, 0),
			mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_PRIVATE, program, 0),
			mmap(NULL, size, RW, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0)};

		for (unsigned i = 0; i < COUNT(area); i++) {
			if (area[i] == MAP_FAILED)
				continue;
			for (size_t page = 0; i != 2 && page < size; page += 2 * PAGE)
				*(volatile char *)(area[i] + page + 16) = 1;
			mlock(area[i], size);
			munlock(area[i] + part, part);
			mlock2(area[i] + part, PAGE, 1 /* MLOCK_ONFAULT */);
		}
		if (rand_r(&seed) % 4 == 0) {
			mlockall(rand_r(&seed) % 2 ? MCL_CURRENT : MCL_CURRENT | MCL_FUTURE);
			munlockall();
		}
		syscall(SYS_modify_ldt, 0x11, &segment, sizeof(segment));
		for (unsigned i = 0; i < COUNT(area); i++) {
			if (area[i] != MAP_FAILED)
				munmap(area[i], size);
		}
	}
	return NULL;
}

static void locked(void)
{
	workers(locks);
}

/* Entries that are marks: guards, poison, write protection of what is not there; pages moved by userfaultfd. */
static char *marked[3]; /* anonymous, of a shared memory file, of a file */
static const size_t marked_size = 2 * HUGE;
static int marks;

static void *sets_marks(void *unused)
{
	unsigned seed = (unsigned)(uintptr_t)&unused >> 4;

	all_are_there();
	for (;;) {
		char *area = marked[rand_r(&seed) % COUNT(marked)];
		const size_t first = rand_r(&seed) % 960 * PAGE, count = (1 + rand_r(&seed) % 64) * PAGE;
		const unsigned long at = (unsigned long)(uintptr_t)area + first;
		struct uffdio_writeprotect protect = {{at, count}, rand_r(&seed) % 2 ? UFFDIO_WRITEPROTECT_MODE_WP : 0};
		uint64_t poison[4] = {at, PAGE, 0, 0}, move[5] = {at, (uintptr_t)marked[0] + HUGE, PAGE, 0, 0};
		struct iovec part = {area + first, count};

		if (area == MAP_FAILED)
			continue;
		switch (rand_r(&seed) % 8) {
		case 0:
			madvise(area + first, count, MADV_GUARD);
			break;
		case 1:
			madvise(area + first, count, MADV_GUARD + 1);
			break;
		case 2:
			ioctl(marks, UFFDIO_WRITEPROTECT, &protect);
			break;
		case 3:
			ioctl(marks, _IOWR(0xaa, 8, uint64_t[4]), poison); /* UFFDIO_POISON, since 6.6 */
			break;
		case 4:
			ioctl(marks, _IOWR(0xaa, 5, uint64_t[5]), move); /* UFFDIO_MOVE, since 6.8 */
			break;
		case 5:
			madvise(area, marked_size, rand_r(&seed) % 3 ? MADV_DONTNEED : MADV_COLLAPSE);
			break;
		case 6:
			mprotect(area + first, count, rand_r(&seed) % 2 ? PROT_READ : RW);
			break;
		default:
			madvise(area + first, count, MADV_PAGEOUT);
		}
		for (size_t page = 0; page < count; page += PAGE) { /* as advises() of rare.c: a guard would end it */
			struct iovec from = {&seed, 8};

			part.iov_base = area + first + page;
			part.iov_len = 8;
			process_vm_writev(getpid(), &from, 1, &part, 1, 0);
		}
		if (rand_r(&seed) % 64 == 0) {
			pid_t pid = fork();

			if (pid == 0)
				_exit(0);
			waitpid(pid, NULL, 0);
		}
	}
	return NULL;
}

static void guards(void)
{
	struct uffdio_api less = {.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP};
	/* of shared memory, since 5.19; of what is not there, since 6.4 */
	struct uffdio_api more = {.api = UFFD_API, .features = less.features | 1 << 12 | 1 << 13};
	int fd = open(big, O_RDWR | O_CLOEXEC), shared = memfd_create("marked", MFD_CLOEXEC);

	if (ftruncate(shared, (off_t)marked_size) < 0)
		failed("marked");
	marked[0] = aligned("marked", marked_size, HUGE);
	marked[1] = mmap(NULL, marked_size, RW, MAP_SHARED, shared, 0);
	marked[2] = mmap(NULL, marked_size, RW, MAP_PRIVATE, fd, 0);
	marks = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	if (marks < 0 || (ioctl(marks, UFFDIO_API, &more) < 0 && ioctl(marks, UFFDIO_API, &less) < 0))
		failed("userfaultfd");
	for (unsigned i = 0; i < 2; i++) { /* write protection alone: a fault that waits would wait for ever */
		struct uffdio_register range = {{(uintptr_t)marked[i], HUGE}, UFFDIO_REGISTER_MODE_WP, 0};

		if (marks >= 0)
			ioctl(marks, UFFDIO_REGISTER, &range);
	}
	workers(sets_marks);
}

/* Clocks of one's own, 32-bit programs, control groups entered at birth, segments attached over fork and exec. */
static void other_births(void)
{
	struct clone_args birth = {.flags = CLONE_INTO_GROUP, .exit_signal = SIGCHLD};
	const int segment = shmget(IPC_PRIVATE, 32 * PAGE, IPC_CREAT | 0600);
	char *area = shmat(segment, NULL, 0);
	pid_t pid;
	int status;

	shmctl(segment, IPC_RMID, NULL);
	if (area != (void *)-1)
		touch(area, 16 * PAGE);
	prctl(MERGE, below(2), 0, 0, 0);
	switch (below(4)) {
	case 0:
	case 1:
		if (unshare(CLONE_NEWTIME) < 0)
			break;
		if (below(2)) {
			int fd = open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC);

			if (write(fd, "monotonic 1000 0\n", 17) < 0)
				failed("timens");
			close(fd);
		}
		pid = fork();
		if (pid == 0) {
			struct timespec now;

			clock_gettime(CLOCK_MONOTONIC, &now); /* reads the data of the vDSO */
			if (below(2))
				execl("/usr/bin/cat", "cat", "/dev/null", NULL);
			if (below(2))
				mlockall(MCL_CURRENT);
			rest(3);
			_exit(0);
		}
		if (below(3) == 0)
			execl("/bb/sleep", "sleep", "0.01", NULL); /* into its own */
		waitpid(pid, NULL, 0);
		break;
	case 2:
		pid = fork();
		if (pid == 0) {
			execl("/usr/bin/tiny32", "tiny32", NULL);
			_exit(127);
		}
		rest(below(20));
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		break;
	default:
		birth.cgroup = (uint64_t)open("/run/groups/born", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		for (unsigned i = 0; i < 8; i++) {
			pid = (pid_t)syscall(SYS_clone3, &birth, sizeof(birth));
			if (pid == 0)
				_exit(0);
			if (below(2) && pid > 0)
				waitpid(pid, NULL, 0);
		}
		while (waitpid(-1, NULL, 0) > 0)
			;
	}
}

static void births(void)
{
	int alive = 0;

	begin();
	confine("births", "pids.max", "max");
	mkdir("/run/groups/born", 0755);
	for (;;) {
		pid_t pid = fork();

		if (pid == 0) {
			srandom((unsigned)getpid());
			other_births();
			_exit(0);
		}
		alive += pid > 0;
		reap(&alive, 3);
	}
}

const struct role apart_roles[] = {
	{"storm-fails", fails}, {"storm-parts", parts}, {"storm-names", renames}, {"storm-buffs", buffers},
	{"storm-locks", locked}, {"storm-guard", guards},   {"storm-times", births},
	{NULL, NULL},
};
