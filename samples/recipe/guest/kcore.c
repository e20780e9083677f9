/*
 * Acquire the memory of the machine it runs on, through /proc/kcore, as AVML does: the
 * ranges of System RAM in ascending order, in blocks, each written with LiME's header.
 *
 *   kcore DEVICE
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE 4096UL

struct header { /* LiME, main.h */
	uint32_t magic, version;
	uint64_t start, last, reserved;
};

static char block[16 * PAGE];

static void die(const char *what)
{
	printf("kcore: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void put(int out, const char *data, size_t size)
{
	for (ssize_t n; size; data += n, size -= (size_t)n) {
		n = write(out, data, size);
		if (n <= 0)
			die("write");
	}
}

/* Where a physical address lies in /proc/kcore, by its segments of the direct map; 0 for nowhere. */
static off_t place(int kcore, const Elf64_Ehdr *head, uint64_t start, uint64_t end)
{
	for (int i = 0; i < head->e_phnum; i++) {
		Elf64_Phdr part;

		if (pread(kcore, &part, sizeof(part), (off_t)(head->e_phoff + (size_t)i * sizeof(part))) != sizeof(part))
			die("segment");
		if (part.p_type == PT_LOAD && part.p_paddr != UINT64_MAX && part.p_paddr <= start &&
		    end <= part.p_paddr + part.p_memsz)
			return (off_t)(part.p_offset + (start - part.p_paddr));
	}
	return 0;
}

static void copy(int kcore, int out, off_t from, uint64_t start, uint64_t end)
{
	const struct header header = {0x4c694d45, 1, start, end - 1, 0};

	put(out, (const char *)&header, sizeof(header));
	for (uint64_t at = start; at < end;) {
		const size_t size = end - at < sizeof(block) ? end - at : sizeof(block);

		if (pread(kcore, block, size, from + (off_t)(at - start)) != (ssize_t)size)
			die("read");
		put(out, block, size);
		at += size;
	}
}

int main(int count, char **words)
{
	FILE *iomem = fopen("/proc/iomem", "r");
	int kcore = open("/proc/kcore", O_RDONLY), out = count > 1 ? open(words[1], O_WRONLY) : -1;
	char line[200];
	Elf64_Ehdr head;

	if (!iomem || kcore < 0 || out < 0 || pread(kcore, &head, sizeof(head), 0) != sizeof(head))
		die("open");
	while (fgets(line, sizeof(line), iomem)) {
		unsigned long start, last;
		off_t from;

		if (line[0] == ' ' || !strstr(line, " : System RAM") || sscanf(line, "%lx-%lx", &start, &last) != 2)
			continue;
		start = (start + PAGE - 1) & -PAGE;
		last = (last + 1) & -PAGE; /* the page behind */
		from = place(kcore, &head, start, last);
		if (from)
			copy(kcore, out, from, start, last);
		else
			printf("kcore: %lx is in no segment\n", start);
	}
	fsync(out);
	return 0;
}
