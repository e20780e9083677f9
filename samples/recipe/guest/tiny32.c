/* A 32-bit program without any library: touch a page, report, pause. */
static char page[8192];

static inline long call3(long number, long a, long b, long c)
{
	long result;

	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(number), "b"(a), "c"(b), "d"(c)
			 : "memory");
	return result;
}

void _start(void);

void _start(void)
{
	static const char path[] = "/run/ready/tiny32";
	long fd;

	page[0] = 1;
	page[4096] = 2;
	fd = call3(5, (long)path, 0101, 0644); /* open, O_CREAT | O_WRONLY */
	if (fd >= 0)
		call3(6, fd, 0, 0); /* close */
	for (;;)
		call3(29, 0, 0, 0); /* pause */
}
