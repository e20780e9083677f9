/* Pages that are kept without being mapped: a process for each way, once with code in the pages and once with text. */
#define _GNU_SOURCE
#include "awkward.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <linux/if_xdp.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGES 4UL
#define SIZE (PAGES * PAGE)
#define RW (PROT_READ | PROT_WRITE)
#define MAP_TYPE_ARENA 33 /* BPF_MAP_TYPE_ARENA, since 6.9 */
#define SECRET 447 /* memfd_secret, of all architectures */

#ifndef AF_XDP
#define AF_XDP 44
#endif
#ifndef SOL_XDP
#define SOL_XDP 283
#endif

struct way {
	const char *name;
	void (*keep)(const char *name, int code);
};

struct order {
	const struct way *way;
	int code;
};

/* Code of which pages are made. */
__attribute__((noinline, used, aligned(64))) static int landmark(int value)
{
	return value * 0x1234567 + 0x89abcde;
}

/* PAGES pages: in each "HELD-NAME-code-NUMBER" or "HELD-NAME-text-NUMBER", behind it code or text. */
static void fill(char *start, const char *name, int code)
{
	const char *from = (char *)((uintptr_t)landmark & ~(PAGE - 1));

	for (size_t page = 0; page < PAGES; page++) {
		char *at = start + page * PAGE;

		if (code)
			memcpy(at, from, PAGE);
		else
			for (size_t line = 0; line < PAGE; line += 32)
				memcpy(at + line, "a line of thirty-two characters\n", 32);
		memset(at, 0, 64);
		snprintf(at, 64, "HELD-%s-%s-%zu", name, code ? "code" : "text", page);
	}
}

/* Anonymous memory, filled. */
static char *filled(const char *name, int code)
{
	char *start = mmap(NULL, SIZE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (start == MAP_FAILED)
		return NULL;
	madvise(start, SIZE, MADV_NOHUGEPAGE);
	fill(start, name, code);
	return start;
}

static void told(const char *name, int code, int done)
{
	char step[64];

	snprintf(step, sizeof(step), "%s_%s", name, code ? "code" : "text");
	if (done)
		made(step, NULL, 0);
	else
		failed(step);
}

static int spliced_to(int pipe_end, const char *name, int code)
{
	struct iovec vector = {.iov_base = filled(name, code), .iov_len = SIZE};
	ssize_t taken = -1;

	if (vector.iov_base)
		taken = vmsplice(pipe_end, &vector, 1, 0);
	munmap(vector.iov_base, SIZE);
	return taken == (ssize_t)SIZE;
}

static void by_vmsplice(const char *name, int code)
{
	int ends[2];

	told(name, code, pipe2(ends, O_CLOEXEC) == 0 && spliced_to(ends[1], name, code));
}

/* Written to a pipe: pages of the kernel's own. */
static void by_pipe(const char *name, int code)
{
	char *start = filled(name, code);
	int ends[2];

	told(name, code, start && pipe2(ends, O_CLOEXEC) == 0 && write(ends[1], start, SIZE) == (ssize_t)SIZE);
	munmap(start, SIZE);
}

/* Pages of a memfd, spliced to a pipe, and then cut off from their file. */
static void by_splice(const char *name, int code)
{
	int fd = memfd_create(name, MFD_CLOEXEC), ends[2];
	char *start = fd < 0 || ftruncate(fd, SIZE) < 0 ? MAP_FAILED : mmap(NULL, SIZE, RW, MAP_SHARED, fd, 0);
	off_t from = 0;
	int done = start != MAP_FAILED && pipe2(ends, O_CLOEXEC) == 0;

	if (done) {
		fill(start, name, code);
		munmap(start, SIZE);
		done = splice(fd, &from, ends[1], NULL, SIZE, 0) == (ssize_t)SIZE && ftruncate(fd, 0) == 0;
	}
	close(fd);
	told(name, code, done);
}

static void by_ring(const char *name, int code)
{
	struct io_uring_params parameters;
	struct iovec vector = {.iov_base = filled(name, code), .iov_len = SIZE};
	int ring;

	memset(&parameters, 0, sizeof(parameters));
	ring = (int)syscall(SYS_io_uring_setup, 8, &parameters);
	told(name, code, ring >= 0 && vector.iov_base &&
	     syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &vector, 1) == 0);
	munmap(vector.iov_base, SIZE);
}

static void by_xdp(const char *name, int code)
{
	char *start = filled(name, code);
	struct xdp_umem_reg umem = {.addr = (uintptr_t)start, .len = SIZE, .chunk_size = PAGE};
	int fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);

	told(name, code, start && fd >= 0 && setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &umem, sizeof(umem)) == 0);
	munmap(start, SIZE);
}

static void by_packet(const char *name, int code)
{
	struct tpacket_req ring = {
		.tp_block_size = SIZE,
		.tp_block_nr = 1,
		.tp_frame_size = PAGE,
		.tp_frame_nr = PAGES,
	};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	char *start = MAP_FAILED;

	if (fd >= 0 && setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof(ring)) == 0)
		start = mmap(NULL, SIZE, RW, MAP_SHARED, fd, 0);
	if (start != MAP_FAILED) {
		fill(start, name, code);
		munmap(start, SIZE);
	}
	told(name, code, start != MAP_FAILED);
}

/* Nobody may write to the data pages of a perf ring: the process ends here, by SIGBUS. */
static void by_perf(const char *name, int code)
{
	struct perf_event_attr event = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(event),
		.config = PERF_COUNT_SW_DUMMY,
	};
	int fd = (int)syscall(SYS_perf_event_open, &event, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
	char *start = fd < 0 ? MAP_FAILED : mmap(NULL, PAGE + SIZE, RW, MAP_SHARED, fd, 0);

	if (start != MAP_FAILED) {
		fill(start + PAGE, name, code);
		munmap(start, PAGE + SIZE);
	}
	told(name, code, start != MAP_FAILED);
}

