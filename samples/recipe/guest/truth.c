/*
 * Write what /proc says about every process, and about the system, as a tar
 * archive to a block device; then print a marker and sleep for ever.
 *
 *   truth DEVICE [bench|crash|await|once]
 *
 * One process without children does it all, so that nothing else changes.  With
 * "bench", maps are only counted and smaps and stacks left out; with "crash", the
 * kernel is made to crash at the end; with "await", a byte on the second serial
 * port, which comes from outside, wakes the process named in /run/victim; with "once",
 * truth ends instead of sleeping.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/stat.h>
#include <unistd.h>

static int out = -1;
static char chunk[1 << 20]; /* not yet written to the device */
static size_t chunk_used;
static unsigned long long total;

static char *text; /* the member being read */
static size_t text_used, text_size;

static void die(const char *what)
{
	printf("truth: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void flush(void)
{
	size_t done = 0;

	while (done < chunk_used) {
		ssize_t n = write(out, chunk + done, chunk_used - done);

		if (n < 0)
			die("write");
		done += (size_t)n;
	}
	chunk_used = 0;
}

static void put(const char *data, size_t size)
{
	total += size;
	while (size) {
		size_t part = sizeof(chunk) - chunk_used;

		if (part > size)
			part = size;
		memcpy(chunk + chunk_used, data, part);
		chunk_used += part;
		data += part;
		size -= part;
		if (chunk_used == sizeof(chunk))
			flush();
	}
}

static void pad(size_t boundary)
{
	static const char zeros[512];
	size_t rest = total % boundary ? boundary - total % boundary : 0;

	while (rest) {
		size_t part = rest > sizeof(zeros) ? sizeof(zeros) : rest;

		put(zeros, part);
		rest -= part;
	}
}

static void member(const char *name, const char *data, size_t size)
{
	char header[512];
	unsigned sum = 0;

	memset(header, 0, sizeof(header));
	if (strlen(name) > 99)
		return;
	memcpy(header, name, strlen(name));
	memcpy(header + 100, "0000644", 7);
	memcpy(header + 108, "0000000", 7);
	memcpy(header + 116, "0000000", 7);
	snprintf(header + 124, 12, "%011zo", size);
	memcpy(header + 136, "00000000000", 11);
	memset(header + 148, ' ', 8);
	header[156] = '0';
	memcpy(header + 257, "ustar\0" "00", 8);
	for (size_t i = 0; i < sizeof(header); i++)
		sum += (unsigned char)header[i];
	snprintf(header + 148, 8, "%06o", sum);
	put(header, sizeof(header));
	put(data, size);
	pad(512);
}

static void room(size_t more)
{
	if (text_used + more <= text_size)
		return;
	text_size = (text_used + more) * 2;
	text = realloc(text, text_size);
	if (!text)
		die("memory");
}

/* Read a file whole into text; false when it cannot be read. */
static int slurp(const char *path)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK);
	ssize_t n;

	text_used = 0;
	if (fd < 0)
		return 0;
	do {
		room(1 << 17);
		n = read(fd, text + text_used, 1 << 17);
		if (n > 0)
			text_used += (size_t)n;
	} while (n > 0);
	close(fd);
	return n == 0;
}

static void copy(const char *path, const char *name)
{
	if (slurp(path))
		member(name, text, text_used);
}

static void link_text(const char *path, const char *name)
{
	ssize_t n;

	text_used = 0;
	room(65536);
	n = readlink(path, text, 65536);
	if (n >= 0)
		member(name, text, (size_t)n);
}

static int by_number(const struct dirent **a, const struct dirent **b)
{
	return atoi((*a)->d_name) - atoi((*b)->d_name);
}

static int is_number(const struct dirent *entry)
{
	return isdigit((unsigned char)entry->d_name[0]) != 0;
}

