/* Files kept by other means than a mapping, and code that a debugger changed. */
#define _GNU_SOURCE
#include "awkward.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* A memfd that holds a program; nothing maps it. */
static int program(const char *name)
{
	int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	int fd = memfd_create(name, MFD_CLOEXEC);

	if (from < 0 || fd < 0 || sendfile(fd, from, NULL, 4 * PAGE) < (ssize_t)PAGE)
		failed(name);
	close(from);
	return fd;
}

/* Send FD over SOCKET; it stays in the receiver's queue, and the sender closes it. */
static void send_away(int socket, int fd, const char *step)
{
	char data = 'x';
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec vector = {.iov_base = &data, .iov_len = 1};
	struct msghdr message = {
		.msg_iov = &vector,
		.msg_iovlen = 1,
		.msg_control = control.room,
		.msg_controllen = sizeof(control.room),
	};

	memset(&control, 0, sizeof(control));
	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&control.header), &fd, sizeof(int));
	if (sendmsg(socket, &message, 0) < 0)
		failed(step);
	else
		made(step, NULL, 0);
	close(fd);
}

static void in_flight(void)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "\0kept"};
	int ends[2], inner[2], listener, client;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0 ||
	    socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, inner) < 0) {
		failed("socketpair");
		return;
	}
	send_away(ends[0], program("kept in a queue"), "in_flight");
	/* A socket whose queue holds a file is itself in flight; nobody has it open. */
	send_away(inner[0], program("kept in a queue in a queue"), "in_flight_twice");
	close(inner[0]);
	send_away(ends[0], inner[1], "in_flight_socket");
	/* A connection that nobody has accepted. */
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || client < 0 ||
	    bind(listener, (struct sockaddr *)&name, sizeof(sa_family_t) + 5) < 0 ||
	    listen(listener, 4) < 0 ||
	    connect(client, (struct sockaddr *)&name, sizeof(sa_family_t) + 5) < 0) {
		failed("not_accepted");
		return;
	}
	send_away(client, program("kept in a backlog"), "not_accepted");
	close(client);
}

static void registered(void)
{
	struct io_uring_params parameters;
	int files[3], ring;

	memset(&parameters, 0, sizeof(parameters));
	ring = (int)syscall(SYS_io_uring_setup, 8, &parameters);
	files[0] = open("/dev/null", O_RDWR | O_CLOEXEC);
	files[1] = -1; /* a slot that is left empty */
	files[2] = program("kept by io_uring");
	if (ring < 0 || syscall(SYS_io_uring_register, ring, IORING_REGISTER_FILES, files, 3) < 0)
		failed("registered");
	else
		made("registered", NULL, 0);
	close(files[0]);
	close(files[2]);
}

static void kept(void)
{
	program("kept by a descriptor");
	in_flight();
	registered();
	ready();
}

/* Eight bytes of code that can be found in the dump, and that nobody runs. */
__attribute__((noinline, used, aligned(64))) static int landmark(int value)
{
	return value * 0x1234567 + 0x89abcde;
}

/* A debugger: a breakpoint set in a child's code, the child stopped. */
static void debugged(void)
{
	long where = (long)(uintptr_t)landmark, word;
	pid_t pid = fork();

	if (pid == 0) {
		set_comm("awk-broken");
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		sleep_for_ever();
	}
	waitpid(pid, NULL, 0);
	errno = 0;
	word = ptrace(PTRACE_PEEKTEXT, pid, where, NULL);
	if (errno || ptrace(PTRACE_POKETEXT, pid, where, (word & ~0xffL) | 0xcc) < 0)
		failed("breakpoint");
	else
		made("breakpoint", (void *)where, 1);
	ready();
}

/* A program that changes a byte of its own code in an area that it made writable for it. */
static void self_patched(void)
{
	volatile char *code = (volatile char *)(uintptr_t)landmark;
	void *page = (void *)((uintptr_t)code & ~(PAGE - 1));

	if (mprotect(page, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC) < 0)
		failed("self_patched");
	code[0] = (char)0xc3;
	if (mprotect(page, PAGE, PROT_READ | PROT_EXEC) < 0)
		failed("self_patched");
	made("self_patched", (void *)(uintptr_t)code, 1);
	ready();
}

/* PAGES pages with a copy of this program's code. */
static void *copied_code(size_t pages)
{
	void *from = (void *)((uintptr_t)landmark & ~(PAGE - 1));
	char *copy = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (copy == MAP_FAILED)
		return NULL;
	madvise(copy, pages * PAGE, MADV_NOHUGEPAGE);
	for (size_t page = 0; page < pages; page++)
		memcpy(copy + page * PAGE, from, PAGE);
	return copy;
}

/* Pages that this process unmaps, and that a pipe and a ring of io_uring go on holding. */
static void held(void)
{
	struct io_uring_params parameters;
	struct iovec vector = {.iov_len = 3 * PAGE};
	int ends[2], ring;

	vector.iov_base = copied_code(3);
	if (!vector.iov_base || pipe2(ends, O_CLOEXEC) < 0 ||
	    vmsplice(ends[1], &vector, 1, 0) != (ssize_t)(3 * PAGE))
		failed("vmspliced");
	else
		made("vmspliced", vector.iov_base, 3 * PAGE);
	munmap(vector.iov_base, 3 * PAGE);

	memset(&parameters, 0, sizeof(parameters));
	ring = (int)syscall(SYS_io_uring_setup, 8, &parameters);
	vector.iov_len = 5 * PAGE;
	vector.iov_base = copied_code(5);
	if (ring < 0 || !vector.iov_base ||
	    syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &vector, 1) < 0)
		failed("buffers");
	else
		made("buffers", vector.iov_base, 5 * PAGE);
	munmap(vector.iov_base, 5 * PAGE);
	ready();
}

const struct role kept_roles[] = {
	{"kept", kept}, {"debugged", debugged}, {"patched", self_patched}, {"held", held}, {NULL, NULL},
};