/* A pipe's pages spliced to a stream socket whose other end nobody reads. */
static int sent_on(int to, const char *name, int code)
{
	int ends[2];

	return to >= 0 && pipe2(ends, O_CLOEXEC) == 0 && spliced_to(ends[1], name, code) &&
	       splice(ends[0], NULL, to, NULL, SIZE, 0) == (ssize_t)SIZE;
}

static void by_unix(const char *name, int code)
{
	int ends[2];

	told(name, code, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0 &&
	     sent_on(ends[0], name, code));
}

static void by_tcp(const char *name, int code)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t size = sizeof(at);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int from = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (bind(listener, (struct sockaddr *)&at, size) < 0 || listen(listener, 1) < 0 ||
	    getsockname(listener, (struct sockaddr *)&at, &size) < 0 ||
	    connect(from, (struct sockaddr *)&at, size) < 0 || accept(listener, NULL, NULL) < 0) {
		told(name, code, 0);
		return;
	}
	told(name, code, sent_on(from, name, code));
}

/* One large datagram: the kernel copies it to pages of its own. */
static void by_datagram(const char *name, int code)
{
	char *start = filled(name, code);
	int ends[2];

	told(name, code, start && socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends) == 0 &&
	     send(ends[0], start, SIZE, 0) == (ssize_t)SIZE);
	munmap(start, SIZE);
}

static int bpf_map(unsigned type, unsigned value, unsigned entries, unsigned flags)
{
	union bpf_attr map;

	memset(&map, 0, sizeof(map));
	map.map_type = type;
	map.key_size = value ? 4 : 0;
	map.value_size = value;
	map.max_entries = entries;
	map.map_flags = flags;
	strcpy(map.map_name, "held");
	return (int)syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof(map));
}

static void of_map(int fd, const char *name, int code)
{
	char *start = fd < 0 ? MAP_FAILED : mmap(NULL, SIZE, RW, MAP_SHARED, fd, 0);

	if (start != MAP_FAILED) {
		fill(start, name, code);
		munmap(start, SIZE);
	}
	told(name, code, start != MAP_FAILED);
}

static void by_bpf(const char *name, int code)
{
	of_map(bpf_map(BPF_MAP_TYPE_ARRAY, PAGE, PAGES, BPF_F_MMAPABLE), name, code);
}

static void by_arena(const char *name, int code)
{
	of_map(bpf_map(MAP_TYPE_ARENA, 0, PAGES, BPF_F_MMAPABLE), name, code);
}

static void by_sysv(const char *name, int code)
{
	int id = shmget(IPC_PRIVATE, SIZE, IPC_CREAT | 0600);
	char *start = id < 0 ? (void *)-1 : shmat(id, NULL, 0);

	if (start != (void *)-1) {
		fill(start, name, code);
		shmdt(start);
	}
	told(name, code, start != (void *)-1);
}

static void of_file(int fd, const char *name, int code)
{
	char *start = fd < 0 || ftruncate(fd, SIZE) < 0 ? MAP_FAILED : mmap(NULL, SIZE, RW, MAP_SHARED, fd, 0);

	if (start != MAP_FAILED) {
		fill(start, name, code);
		munmap(start, SIZE);
	}
	told(name, code, start != MAP_FAILED);
}

static void by_memfd(const char *name, int code)
{
	of_file(memfd_create(name, MFD_CLOEXEC), name, code);
}

static void by_secret(const char *name, int code)
{
	of_file((int)syscall(SECRET, O_CLOEXEC), name, code);
}

/* A pipe that a process filled which has ended since; what is left of it waits in a socket. */
static void by_ended(const char *name, int code)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	char data = 'x';
	struct iovec vector = {.iov_base = &data, .iov_len = 1};
	struct msghdr message = {
		.msg_iov = &vector,
		.msg_iovlen = 1,
		.msg_control = control.room,
		.msg_controllen = sizeof(control.room),
	};
	int sockets[2], ends[2], status = 1;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0) {
		told(name, code, 0);
		return;
	}
	pid = fork();
	if (pid == 0) {
		memset(&control, 0, sizeof(control));
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof(int));
		if (pipe2(ends, O_CLOEXEC) < 0 || !spliced_to(ends[1], name, code))
			_exit(1);
		memcpy(CMSG_DATA(&control.header), &ends[0], sizeof(int));
		_exit(sendmsg(sockets[0], &message, 0) != 1);
	}
	waitpid(pid, &status, 0);
	told(name, code, status == 0);
}

static const struct way ways[] = {
	{"vmsplice", by_vmsplice}, {"pipe", by_pipe}, {"splice", by_splice}, {"uring", by_ring},
	{"xdp", by_xdp}, {"packet", by_packet}, {"perf", by_perf}, {"unix", by_unix}, {"tcp", by_tcp},
	{"dgram", by_datagram}, {"bpf", by_bpf}, {"arena", by_arena}, {"sysv", by_sysv},
	{"memfd", by_memfd}, {"secret", by_secret}, {"ended", by_ended},
};

static void keep(void *argument)
{
	const struct order *order = argument;

	order->way->keep(order->way->name, order->code);
}

static void holders(void)
{
	char comm[32];

	for (size_t i = 0; i < COUNT(ways); i++) {
		for (int code = 0; code < 2; code++) {
			struct order order = {&ways[i], code};

			snprintf(comm, sizeof(comm), "%s-%s", ways[i].name, code ? "code" : "text");
			child(comm, keep, &order);
		}
	}
	ready();
}

const struct role holder_roles[] = {{"holders", holders}, {NULL, NULL}};
