/* Mappings of memory that the kernel or a device provides. */
#define _GNU_SOURCE
#include "awkward.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <linux/aio_abi.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RW (PROT_READ | PROT_WRITE)

static void perf(void)
{
	struct perf_event_attr attr;
	int fd;

	memset(&attr, 0, sizeof(attr));
	attr.type = PERF_TYPE_SOFTWARE;
	attr.size = sizeof(attr);
	attr.config = PERF_COUNT_SW_PAGE_FAULTS;
	attr.sample_period = 1;
	attr.sample_type = PERF_SAMPLE_IP;
	attr.disabled = 1;
	fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0UL);
	if (fd < 0)
		failed("perf_event");
	else
		map("perf_event", NULL, 9 * PAGE, RW, MAP_SHARED, fd, 0);
}

static void packet(void)
{
	struct tpacket_req request = {
		.tp_block_size = 4 * PAGE,
		.tp_block_nr = 4,
		.tp_frame_size = 2048,
		.tp_frame_nr = 32,
	};
	int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));

	if (fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request,
				 sizeof(request)) < 0)
		failed("packet_ring");
	else
		map("packet_ring", NULL, 16 * PAGE, RW, MAP_SHARED, fd, 0);
}

static void rings(void)
{
	struct io_uring_params parameters;
	aio_context_t context = 0;
	int fd;

	if (syscall(SYS_io_setup, 64, &context) < 0)
		failed("aio");
	else
		made("aio", (void *)context, PAGE);
	memset(&parameters, 0, sizeof(parameters));
	fd = (int)syscall(SYS_io_uring_setup, 8, &parameters);
	if (fd < 0) {
		failed("io_uring");
		return;
	}
	map("io_uring_ring", NULL, PAGE, RW, MAP_SHARED, fd, IORING_OFF_SQ_RING);
	map("io_uring_sqes", NULL, PAGE, RW, MAP_SHARED, fd, IORING_OFF_SQES);
}

static void bpf_map(void)
{
	union bpf_attr attr;
	int fd;

	memset(&attr, 0, sizeof(attr));
	attr.map_type = BPF_MAP_TYPE_ARRAY;
	attr.key_size = 4;
	attr.value_size = 8;
	attr.max_entries = 1024;
	attr.map_flags = BPF_F_MMAPABLE;
	fd = (int)syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof(attr));
	if (fd < 0)
		failed("bpf_map");
	else
		map("bpf_map", NULL, 2 * PAGE, RW, MAP_SHARED, fd, 0);
}

static void user_fault(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register registration;
	void *start = anonymous("userfaultfd", 16 * PAGE);
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	touch(start, 4 * PAGE);
	memset(&registration, 0, sizeof(registration));
	registration.range.start = (unsigned long)start;
	registration.range.len = 16 * PAGE;
	registration.mode = UFFDIO_REGISTER_MODE_MISSING;
	if (!start || fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0 ||
	    ioctl(fd, UFFDIO_REGISTER, &registration) < 0)
		failed("userfaultfd");
}

static void user_fault_write_protect(void)
{
	struct uffdio_api api = {
		.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP};
	struct uffdio_register registration;
	struct uffdio_writeprotect protect;
	void *start = anonymous("userfaultfd_wp", 16 * PAGE);
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	touch(start, 8 * PAGE);
	memset(&registration, 0, sizeof(registration));
	registration.range.start = (unsigned long)start;
	registration.range.len = 16 * PAGE;
	registration.mode = UFFDIO_REGISTER_MODE_WP;
	memset(&protect, 0, sizeof(protect));
	protect.range = registration.range;
	protect.mode = UFFDIO_WRITEPROTECT_MODE_WP;
	if (!start || fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0 ||
	    ioctl(fd, UFFDIO_REGISTER, &registration) < 0 ||
	    ioctl(fd, UFFDIO_WRITEPROTECT, &protect) < 0)
		failed("userfaultfd_wp");
}

static void devices(void)
{
	glob_t found;
	void *start;
	int fd = open("/dev/mem", O_RDONLY);

	if (fd < 0)
		failed("dev_mem");
	else
		map("dev_mem", NULL, 16 * PAGE, PROT_READ, MAP_SHARED, fd, 0xf0000);
	if (glob("/sys/bus/pci/devices/*/resource[0-9]", 0, NULL, &found) != 0) {
		failed("pci_resource");
		return;
	}
	errno = ENOENT;
	start = MAP_FAILED;
	for (size_t i = 0; i < found.gl_pathc && start == MAP_FAILED; i++) {
		fd = open(found.gl_pathv[i], O_RDONLY);
		if (fd < 0)
			continue;
		start = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
		close(fd);
	}
	if (start == MAP_FAILED)
		failed("pci_resource");
	else
		made("pci_resource", start, PAGE);
	globfree(&found);
}

static void kernel(void)
{
	perf();
	packet();
	rings();
	bpf_map();
	user_fault();
	user_fault_write_protect();
	devices();
	ready();
}

const struct role kernel_roles[] = {{"kernel", kernel}, {NULL, NULL}};