static void threads(const char *pid, int maps_empty)
{
	char path[800], name[400];
	struct dirent **list;
	int count;

	snprintf(path, sizeof(path), "/proc/%s/task", pid);
	count = scandir(path, &list, is_number, by_number);
	if (count < 0)
		return;
	text_used = 0;
	room((size_t)count * 12 + 1);
	for (int i = 0; i < count; i++)
		text_used += (size_t)sprintf(text + text_used, "%s\n", list[i]->d_name);
	snprintf(name, sizeof(name), "proc/%s/task.ids", pid);
	member(name, text, text_used);
	for (int i = 0; i < count; i++) {
		static const char *const files[] = {"comm", "status", "stat", "syscall"};

		for (size_t k = 0; count > 1 && k < sizeof(files) / sizeof(*files); k++) {
			snprintf(path, sizeof(path), "/proc/%s/task/%s/%s", pid,
				 list[i]->d_name, files[k]);
			copy(path, path + 1);
		}
		snprintf(path, sizeof(path), "/proc/%s/task/%s/stack", pid,
			 list[i]->d_name);
		copy(path, path + 1);
		if (count > 1 && maps_empty) {
			snprintf(path, sizeof(path), "/proc/%s/task/%s/maps", pid,
				 list[i]->d_name);
			copy(path, path + 1);
			snprintf(path, sizeof(path), "/proc/%s/task/%s/smaps", pid,
				 list[i]->d_name);
			copy(path, path + 1);
		}
		free(list[i]);
	}
	free(list);
}

static void open_files(const char *pid)
{
	char path[400], name[400], target[4096];
	struct dirent **list;
	int count;

	snprintf(path, sizeof(path), "/proc/%s/fd", pid);
	count = scandir(path, &list, is_number, by_number);
	if (count < 0)
		return;
	text_used = 0;
	for (int i = 0; i < count; i++) {
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/%s/fd/%s", pid, list[i]->d_name);
		n = readlink(path, target, sizeof(target));
		if (n >= 0) {
			room((size_t)n + 300);
			text_used += (size_t)sprintf(text + text_used, "%s\t",
						     list[i]->d_name);
			memcpy(text + text_used, target, (size_t)n);
			text_used += (size_t)n;
			text[text_used++] = '\0'; /* targets may hold newlines */
		}
		free(list[i]);
	}
	free(list);
	snprintf(name, sizeof(name), "proc/%s/fd.links", pid);
	member(name, text, text_used);
}

static void process(const char *pid, int brief)
{
	static const char *const files[] = {
		"status", "stat", "statm", "comm", "cmdline", "auxv", "syscall",
		"mountinfo", "stack",
	};
	static const char *const links[] = {"exe", "root", "cwd", "ns/mnt", "ns/pid"};
	char path[400], line[40];
	int empty;

	snprintf(path, sizeof(path), "/proc/%s/maps", pid);
	if (!slurp(path))
		text_used = 0;
	empty = text_used == 0;
	if (brief) {
		unsigned long lines = 0;
		size_t size;

		for (size_t i = 0; i < text_used; i++)
			lines += text[i] == '\n';
		size = (size_t)sprintf(line, "%lu\n", lines);
		snprintf(path, sizeof(path), "proc/%s/maps.count", pid);
		member(path, line, size);
		snprintf(path, sizeof(path), "/proc/%s/status", pid);
		copy(path, path + 1);
		snprintf(path, sizeof(path), "/proc/%s/comm", pid);
		copy(path, path + 1);
		return;
	}
	member(path + 1, text, text_used);
	if (!empty) {
		snprintf(path, sizeof(path), "/proc/%s/smaps", pid);
		copy(path, path + 1);
	}
	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
		snprintf(path, sizeof(path), "/proc/%s/%s", pid, files[i]);
		copy(path, path + 1);
	}
	for (size_t i = 0; i < sizeof(links) / sizeof(*links); i++) {
		snprintf(path, sizeof(path), "/proc/%s/%s", pid, links[i]);
		link_text(path, path + 1);
	}
	open_files(pid);
	threads(pid, empty);
}

static void folder(const char *path)
{
	char name[600];
	struct dirent **list;
	int count = scandir(path, &list, NULL, alphasort);

	for (int i = 0; i < count; i++) {
		if (list[i]->d_name[0] != '.') {
			snprintf(name, sizeof(name), "%s/%s", path, list[i]->d_name);
			copy(name, name + 1);
		}
		free(list[i]);
	}
	if (count >= 0)
		free(list);
}

