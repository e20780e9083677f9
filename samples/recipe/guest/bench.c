/*
 * Many areas, for measuring.
 *
 *   bench FORKS AREAS MIB SHARED
 *
 * A parent with about 170 areas forks FORKS children; two more processes have
 * AREAS separate areas each.  MIB of memory are touched, spread over them all.
 * SHARED MiB of shared memory are read by every child: the page tables of each
 * lead to all of it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define PAGE 4096UL

static void report(const char *name)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/run/ready/%s", name);
	fd = open(path, O_WRONLY | O_CREAT, 0644);
	if (fd >= 0)
		close(fd);
}

static void sleep_for_ever(void)
{
	for (;;)
		pause();
}

static void touch(char *start, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		*(volatile unsigned long *)(start + i * PAGE) = (unsigned long)start + i;
}

static char *space(size_t pages)
{
	char *start = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (start == MAP_FAILED) {
		perror("bench: mmap");
		exit(1);
	}
	madvise(start, pages * PAGE, MADV_NOHUGEPAGE);
	return start;
}

/* As many areas as pages: every second page is made read-only. */
static char *split(size_t areas)
{
	char *start = space(areas);

	for (size_t i = 1; i < areas; i += 2) {
		if (mprotect(start + i * PAGE, PAGE, PROT_READ) < 0) {
			perror("bench: mprotect");
			exit(1);
		}
	}
	return start;
}

/* One read maps what lies around it too (do_fault_around): 16 pages. */
static void read_all(const char *start, size_t pages)
{
	for (size_t i = 0; i < pages; i += 16)
		(void)*(const volatile char *)(start + i * PAGE);
}

static char *shared(size_t pages)
{
	char *start = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (start == MAP_FAILED) {
		perror("bench: mmap");
		exit(1);
	}
	madvise(start, pages * PAGE, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < pages; i++)
		(void)*(const volatile char *)(start + i * PAGE);
	return start;
}

static void large(unsigned number, size_t areas, size_t pages)
{
	char name[32];
	char *start;

	if (fork() != 0)
		return;
	snprintf(name, sizeof(name), "bench-large-%u", number);
	prctl(PR_SET_NAME, name);
	start = split(areas);
	for (size_t i = 0; i < areas && pages; i += 2, pages--)
		touch(start + i * PAGE, 1);
	report(name);
	sleep_for_ever();
}

int main(int argc, char **argv)
{
	unsigned long forks = argc > 1 ? strtoul(argv[1], NULL, 0) : 400;
	unsigned long areas = argc > 2 ? strtoul(argv[2], NULL, 0) : 30000;
	unsigned long pages = (argc > 3 ? strtoul(argv[3], NULL, 0) : 300) * 256;
	unsigned long common = (argc > 4 ? strtoul(argv[4], NULL, 0) : 0) * 256;
	unsigned long each;
	char *own, *all = NULL;
	int ends[2];

	prctl(PR_SET_NAME, "bench-parent");
	large(1, areas, pages / 10);
	large(2, areas, pages / 10);
	split(150); /* with libc and the rest about 170 */
	each = forks ? (pages - pages / 5) / forks : 0;
	own = space(each + 1);
	if (common)
		all = shared(common);
	if (pipe(ends) < 0)
		return 1;
	for (unsigned long i = 0; i < forks; i++) {
		char name[32], byte;
		pid_t pid = fork();

		if (pid < 0) {
			perror("bench: fork");
			break;
		}
		if (pid == 0) {
			snprintf(name, sizeof(name), "bench-%lu", i);
			prctl(PR_SET_NAME, name);
			touch(own, each);
			if (common)
				read_all(all, common);
			if (write(ends[1], "r", 1) < 0)
				perror("bench: write");
			close(ends[0]);
			close(ends[1]);
			sleep_for_ever();
		}
		if (read(ends[0], &byte, 1) < 0)
			perror("bench: read");
	}
	close(ends[0]);
	close(ends[1]);
	report("bench-parent");
	sleep_for_ever();
}
