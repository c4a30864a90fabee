// SPDX-License-Identifier: MIT
/*
 * An example of an init in C: prints the tree of its page tables, compares each page with pagemap, and powers
 * off. docs/boards.md says how to build and boot it.
 *
 * Pages of level 3 are compared; for blocks only the address is printed.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/remap_page_table.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

/* The number that the series gives the call in Linux 6.1 and in 6.12. */
static const long numbers[] = { 451, 463 };
static long number;
static struct expose_pgtbl_info info = { .size = sizeof(info) };
/* One page for the table of each level; the call replaces it. */
static volatile uint64_t *tables[4];
static int pagemap;
static unsigned long pages, differences;

/* If process 1 ended by itself, the kernel would panic. */
static void end(int status)
{
	fflush(stdout);
	/* Wait until all output has left the machine. */
	tcdrain(1);
	if (getpid() == 1)
		reboot(RB_POWER_OFF);
	exit(status);
}

static void die(const char *what)
{
	printf("c-init: %s: %s\n", what, strerror(errno));
	end(1);
}

/* remap_page_table(2) on the process itself. */
static long call(void *address, unsigned long pfn, unsigned int level)
{
	struct expose_pgtbl_args args = {
		.remap_vaddr = (unsigned long)address, .pfn = pfn, .level = level,
	};

	return syscall(number, &args) ? -1 : (long)args.pfn;
}

/* Finds the number of the call. A kernel that has another call at a number does not know INFO. */
static void ask_for_number(void)
{
	for (unsigned int i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		number = numbers[i];
		if (call(&info, 0, EXPOSE_PGTBL_INFO) >= 0)
			return;
	}
	die("remap_page_table");
}

/* Documentation/admin-guide/mm/pagemap.rst: bits 54:0 of a page's eight bytes. */
static void compare(uint64_t address, uint64_t frame)
{
	uint64_t entry;

	if (pread(pagemap, &entry, sizeof(entry), (address >> info.page_shift) * 8) != sizeof(entry))
		die("pagemap");
	/* pagemap does not show the pages of mapped tables. */
	if (!(entry >> 63))
		return;
	pages++;
	differences += (entry & ((1ULL << 55) - 1)) != frame;
}

/* The frame in a descriptor, for output addresses of at most 48 bits. */
static uint64_t frame_of(uint64_t descriptor)
{
	return (descriptor & ((1ULL << 48) - 1)) >> info.page_shift;
}

static void walk(unsigned int level, uint64_t start)
{
	unsigned int root = 4 - info.levels, entry_bits = info.page_shift - 3;
	unsigned int shift = info.page_shift + (3 - level) * entry_bits;
	unsigned int entries = level == root ? info.root_entries : 1U << entry_bits;
	long frame = call((void *)tables[level], start, level | EXPOSE_PGTBL_ADDR);

	/* The table has been freed since the table above was read. */
	if (frame < 0)
		return;
	printf("%*stable of level %u at %#lx, frame %#lx\n", 2 * (level - root), "", level,
	       (unsigned long)start, frame);
	for (unsigned int i = 0; i < entries; i++) {
		uint64_t descriptor = tables[level][i], address = start + ((uint64_t)i << shift);

		if ((descriptor & 3) == 3 && level < 3) {
			walk(level + 1, address);
		} else if ((descriptor & 3) == 3) {
			printf("        %#lx frame %#lx\n", (unsigned long)address, (unsigned long)frame_of(descriptor));
			compare(address, frame_of(descriptor));
		} else if (descriptor & 1) {
			printf("        %#lx block\n", (unsigned long)address);
		}
	}
}

int main(void)
{
	long size = sysconf(_SC_PAGESIZE);

	/* It may be mounted already. If not, opening pagemap fails. */
	mount("proc", "/proc", "proc", MS_NODEV | MS_NOEXEC | MS_NOSUID, NULL);
	pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (pagemap < 0)
		die("pagemap");
	ask_for_number();
	for (int level = 0; level < 4; level++) {
		tables[level] = mmap(NULL, size, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (tables[level] == MAP_FAILED)
			die("mmap");
	}
	walk(4 - info.levels, 0);
	printf("c-init: %lu pages, %lu differ from pagemap\n", pages, differences);
	end(pages == 0 || differences != 0);
}
