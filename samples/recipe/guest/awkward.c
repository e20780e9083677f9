/*
 * A program whose address space is awkward to describe.
 *
 *   awkward ROLE
 *
 * Each role sets up one kind of awkwardness, says in /run/log/ROLE which steps
 * worked, creates /run/ready/ROLE and then sleeps for ever.  Kernels differ, so
 * every step may fail without harm.
 */
#define _GNU_SOURCE
#include "awkward.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

static char role_name[32];

static void log_line(const char *line)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/run/log/%s", role_name);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (fd < 0)
		return;
	if (write(fd, line, strlen(line)) < 0)
		perror(path);
	close(fd);
}

void made(const char *step, const void *start, size_t size)
{
	char line[300];

	snprintf(line, sizeof(line), "ok %d %s %lx-%lx\n", (int)getpid(), step,
		 (unsigned long)start, (unsigned long)start + size);
	log_line(line);
}

void failed(const char *step)
{
	char line[300];

	snprintf(line, sizeof(line), "no %d %s: %s\n", (int)getpid(), step,
		 strerror(errno));
	log_line(line);
	printf("awkward: %s: %s", role_name, line);
	fflush(stdout);
}

void sleep_for_ever(void)
{
	for (;;)
		pause();
}

void ready_file(void)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/run/ready/%s", role_name);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	if (fd >= 0)
		close(fd);
}

void ready(void)
{
	ready_file();
	sleep_for_ever();
}

void *map(const char *step, void *at, size_t size, int protection, int flags, int fd,
	  off_t offset)
{
	void *start = mmap(at, size, protection, flags, fd, offset);

	if (start == MAP_FAILED) {
		failed(step);
		return NULL;
	}
	made(step, start, size);
	return start;
}

void *anonymous(const char *step, size_t size)
{
	return map(step, NULL, size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

void *aligned(const char *step, size_t size, size_t alignment)
{
	char *all = mmap(NULL, size + alignment, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *start;
	size_t before;

	if (all == MAP_FAILED) {
		failed(step);
		return NULL;
	}
	start = (char *)(((uintptr_t)all + alignment - 1) & ~(alignment - 1));
	before = (size_t)(start - all);
	if (before)
		munmap(all, before);
	if (alignment - before)
		munmap(start + size, alignment - before);
	made(step, start, size);
	return start;
}

void touch(void *start, size_t size)
{
	if (!start)
		return;
	for (size_t at = 0; at < size; at += PAGE) {
		char *page = (char *)start + at;

		*(volatile uint64_t *)page = (uint64_t)(uintptr_t)page;
		memcpy(page + 8, "VMA-TOUCHED", 12);
	}
}

int file(const char *path, size_t size)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);

	if (fd < 0 || ftruncate(fd, (off_t)size) < 0) {
		failed(path);
		if (fd >= 0)
			close(fd);
		return -1;
	}
	return fd;
}

void set_comm(const char *name)
{
	prctl(PR_SET_NAME, name, 0, 0, 0);
}

pid_t child(const char *comm, void (*run)(void *), void *argument)
{
	int ends[2];
	char byte;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -1;
	pid = fork();
	if (pid == 0) {
		set_comm(comm);
		if (run)
			run(argument);
		if (write(ends[1], "r", 1) < 0)
			perror(comm);
		close(ends[0]);
		close(ends[1]);
		sleep_for_ever();
	}
	close(ends[1]);
	if (pid > 0 && read(ends[0], &byte, 1) < 0)
		perror(comm);
	close(ends[0]);
	return pid;
}

static void idle(void)
{
	ready();
}

static const struct role own_roles[] = {{"idle", idle}, {"gone", idle}, {NULL, NULL}};

int main(int argc, char **argv)
{
	const struct role *const tables[] = {own_roles, area_roles, file_roles,
					     kernel_roles, process_roles, kept_roles, holder_roles, machine_roles,
					     victim_roles, storm_roles, rare_roles, apart_roles};
	char comm[32];

	if (argc < 2)
		return 2;
	snprintf(role_name, sizeof(role_name), "%s", argv[1]);
	snprintf(comm, sizeof(comm), "awk-%s", argv[1]);
	set_comm(comm);
	for (size_t i = 0; i < COUNT(tables); i++) {
		for (const struct role *role = tables[i]; role->name; role++) {
			if (strcmp(role->name, argv[1]) == 0) {
				role->run();
				ready();
			}
		}
	}
	printf("awkward: no role %s\n", argv[1]);
	return 2;
}