static void system_files(void)
{
	static const char *const files[] = {
		"/proc/version", "/proc/cmdline", "/proc/meminfo", "/proc/slabinfo",
		"/proc/iomem", "/proc/modules", "/proc/mounts", "/proc/filesystems",
		"/proc/sysvipc/shm", "/proc/buddyinfo", "/proc/vmstat", "/proc/swaps",
		"/proc/zoneinfo", "/proc/cpuinfo", "/proc/devices", "/proc/partitions",
		"/proc/sys/kernel/randomize_va_space", "/proc/sys/vm/max_map_count",
		"/proc/sys/kernel/ns_last_pid",
		"/sys/kernel/mm/transparent_hugepage/enabled",
		"/sys/kernel/mm/ksm/pages_sharing", "/sys/kernel/vmcoreinfo",
		"/sys/kernel/notes", "/proc/kallsyms",
	};
	struct stat info;
	char line[40];

	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++)
		copy(files[i], files[i] + 1);
	if (stat("/sys/kernel/btf/vmlinux", &info) == 0) {
		size_t size = (size_t)sprintf(line, "%lld\n", (long long)info.st_size);

		member("sys/kernel/btf/vmlinux.size", line, size);
	}
	folder("/run/log");
}

/* The records of /dev/kmsg one after the other, as it gives them. */
static void log_records(void)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	ssize_t n;

	if (fd < 0)
		return;
	text_used = 0;
	do {
		room(1 << 14);
		n = read(fd, text + text_used, 1 << 14);
		if (n > 0)
			text_used += (size_t)n;
	} while (n > 0 || (n < 0 && (errno == EPIPE || errno == EINTR)));
	close(fd);
	member("kmsg", text, text_used);
}

/* The whole log as syslog(2) gives it, which is what dmesg reads. */
static void log_text(void)
{
	enum { SYSLOG_ACTION_READ_ALL = 3, SYSLOG_ACTION_SIZE_BUFFER = 10 };
	int size = klogctl(SYSLOG_ACTION_SIZE_BUFFER, NULL, 0), n;

	if (size <= 0)
		return;
	/* Every line gets a prefix that the size of the ring does not count. */
	text_used = 0;
	room((size_t)size * 2);
	n = klogctl(SYSLOG_ACTION_READ_ALL, text, size * 2);
	if (n >= 0)
		member("dmesg", text, (size_t)n);
}

/* Wait for a byte from outside, then wake the process that shall act. */
static void await(void)
{
	int fd = open("/dev/ttyS1", O_RDONLY | O_NOCTTY);
	FILE *file = fopen("/run/victim", "r");
	char byte;
	int pid;

	if (fd < 0 || !file || fscanf(file, "%d", &pid) != 1)
		die("await");
	fclose(file);
	printf("TRUTH-AWAITS %d\n", pid);
	if (read(fd, &byte, 1) != 1 || kill(pid, SIGUSR1) < 0)
		die("await");
	/* An idle processor keeps the address space of what last ran there: run on each. */
	sleep(2);
	for (int cpu = 0; cpu < 2; cpu++) {
		cpu_set_t one;

		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		sched_setaffinity(0, sizeof(one), &one);
	}
}

int main(int argc, char **argv)
{
	int brief = argc > 2 && strcmp(argv[2], "bench") == 0;
	int crash = argc > 2 && strcmp(argv[2], "crash") == 0;
	int awaited = argc > 2 && strcmp(argv[2], "await") == 0;
	struct dirent **list;
	char line[40];
	size_t size;
	int count;

	setvbuf(stdout, NULL, _IONBF, 0);
	if (argc < 2)
		return 2;
	out = open(argv[1], O_WRONLY);
	if (out < 0)
		die(argv[1]);
	sync();
	size = (size_t)sprintf(line, "%d\n", getpid());
	member("capturing", line, size);
	count = scandir("/proc", &list, is_number, by_number);
	if (count < 0)
		die("/proc");
	for (int i = 0; i < count; i++) {
		process(list[i]->d_name, brief);
		free(list[i]);
	}
	free(list);
	system_files();
	log_records();
	log_text();
	member("complete", "yes\n", 4);
	pad(512);
	{
		static const char end[1024];

		put(end, sizeof(end));
	}
	flush();
	if (fsync(out) < 0)
		die("fsync");
	printf("TRUTH-SIZE %llu\nTRUTH-READY\n", total);
	if (crash) {
		int fd = open("/proc/sysrq-trigger", O_WRONLY);

		sleep(1);
		if (fd < 0 || write(fd, "c", 1) < 0)
			die("/proc/sysrq-trigger");
	}
	if (awaited)
		await();
	if (argc > 2 && strcmp(argv[2], "once") == 0)
		return 0;
	for (;;)
		pause();
}
