/* What the parts of the storms share. */
#ifndef STORMS_H
#define STORMS_H

#include <sys/mman.h>

#ifndef MADV_COLD
#define MADV_COLD 20
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#define RW (PROT_READ | PROT_WRITE)
#define PRIVATE (MAP_PRIVATE | MAP_ANONYMOUS)
#define WORKERS 4

extern const char big[]; /* a file of 4 MiB */

void rest(long milliseconds);
unsigned below(unsigned limit);

/* Wait for children so that no more than some are left. */
void reap(int *alive, int most);

/* Threads of the same work; the second lets each wait until all are there. */
void workers(void *(*work)(void *)) __attribute__((noreturn));
void all_are_there(void);

/* Map the areas that are never touched again, and tell init that the storm has begun. */
void begin(void);

/* A hierarchy of control groups, and one in it with a limit, which this process enters; a word for a file in it. */
void confine(const char *group, const char *limit, const char *most);
void note(const char *name, const char *text);

#endif
