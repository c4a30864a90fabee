/*
 * Makes the system-call fuzzer trinity call remap_page_table(2), which it does
 * not know. Replaces syscall(3), and makes the call before every fourth call
 * of the processes that do the fuzzing.
 *
 * The process drops CAP_SYS_RAWIO first, so that tables are mapped read-only:
 * trinity writes to all memory that it has mapped.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/capability.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/remap_page_table.h>

#ifndef __NR_remap_page_table
#define __NR_remap_page_table 451
#endif

/* Shared by all of trinity's processes. */
static struct counts {
	unsigned long calls, mapped;
	long parent;
} *counts;

static long raw(long nr, long a, long b, long c, long d, long e, long f)
{
	register long x8 asm("x8") = nr;
	register long x0 asm("x0") = a;
	register long x1 asm("x1") = b;
	register long x2 asm("x2") = c;
	register long x3 asm("x3") = d;
	register long x4 asm("x4") = e;
	register long x5 asm("x5") = f;

	asm volatile("svc #0" : "+r"(x0)
		     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
		     : "memory");
	return x0;
}

static void __attribute__((constructor)) drop_raw_io(void)
{
	struct __user_cap_header_struct header = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2];
	unsigned int mask = ~(1U << CAP_SYS_RAWIO);

	counts = mmap(NULL, sizeof(*counts), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (counts == MAP_FAILED)
		_exit(3);
	counts->parent = getpid();
	if (raw(SYS_capget, (long)&header, (long)data, 0, 0, 0, 0))
		_exit(3);
	data[0].effective &= mask;
	data[0].permitted &= mask;
	data[0].inheritable = 0;
	if (raw(SYS_capset, (long)&header, (long)data, 0, 0, 0, 0))
		_exit(3);
}

static void __attribute__((destructor)) report(void)
{
	if (counts->parent == getpid())
		printf("\nremap_page_table: %lu calls, %lu mapped\n", counts->calls,
		       counts->mapped);
}

static void remap(long a, long b, long c, long d)
{
	static const unsigned int flags[] = {
		0, 0, 0, EXPOSE_PGTBL_ADDR, EXPOSE_PGTBL_ADDR, EXPOSE_PGTBL_FLUSH,
		EXPOSE_PGTBL_INFO, EXPOSE_PGTBL_PATH,
	};
	static unsigned long seen;
	struct expose_pgtbl_args args = {
		.pid = d & 1 ? 0 : raw(SYS_getppid, 0, 0, 0, 0, 0, 0),
		.remap_vaddr = a & ~(sysconf(_SC_PAGESIZE) - 1),
		.pfn = d & 2 ? seen : (unsigned long)b,
		.level = (c & 3) | flags[(d >> 2) & 7],
	};

	__atomic_add_fetch(&counts->calls, 1, __ATOMIC_RELAXED);
	if (!raw(__NR_remap_page_table, (long)&args, 0, 0, 0, 0, 0)) {
		__atomic_add_fetch(&counts->mapped, 1, __ATOMIC_RELAXED);
		seen = args.pfn;
	}
}

long syscall(long nr, ...)
{
	static unsigned long turn;
	long a[6], ret;
	va_list list;

	va_start(list, nr);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(list, long);
	va_end(list);
	/* Not in the first process: the call would replace memory that it needs. */
	if (counts && counts->parent != getpid() && ++turn % 4 == 0)
		remap(a[0], a[1], a[2], turn / 4);
	ret = raw(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
	if (ret >= 0 || ret <= -4096)
		return ret;
	errno = -ret;
	return -1;
}
