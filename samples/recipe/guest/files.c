/* Awkward file mappings: names, deleted files, mounts, offsets. */
#define _GNU_SOURCE
#include "awkward.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define RW (PROT_READ | PROT_WRITE)

static void *map_file(const char *step, const char *path, size_t size, int flags)
{
	int fd = file(path, size);
	void *start = NULL;

	if (fd >= 0) {
		start = map(step, NULL, size, RW, flags, fd, 0);
		touch(start, PAGE);
		close(fd);
	}
	return start;
}

static void map_memfd(const char *name)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, 2 * PAGE) < 0) {
		failed("memfd");
		return;
	}
	touch(map("memfd", NULL, 2 * PAGE, RW, MAP_SHARED, fd, 0), PAGE);
	close(fd);
}

/* A path of COUNT components of WIDTH letters; longer than PATH_MAX if asked. */
static void long_path(const char *step, unsigned count, unsigned width)
{
	char name[256];
	int at = open("/run/names", O_RDONLY | O_DIRECTORY), next, fd;

	for (unsigned i = 0; i < count && at >= 0; i++) {
		snprintf(name, sizeof(name), "%02u", i);
		memset(name + 2, 'a' + (int)(i % 26), width - 2);
		name[width] = '\0';
		mkdirat(at, name, 0755);
		next = openat(at, name, O_RDONLY | O_DIRECTORY);
		close(at);
		at = next;
	}
	fd = at < 0 ? -1 : openat(at, "the file", O_RDWR | O_CREAT, 0644);
	if (fd < 0 || ftruncate(fd, 2 * PAGE) < 0)
		failed(step);
	else
		touch(map(step, NULL, 2 * PAGE, RW, MAP_SHARED, fd, 0), PAGE);
	if (fd >= 0)
		close(fd);
	if (at >= 0)
		close(at);
}

static void names(void)
{
	static const char *const odd[] = {
		"tab\there", "new\nline", "back\\slash", "octal \\012 digits",
		"space here", "  leading and trailing  ", "\303\274n\303\257code \342\230\203",
		"\033[31mred\033[0m", "not deleted (deleted)", "quote\"s'", "bad \377\376 utf-8",
		"percent%s%n", "carriage\rreturn", "#hash", "[heap]", "00400000-00401000 r-xp",
	};
	char path[300];

	mkdir("/run/names", 0755);
	for (size_t i = 0; i < COUNT(odd); i++) {
		snprintf(path, sizeof(path), "/run/names/%s", odd[i]);
		map_file("odd_name", path, 2 * PAGE, i % 2 ? MAP_PRIVATE : MAP_SHARED);
	}
	map_memfd("plain memfd");
	map_memfd("mem\nfd\twith\\escapes");
	map_memfd("\033]0;title\007");
	map_memfd("");
	map_memfd(" (deleted)");
	map_memfd("a memfd whose name is much longer than a dentry keeps inline, "
		  "as long as the system call lets it be, which is not very long");
	long_path("long_path", 5, 200);
	long_path("longer_than_path_max", 25, 250);
	map_file("deleted", "/run/names/gone", 2 * PAGE, MAP_SHARED);
	unlink("/run/names/gone");
	map_file("deleted_newline", "/run/names/gone\nwith newline", 2 * PAGE, MAP_PRIVATE);
	unlink("/run/names/gone\nwith newline");
	mkdir("/run/names/dir", 0755);
	mkdir("/run/names/dir/inner", 0755);
	map_file("deleted_folder", "/run/names/dir/inner/file", 2 * PAGE, MAP_SHARED);
	unlink("/run/names/dir/inner/file");
	rmdir("/run/names/dir/inner");
	rmdir("/run/names/dir");
	map_file("renamed", "/run/names/before", 2 * PAGE, MAP_SHARED);
	rename("/run/names/before", "/run/names/after");
	map_file("replaced", "/run/names/replaced", 2 * PAGE, MAP_SHARED);
	close(file("/run/names/replacement", PAGE));
	rename("/run/names/replacement", "/run/names/replaced");
	set_comm("awk) (\n\\x \t\033[");
	ready();
}

