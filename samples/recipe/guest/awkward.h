/* Helpers shared by the awkward program's parts. */
#ifndef AWKWARD_H
#define AWKWARD_H

#include <stddef.h>
#include <sys/types.h>

#define PAGE 4096UL
#define HUGE (2UL << 20)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

struct role {
	const char *name;
	void (*run)(void);
};

extern const struct role area_roles[], file_roles[], kernel_roles[], process_roles[],
	kept_roles[], holder_roles[], machine_roles[], victim_roles[], storm_roles[], rare_roles[], apart_roles[];

/* Say in /run/log/ROLE what was made, or why it was not. */
void made(const char *step, const void *start, size_t size);
void failed(const char *step);

/* Tell init that the role is set up, then sleep for ever. */
void ready(void) __attribute__((noreturn));
void ready_file(void);
void sleep_for_ever(void) __attribute__((noreturn));

/* Map memory; NULL (and a line in the log) when it cannot be done. */
void *map(const char *step, void *at, size_t size, int protection, int flags, int fd,
	  off_t offset);
void *anonymous(const char *step, size_t size);
void *aligned(const char *step, size_t size, size_t alignment);

/* Write something recognizable into each page. */
void touch(void *start, size_t size);

/* A new file of the given size; -1 (and a line in the log) when it fails. */
int file(const char *path, size_t size);

/* Fork a child that runs, reports and sleeps; wait for its report. */
pid_t child(const char *comm, void (*run)(void *), void *argument);

void set_comm(const char *name);

#endif
