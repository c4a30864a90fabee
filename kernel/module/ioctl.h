/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
#ifndef _REMAP_PAGE_TABLE_IOCTL_H
#define _REMAP_PAGE_TABLE_IOCTL_H

#include <linux/ioctl.h>
#include <linux/remap_page_table.h>

#define REMAP_PAGE_TABLE_TYPE	0xe2

/*
 * On /dev/remap_page_table: the argument is a descriptor of /proc/PID/mem.
 * Returns a descriptor for the tables of that process.
 */
#define REMAP_PAGE_TABLE_OPEN	_IO(REMAP_PAGE_TABLE_TYPE, 0)

/* On that descriptor: as remap_page_table(2), with @pid 0. */
#define REMAP_PAGE_TABLE_CALL \
	_IOWR(REMAP_PAGE_TABLE_TYPE, 1, struct expose_pgtbl_args)

/*
 * What only the module has, since it runs on kernels as they are.
 */

/* @level: lookup level 0, where the root is at level -1 */
#define EXPOSE_PGTBL_LEVEL_0	0x80U

/* struct expose_pgtbl_info, bits of @features */
/* mremap() moves tables of level 2: a path is right if all its slots are. */
#define EXPOSE_PGTBL_MOVING_L2	0x100U
/* A root table is no page of its own: a read-only copy of it is mapped. */
#define EXPOSE_PGTBL_ROOT_COPY	0x200U

/**
 * struct expose_pgtbl_path5 - a path with five levels
 * @path: @size is that of this struct; @root_level is -1 as an unsigned number
 * @desc_root: the descriptor read at level -1
 */
struct expose_pgtbl_path5 {
	struct expose_pgtbl_path path;
	__u64	desc_root;
};

#endif /* _REMAP_PAGE_TABLE_IOCTL_H */