static void offsets(void)
{
	char *start;
	int fd;

	fd = file("/mnt/ext4/work/sparse", 64UL << 30);
	if (fd >= 0) {
		start = map("offset_5g", NULL, 4 * PAGE, RW, MAP_SHARED, fd,
			    (off_t)(5UL << 30));
		touch(start, 2 * PAGE);
		map("offset_60g", NULL, 4 * PAGE, PROT_READ, MAP_PRIVATE, fd,
		    (off_t)((60UL << 30) + PAGE));
		close(fd);
	}
	fd = file("/mnt/ext4/work/short", PAGE + 100);
	if (fd >= 0) {
		touch(map("beyond_eof", NULL, 8 * PAGE, RW, MAP_SHARED, fd, 0), 2 * PAGE);
		close(fd);
	}
	fd = file("/run/punched", 16 * PAGE);
	if (fd >= 0) {
		touch(map("punched", NULL, 16 * PAGE, RW, MAP_SHARED, fd, 0), 16 * PAGE);
		if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			      (off_t)(4 * PAGE), (off_t)(8 * PAGE)) < 0)
			failed("punched");
		close(fd);
	}
	start = map_file("partly_unmapped", "/mnt/ext4/work/partly", 16 * PAGE, MAP_SHARED);
	touch(start, 16 * PAGE);
	if (start) {
		munmap(start, 2 * PAGE);
		munmap(start + 6 * PAGE, 4 * PAGE);
		munmap(start + 15 * PAGE, PAGE);
	}
	start = map_file("private_dirty", "/mnt/ext4/work/private", 16 * PAGE, MAP_PRIVATE);
	touch(start, 5 * PAGE);
	if (start && mprotect(start + 8 * PAGE, 2 * PAGE, PROT_NONE) < 0)
		failed("private_dirty");
	fd = file("/mnt/ext4/work/readonly", 4 * PAGE);
	close(fd);
	fd = open("/mnt/ext4/work/readonly", O_RDONLY);
	if (fd >= 0) {
		start = map("shared_readonly_file", NULL, 4 * PAGE, PROT_READ, MAP_SHARED,
			    fd, 0);
		if (start)
			(void)*(volatile char *)start;
		close(fd);
	}
	ready();
}

/* The file system is unmounted lazily, the mapping stays. */
static void lazy(void)
{
	mkdir("/mnt/lazy", 0755);
	if (mount("none", "/mnt/lazy", "tmpfs", 0, NULL) < 0) {
		failed("lazy");
		return;
	}
	mkdir("/mnt/lazy/inner", 0755);
	map_file("lazily_unmounted", "/mnt/lazy/inner/file", 2 * PAGE, MAP_SHARED);
	if (umount2("/mnt/lazy", MNT_DETACH) < 0)
		failed("lazily_unmounted");
	ready();
}

/* A mount namespace of its own, with a mount over a folder others see differently. */
static void mount_namespace(void)
{
	if (unshare(CLONE_NEWNS) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		failed("namespace");
	mkdir("/mnt/over", 0755);
	map_file("below_mount", "/mnt/over/below", 2 * PAGE, MAP_SHARED);
	if (mount("private", "/mnt/over", "tmpfs", 0, NULL) < 0)
		failed("namespace_tmpfs");
	map_file("namespace_tmpfs", "/mnt/over/private file", 2 * PAGE, MAP_SHARED);
	mkdir("/mnt/bound", 0755);
	if (mount("/mnt/over", "/mnt/bound", NULL, MS_BIND, NULL) < 0)
		failed("namespace_bind");
	map_file("namespace_bind", "/mnt/bound/bound file", 2 * PAGE, MAP_SHARED);
	ready();
}

static void *map_existing(const char *step, const char *path, int flags, int how)
{
	int fd = open(path, how);
	void *start = NULL;

	if (fd < 0) {
		failed(step);
		return NULL;
	}
	start = map(step, NULL, 2 * PAGE, how == O_RDWR ? RW : PROT_READ, flags, fd, 0);
	if (start)
		(void)*(volatile char *)start;
	close(fd);
	return start;
}

/* Lower files, a file copied up while mapped, and a file of the upper layer. */
static void overlay(void)
{
	map_existing("overlay_lower", "/ovl/merged/work/lower", MAP_PRIVATE, O_RDONLY);
	map_existing("overlay_before_copy_up", "/ovl/merged/work/copied", MAP_PRIVATE,
		     O_RDONLY);
	touch(map_existing("overlay_copied_up", "/ovl/merged/work/copied", MAP_SHARED,
			   O_RDWR), PAGE);
	map_file("overlay_upper", "/ovl/merged/upper file", 2 * PAGE, MAP_SHARED);
	map_file("overlay_deleted", "/ovl/merged/gone", 2 * PAGE, MAP_SHARED);
	unlink("/ovl/merged/gone");
	map_existing("overlay_lower_deleted", "/ovl/merged/work/unlinked", MAP_PRIVATE,
		     O_RDONLY);
	unlink("/ovl/merged/work/unlinked");
	ready();
}

const struct role file_roles[] = {
	{"names", names}, {"offsets", offsets}, {"lazy", lazy},
	{"mountns", mount_namespace}, {"overlay", overlay}, {NULL, NULL},
};
