/* Areas that nobody touches, to hide things in. */
#ifndef DECOYS_H
#define DECOYS_H

#include <stddef.h>

/* Map them, and say where they are: a line for the console; negative if it cannot be done. */
int decoys(char *line, size_t room);

#endif
