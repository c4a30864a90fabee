// SPDX-License-Identifier: GPL-2.0
/*
 * remap_page_table: map live page-table pages of a process into the caller, on
 * kernels without the system call of that name.
 *
 * Permission.  The caller hands in a descriptor of /proc/PID/mem: the kernel
 * has asked ptrace and the security modules when it was opened.  The file holds
 * the mm, and is known by its operations, which are those of a file that this
 * module has opened itself.
 *
 * Lifetime.  A table page is freed by dropping a page reference, after its
 * entries have been cleared (but for khugepaged before 6.6, which leaves those
 * of a table that a huge page of a file replaces).  Each mapping made here owns a file that owns
 * references to its pages, so no page is reused under a mapping.
 *
 * Finding a table.  The lock of the mm is held for reading.  That keeps tables
 * in their places: mremap() and khugepaged hold it for writing.  It does not
 * keep them from being freed: munmap() downgrades the lock, MADV_DONTNEED may
 * hold that of a vma alone, and truncation takes shared tables of hugetlbfs out
 * of a tree without any.  Whoever frees a table clears the descriptor that leads
 * to it first, and frees the page after an RCU grace period or an interrupt at
 * every CPU.  So interrupts are off, as in GUP-fast, from the first descriptor
 * that is read to the reference that is taken; then the slot is read again.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/anon_inodes.h>
#include <linux/capability.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/hugetlb.h>
#include <linux/log2.h>
#include <linux/magic.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/mmu_notifier.h>
#include <linux/module.h>
#include <linux/pgtable.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/security.h>
#include <linux/slab.h>
#include <linux/swapops.h>
#include <linux/uaccess.h>

#include <asm/sysreg.h>
#include <asm/tlbflush.h>

#include "ioctl.h"

/*
 * Levels are the lookup levels of the Arm ARM, -1 to 3; the generic accessors
 * cannot serve because they fold levels by name.
 */
#define LAST_LEVEL	3

#define FLAGS_HERE	(EXPOSE_PGTBL_ADDR | EXPOSE_PGTBL_FLUSH | \
			 EXPOSE_PGTBL_INFO | EXPOSE_PGTBL_PATH | \
			 EXPOSE_PGTBL_RANGE)
/* These need what the kernel does not export. */
#define FLAGS_OF_CALL	(EXPOSE_PGTBL_ADOPT | EXPOSE_PGTBL_LEND | \
			 EXPOSE_PGTBL_TAKE | EXPOSE_PGTBL_TRACK)

/* Descriptors that are read with interrupts off. */
#define READ_AT_ONCE	512U
/* Tables that one call maps at most: what a page has pointers for. */
#define MAX_TABLES	512U
/* Pages that are invalidated one by one, at most. */
#define MAX_TLBIS	512UL

#ifndef TCR_DS
#define TCR_DS		BIT_ULL(59)
#endif

/* The operations of /proc/PID/mem. */
static const struct file_operations *mem_fops;

/* Tables with a reference each, in the order of their mapping. */
struct table_set {
	unsigned int nr;
	struct mm_struct *mm;	/* which is charged with them, or NULL */
	struct page **page;
};

/* The levels that are in use; the kernel may have been built for more. */
static int root_level(void)
{
	unsigned int bits = vabits_actual - PAGE_SHIFT;

	return LAST_LEVEL + 1 - (int)DIV_ROUND_UP(bits, PAGE_SHIFT - 3);
}

static unsigned int table_index(unsigned long addr, int level)
{
	return (addr >> ARM64_HW_PGTABLE_LEVEL_SHIFT(level)) &
	       (PTRS_PER_PTE - 1);
}

static unsigned int table_entries(int level)
{
	if (level > root_level())
		return PTRS_PER_PTE;
	return TASK_SIZE_64 >> ARM64_HW_PGTABLE_LEVEL_SHIFT(level);
}

/* Smaller ones lie beside those of other processes: arch/arm64/mm/pgd.c. */
static bool root_is_page(void)
{
	return table_entries(root_level()) == PTRS_PER_PTE;
}

/* A block descriptor has bit 1 clear, and so has every entry not valid. */
static bool is_table(pteval_t desc)
{
	return (desc & PMD_TYPE_MASK) == PMD_TYPE_TABLE;
}

static pteval_t *next_table(pteval_t desc)
{
	return __va(__pte_to_phys(__pte(desc)));
}

static void free_set(struct table_set *set)
{
	unsigned int i;

	for (i = 0; i < set->nr; i++)
		put_page(set->page[i]);
	if (set->mm) {
		account_locked_vm(set->mm, set->nr, false);
		mmdrop(set->mm);
	}
	kfree(set->page);
	kfree(set);
}

static struct table_set *alloc_set(unsigned int max)
{
	struct table_set *set;

	set = kzalloc(sizeof(*set), GFP_KERNEL_ACCOUNT);
	if (!set)
		return NULL;
	set->page = kmalloc_array(max, sizeof(*set->page), GFP_KERNEL_ACCOUNT);
	if (set->page)
		return set;
	kfree(set);
	return NULL;
}

/* A walk over the tables of one level below the root, by their addresses. */
struct table_walk {
	struct mm_struct *mm;	/* whose lock is held for reading */
	int level;
	bool write;		/* the tables will be writable */
	bool any;		/* every table is wanted, or that of @pfn */
	unsigned long pfn;
	unsigned long next;	/* what lies before has been looked at */
	unsigned long end;
	/* What the last table that was found translates, and what led to it. */
	unsigned long addr;
	pteval_t desc;
};

/* Interrupts are off.  Returns NULL if @slot does not hold @desc any more. */
static struct page *pin_table(const pteval_t *slot, pteval_t desc)
{
	struct page *page = virt_to_page(next_table(desc));

	if (!get_page_unless_zero(page))
		return NULL;
	if (READ_ONCE(*slot) == desc)
		return page;
	/* Not the last reference: that goes when this section has ended. */
	put_page(page);
	return NULL;
}

/*
 * Whether the kernel may give the table at the level of @walk that translates
 * @addr to other processes, now or while it is mapped: huge_pmd_share().
 */
static bool may_be_shared(const struct table_walk *walk, unsigned long addr)
{
	struct vm_area_struct *vma;

	if (walk->level != LAST_LEVEL - 1)
		return false;
	vma = vma_lookup(walk->mm, addr);
	return vma && is_vm_hugetlb_page(vma) && vma->vm_flags & VM_MAYSHARE;
}

/*
 * Interrupts are off.  Look at a part of the table above the level of @walk, or
 * of one above that which has no table to descend to.
 */
static struct page *pin_in_part(struct table_walk *walk)
{
	pteval_t *table = (pteval_t *)walk->mm->pgd;
	unsigned int i, last;
	unsigned long size;
	int l;

	for (l = root_level(); l + 1 < walk->level; l++) {
		pteval_t desc = READ_ONCE(table[table_index(walk->next, l)]);

		if (!is_table(desc))
			break;
		table = next_table(desc);
	}
	size = 1UL << ARM64_HW_PGTABLE_LEVEL_SHIFT(l);
	i = table_index(walk->next, l);
	last = min(i + READ_AT_ONCE, table_entries(l));

	for (; i < last && walk->next < walk->end; i++) {
		pteval_t desc = READ_ONCE(table[i]);
		struct page *page;

		if (is_table(desc) && l + 1 < walk->level)
			break;
		walk->addr = ALIGN_DOWN(walk->next, size);
		walk->next = walk->addr + size;
		walk->desc = desc;
		if (!is_table(desc) ||
		    !(walk->any || pte_pfn(__pte(desc)) == walk->pfn))
			continue;
		if (walk->write && may_be_shared(walk, walk->addr))
			return ERR_PTR(-EBUSY);
		page = pin_table(&table[i], desc);
		if (page)
			return page;
	}
	return NULL;
}

/* Returns the next table of @walk with a reference, or NULL. */
static struct page *pin_next(struct table_walk *walk)
{
	struct page *page = NULL;

	while (!page && walk->next < walk->end) {
		if (fatal_signal_pending(current))
			return ERR_PTR(-EINTR);
		cond_resched();
		local_irq_disable();
		page = pin_in_part(walk);
		local_irq_enable();
	}
	return page;
}

/* Returns a page with a copy of the root table, which is smaller. */
static struct page *copy_root(struct mm_struct *mm)
{
	pteval_t *root = (pteval_t *)mm->pgd, *copy;
	struct page *page;
	unsigned int i;

	page = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	if (!page)
		return ERR_PTR(-ENOMEM);
	copy = page_address(page);
	for (i = 0; i < table_entries(root_level()); i++)
		copy[i] = READ_ONCE(root[i]);
	return page;
}

/* What is asked of the process that a descriptor is for. */
struct request {
	struct mm_struct *mm;	/* with a reference to its tables */
	bool may_write;		/* the descriptor was opened for writing */
	int level;
	bool by_frame;		/* the table has the frame number @pfn */
	unsigned int flag;
	unsigned long remap_vaddr;
	unsigned long pfn;
};

static unsigned long root_pfn(const struct request *req)
{
	return virt_to_pfn(req->mm->pgd);
}

/* Returns the table that is asked for with a reference, or NULL. */
static struct page *pin_one(const struct request *req, bool write,
			    unsigned long *pfn)
{
	struct table_walk walk = {
		.mm	= req->mm,
		.level	= req->level,
		.write	= write,
		.any	= !req->by_frame,
		.pfn	= req->pfn,
		.next	= req->by_frame ? 0 : req->pfn,
		.end	= req->by_frame ? TASK_SIZE_64 : req->pfn + 1,
	};
	struct page *page;

	if (req->level > root_level()) {
		if (mmap_read_lock_killable(req->mm))
			return ERR_PTR(-EINTR);
		page = pin_next(&walk);
		mmap_read_unlock(req->mm);
		if (!IS_ERR_OR_NULL(page))
			*pfn = page_to_pfn(page);
		return page;
	}
	/* It lives as long as the mm. */
	*pfn = root_pfn(req);
	if (req->by_frame && req->pfn != *pfn)
		return NULL;
	if (root_is_page()) {
		page = virt_to_page(req->mm->pgd);
		get_page(page);
		return page;
	}
	return write ? ERR_PTR(-EOPNOTSUPP) : copy_root(req->mm);
}

#ifndef HAVE_VM_FLAGS_MOD
static void vm_flags_mod(struct vm_area_struct *vma, unsigned long set,
			 unsigned long clear)
{
	vma->vm_flags = (vma->vm_flags | set) & ~clear;
}
#endif

static int page_table_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct table_set *set = file->private_data;
	unsigned long addr = vma->vm_start;
	unsigned int i;
	int ret = 0;

	if (vma->vm_pgoff || vma_pages(vma) != set->nr)
		return -EINVAL;
	/* Not inherited: a child would share it and not know. */
	vm_flags_mod(vma, VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP |
		     VM_DONTCOPY, VM_EXEC | VM_MAYEXEC);
	vma->vm_page_prot = vm_get_page_prot(vma->vm_flags);
	for (i = 0; i < set->nr && !ret; i++, addr += PAGE_SIZE)
		ret = remap_pfn_range(vma, addr, page_to_pfn(set->page[i]),
				      PAGE_SIZE, vma->vm_page_prot);
	return ret;
}

static int page_table_release(struct inode *inode, struct file *file)
{
	free_set(file->private_data);
	return 0;
}

/* Never gets a descriptor: only a mapping holds such a file. */
static const struct file_operations page_table_fops = {
	.owner		= THIS_MODULE,
	.mmap		= page_table_mmap,
	.release	= page_table_release,
};

/*
 * Returns what all mappings of the caller from @addr to @end permit, as PROT_*
 * bits; an error if there is a hole between them, or no address at @end.
 */
static long common_prot(unsigned long addr, unsigned long end)
{
	unsigned long prot = PROT_READ | PROT_WRITE;

	if (end <= addr)
		return -EINVAL;
	if (mmap_read_lock_killable(current->mm))
		return -EINTR;
	while (addr < end) {
		struct vm_area_struct *vma = vma_lookup(current->mm, addr);

		/* A page of hugetlbfs cannot be replaced in part. */
		if (!vma || is_vm_hugetlb_page(vma)) {
			mmap_read_unlock(current->mm);
			return -EINVAL;
		}
		if (!(vma->vm_flags & VM_READ))
			prot &= ~PROT_READ;
		if (!(vma->vm_flags & VM_WRITE))
			prot &= ~PROT_WRITE;
		addr = vma->vm_end;
	}
	mmap_read_unlock(current->mm);
	return prot;
}

/* Who can write a table can reach all of physical memory. */
static int may_write_tables(const struct request *req)
{
	if (!req->may_write)
		return -EACCES;
	if (!capable(CAP_SYS_RAWIO))
		return -EPERM;
	return security_locked_down(LOCKDOWN_DEV_MEM);
}

/*
 * Returns the protection of a mapping over @nr pages of the caller, if that is
 * permitted.
 */
static long table_prot(const struct request *req, unsigned long nr)
{
	long prot, ret;

	prot = common_prot(req->remap_vaddr,
			   req->remap_vaddr + (nr << PAGE_SHIFT));
	if (prot < 0 || !(prot & PROT_WRITE))
		return prot;
	ret = may_write_tables(req);
	return ret ? ret : prot;
}

/*
 * Returns the mapping of tables that covers @nr pages from @addr on and is like
 * the one that would be made there, or NULL.
 */
static struct vm_area_struct *find_like(unsigned long addr, unsigned int nr,
					unsigned long prot)
{
	struct vm_area_struct *vma = vma_lookup(current->mm, addr);
	struct table_set *mapped;
	struct file *file;

	if (!vma || nr > (vma->vm_end - addr) >> PAGE_SHIFT)
		return NULL;
	file = vma->vm_file;
	if (!file || file->f_op != &page_table_fops)
		return NULL;
	/* The rest of a larger one is replaced, so that all of it is released. */
	mapped = file->private_data;
	if (nr == vma_pages(vma) && nr < mapped->nr)
		return NULL;
	/* mprotect() permits what the file does, whoever the caller is then. */
	if (!(file->f_mode & FMODE_WRITE) != !(prot & PROT_WRITE))
		return NULL;
	if (!(vma->vm_flags & VM_READ) != !(prot & PROT_READ) ||
	    !(vma->vm_flags & VM_WRITE) != !(prot & PROT_WRITE))
		return NULL;
	return vma;
}

/*
 * Exchange pages of @vma from @addr on for those of @set.  The charge stays, and
 * nothing is allocated: page tables of @vma are there since it was made.
 */
static int exchange_tables(struct vm_area_struct *vma, unsigned long addr,
			   struct table_set *set)
{
	struct table_set *mapped = vma->vm_file->private_data;
	struct page **page = mapped->page + vma->vm_pgoff +
			     ((addr - vma->vm_start) >> PAGE_SHIFT);
	unsigned int i;

	/*
	 * Later kernels lock @vma here: no fault under that lock alone may find
	 * an empty entry.
	 */
	vm_flags_mod(vma, 0, 0);
	for (i = 0; i < set->nr; i++)
		swap(page[i], set->page[i]);
	zap_vma_ptes(vma, addr, (unsigned long)set->nr << PAGE_SHIFT);
	for (i = 0; i < set->nr; i++, addr += PAGE_SIZE)
		if (vmf_insert_pfn(vma, addr, page_to_pfn(page[i])) !=
		    VM_FAULT_NOPAGE)
			return -ENOMEM;
	return 0;
}

/* Map @set in a mapping of tables that is there.  Returns 1 if there is none. */
static long map_within(struct table_set *set, unsigned long addr,
		       unsigned long prot)
{
	struct vm_area_struct *vma;
	long ret = 1;

	if (mmap_write_lock_killable(current->mm))
		return -EINTR;
	vma = find_like(addr, set->nr, prot);
	if (vma)
		ret = exchange_tables(vma, addr, set);
	mmap_write_unlock(current->mm);
	return ret;
}

/* Map @set over the pages from @addr on.  Consumes it. */
static long map_set(struct table_set *set, unsigned long addr,
		    unsigned long prot)
{
	struct file *file;
	long ret;

	ret = map_within(set, addr, prot);
	if (ret <= 0) {
		/* After an exchange, these are the tables that were there. */
		free_set(set);
		return ret;
	}
	/*
	 * They stay in memory when their process has freed them, and are no
	 * part of anyone's RSS.
	 */
	ret = account_locked_vm(current->mm, set->nr, true);
	if (ret) {
		free_set(set);
		return ret;
	}
	set->mm = current->mm;
	mmgrab(set->mm);

	/* Without FMODE_WRITE the mapping cannot become writable later. */
	file = anon_inode_getfile("[page_table]", &page_table_fops, set,
				  prot & PROT_WRITE ? O_RDWR : O_RDONLY);
	if (IS_ERR(file)) {
		free_set(set);
		return PTR_ERR(file);
	}
	ret = vm_mmap(file, addr, (unsigned long)set->nr << PAGE_SHIFT, prot,
		      MAP_SHARED | MAP_FIXED, 0);
	fput(file);
	return IS_ERR_VALUE(ret) ? ret : 0;
}

static long map_table(const struct request *req,
		      struct expose_pgtbl_args __user *uargs)
{
	struct table_set *set;
	unsigned long pfn;
	long prot, ret;

	prot = table_prot(req, 1);
	if (prot < 0)
		return prot;
	set = alloc_set(1);
	if (!set)
		return -ENOMEM;
	set->page[0] = pin_one(req, prot & PROT_WRITE, &pfn);
	if (IS_ERR_OR_NULL(set->page[0])) {
		ret = set->page[0] ? PTR_ERR(set->page[0]) : -ENOENT;
		free_set(set);
		return ret;
	}
	set->nr = 1;

	/* Before the mapping is made: @uargs may lie in the replaced page. */
	if (put_user(pfn, &uargs->pfn)) {
		free_set(set);
		return -EFAULT;
	}
	ret = map_set(set, req->remap_vaddr, prot);
	/* For another attempt, if it does not lie in a page that is gone now. */
	if (ret)
		put_user(req->pfn, &uargs->pfn);
	return ret;
}

/* Fills @set and @tables as @range asks, and @range with how far it came. */
static int pin_range(const struct request *req, bool write,
		     struct expose_pgtbl_range *range, struct table_set *set,
		     struct expose_pgtbl_table *tables)
{
	struct table_walk walk = {
		.mm	= req->mm,
		.level	= req->level,
		.write	= write,
		.any	= true,
		.next	= range->start,
		.end	= range->end,
	};

	while (set->nr < range->count) {
		struct page *page = pin_next(&walk);

		/* The next call begins with what this one cannot map. */
		if (page == ERR_PTR(-EBUSY) && set->nr) {
			walk.next = walk.addr;
			break;
		}
		if (IS_ERR(page))
			return PTR_ERR(page);
		if (!page)
			break;
		tables[set->nr].addr = walk.addr;
		tables[set->nr].desc = walk.desc;
		set->page[set->nr++] = page;
	}
	range->count = set->nr;
	range->start = min(walk.next, walk.end);
	return 0;
}

static int get_range(struct expose_pgtbl_range *range, const void __user *from)
{
	u32 size;
	int ret;

	BUILD_BUG_ON(sizeof(*range) != EXPOSE_PGTBL_RANGE_SIZE_VER0);
	if (get_user(size, (u32 __user *)from))
		return -EFAULT;
	if (size < EXPOSE_PGTBL_RANGE_SIZE_VER0)
		return -EINVAL;
	if (size > PAGE_SIZE)
		return -E2BIG;
	ret = copy_struct_from_user(range, sizeof(*range), from, size);
	if (ret)
		return ret;
	range->start = untagged_addr(range->start);
	range->end = untagged_addr(range->end);
	if (!range->count || range->start >= range->end ||
	    range->end > TASK_SIZE_64)
		return -EINVAL;
	return 0;
}

static long map_range(const struct request *req)
{
	struct expose_pgtbl_range __user *urange = (void __user *)req->pfn;
	struct expose_pgtbl_range range, asked;
	struct expose_pgtbl_table *tables;
	struct table_set *set;
	long prot, ret;

	ret = get_range(&range, urange);
	if (ret)
		return ret;
	asked = range;
	range.count = min(range.count, MAX_TABLES);
	prot = table_prot(req, range.count);
	if (prot < 0)
		return prot;

	set = alloc_set(range.count);
	if (!set)
		return -ENOMEM;
	ret = -ENOMEM;
	tables = kmalloc_array(range.count, sizeof(*tables), GFP_KERNEL);
	if (!tables)
		goto free;
	ret = mmap_read_lock_killable(req->mm);
	if (ret)
		goto free;
	ret = pin_range(req, prot & PROT_WRITE, &range, set, tables);
	mmap_read_unlock(req->mm);
	if (ret)
		goto free;

	/* Before the mapping is made: these may lie in the replaced pages. */
	ret = -EFAULT;
	if (copy_to_user(u64_to_user_ptr(range.tables), tables,
			 array_size(set->nr, sizeof(*tables))) ||
	    copy_to_user(urange, &range, sizeof(range)))
		goto free;
	kfree(tables);
	if (!set->nr) {
		free_set(set);
		return 0;
	}
	ret = map_set(set, req->remap_vaddr, prot);
	/* For another attempt, if they do not lie in a page that is gone now. */
	if (ret) {
		put_user(asked.count, &urange->count);
		put_user(asked.start, &urange->start);
	}
	return ret;

free:
	kfree(tables);
	free_set(set);
	return ret;
}

/*
 * As flush_tlb_range() and flush_tlb_mm(), which tell secondary MMUs by a
 * function that is not exported; here the mm has none.  Entries may have changed
 * at every level, so no leaf-only TLBI.  With KPTI user space has an ASID of its
 * own.  Some kernels keep __tlbi_user() and __TLBI_VADDR() to their headers.
 */
static void flush_tlb(struct mm_struct *mm, unsigned long addr,
		      unsigned long pages)
{
	u64 user = arm64_kernel_unmapped_at_el0() ? USER_ASID_FLAG : 0;
	u64 asid;

	/* First: who has a later ASID then sees the entries, see asm/mmu.h. */
	dsb(ishst);
	asid = (u64)ASID(mm) << 48;
	if (!pages || pages > MAX_TLBIS) {
		__tlbi(aside1is, asid);
		if (user)
			__tlbi(aside1is, asid | user);
		pages = 0;
	}
	for (; pages; pages--, addr += PAGE_SIZE) {
		u64 arg = asid | (addr >> 12 & GENMASK_ULL(43, 0));

		__tlbi(vae1is, arg);
		if (user)
			__tlbi(vae1is, arg | user);
	}
	dsb(ish);
	/* Otherwise __tlbi() repeats it on CPUs that need that. */
#ifdef __repeat_tlbi_sync
	__repeat_tlbi_sync(vale1is, 0);
#endif
}

/* Whether the TLBs of this machine need a function that is not exported. */
static bool cannot_flush(void)
{
#ifdef CONFIG_ARM64_ERRATUM_4193714
	return alternative_has_cap_unlikely(ARM64_WORKAROUND_4193714);
#else
	return false;
#endif
}

static long flush_pages(const struct request *req)
{
	long ret = 0;

	if (req->remap_vaddr > TASK_SIZE_64 ||
	    req->pfn > (TASK_SIZE_64 - req->remap_vaddr) >> PAGE_SHIFT)
		return -EINVAL;
	if (cannot_flush())
		return -EOPNOTSUPP;
	/* Nobody subscribes to the notifiers: mm_take_all_locks(). */
	if (mmap_read_lock_killable(req->mm))
		return -EINTR;
	if (mm_has_notifiers(req->mm))
		ret = -EBUSY;
	else
		flush_tlb(req->mm, req->remap_vaddr, req->pfn);
	mmap_read_unlock(req->mm);
	return ret;
}

/* Copy a struct that begins with its size, as large as the caller knows it. */
static long copy_sized(unsigned long addr, const void *from, u32 size, u32 min)
{
	void __user *to = (void __user *)addr;
	u32 usize;

	if (get_user(usize, (u32 __user *)to))
		return -EFAULT;
	if (usize < min)
		return -EINVAL;
	if (copy_to_user(to, from, min(usize, size)))
		return -EFAULT;
	return 0;
}

/* The first type of swap entries of a kind, if this kernel has the kind. */
#define SWP_TYPE(kind, before) \
	(SWP_##kind##_NUM ? MAX_SWAPFILES + (before) : EXPOSE_PGTBL_NO_BIT)

static u32 features(u64 tcr)
{
	u32 bits = 0;

	if (tcr & TCR_HA)
		bits |= EXPOSE_PGTBL_HW_AF;
	if (tcr & TCR_HD)
		bits |= EXPOSE_PGTBL_HW_DBM;
	if (IS_ENABLED(CONFIG_HAVE_MOVE_PUD))
		bits |= EXPOSE_PGTBL_MOVING_L2;
	if (!root_is_page())
		bits |= EXPOSE_PGTBL_ROOT_COPY;
	return bits;
}

/* 4K and 16K pages have 52 bits only with LPA2, which TCR_EL1.DS enables. */
static u32 output_bits(u64 tcr)
{
	if (PAGE_SHIFT < 16 && !(tcr & TCR_DS))
		return min(PHYS_MASK_SHIFT, 48);
	return PHYS_MASK_SHIFT;
}

static long fill_info(const struct request *req)
{
	u64 tcr = read_sysreg(tcr_el1);
	struct expose_pgtbl_info info = {
		.size			= sizeof(info),
		.page_shift		= PAGE_SHIFT,
		.va_bits		= vabits_actual,
		.levels			= LAST_LEVEL + 1 - root_level(),
		.root_entries		= table_entries(root_level()),
		.oa_bits		= output_bits(tcr),
		.mair			= read_sysreg(mair_el1),
		.features		= features(tcr),
		.flags			= FLAGS_HERE,
		.bit_write		= ilog2(PTE_WRITE),
		.bit_dirty		= ilog2(PTE_DIRTY),
		.bit_special		= ilog2(PTE_SPECIAL),
#ifdef PTE_DEVMAP
		.bit_devmap		= ilog2(PTE_DEVMAP),
#else
		.bit_devmap		= EXPOSE_PGTBL_NO_BIT,
#endif
#ifdef PTE_PRESENT_INVALID
		.bit_prot_none		= ilog2(PTE_PRESENT_INVALID),
		.bit_present_invalid	= ilog2(PTE_PRESENT_INVALID),
#else
		.bit_prot_none		= ilog2(PTE_PROT_NONE),
		.bit_present_invalid	= ilog2(PMD_PRESENT_INVALID),
#endif
		.bit_swp_exclusive	= ilog2(PTE_SWP_EXCLUSIVE),
#ifdef PTE_UFFD_WP
		.bit_uffd_wp		= PTE_UFFD_WP ? ilog2(PTE_UFFD_WP) :
						      EXPOSE_PGTBL_NO_BIT,
#else
		.bit_uffd_wp		= EXPOSE_PGTBL_NO_BIT,
#endif
		.swp_type_shift		= __SWP_TYPE_SHIFT,
		.swp_type_bits		= __SWP_TYPE_BITS,
		.swp_offset_shift	= __SWP_OFFSET_SHIFT,
		.swp_offset_bits	= __SWP_OFFSET_BITS,
		.swp_hwpoison		= SWP_TYPE(HWPOISON, 0),
		.swp_migration		= SWP_TYPE(MIGRATION, SWP_HWPOISON_NUM),
		.swp_device		= SWP_TYPE(DEVICE, SWP_HWPOISON_NUM +
						   SWP_MIGRATION_NUM),
		.swp_marker		= SWP_TYPE(PTE_MARKER, SWP_HWPOISON_NUM +
						   SWP_MIGRATION_NUM +
						   SWP_DEVICE_NUM),
	};

	BUILD_BUG_ON(sizeof(info) != EXPOSE_PGTBL_INFO_SIZE_VER0);
	return copy_sized(req->remap_vaddr, &info, sizeof(info),
			  EXPOSE_PGTBL_INFO_SIZE_VER0);
}

/*
 * Reads the descriptors that translate @addr.  Returns false if the table that
 * the last one was read from is not in its place any more.
 */
static bool read_path(struct mm_struct *mm, unsigned long addr,
		      struct expose_pgtbl_path5 *path)
{
	pteval_t *table = (pteval_t *)mm->pgd, *slot = NULL;
	pteval_t desc, above = 0;
	bool same;
	int l;

	memset(path->path.desc, 0, sizeof(path->path.desc));
	local_irq_disable();
	for (l = root_level(); ; l++) {
		pteval_t *entry = &table[table_index(addr, l)];

		desc = READ_ONCE(*entry);
		if (l < 0)
			path->desc_root = desc;
		else
			path->path.desc[l] = desc;
		if (l == LAST_LEVEL || !is_table(desc))
			break;
		slot = entry;
		above = desc;
		table = next_table(desc);
	}
	path->path.last_level = l;
	/* The kernel clears the slot, and flushes TLBs, before it frees. */
	smp_rmb();
	same = !slot || READ_ONCE(*slot) == above;
	local_irq_enable();
	return same;
}

static long fill_path(const struct request *req)
{
	struct expose_pgtbl_path5 path = {
		.path.size	 = root_level() < 0 ? sizeof(path) :
						      sizeof(path.path),
		.path.root_level = root_level(),
		.path.root_pfn	 = root_pfn(req),
	};
	bool proved = false;

	BUILD_BUG_ON(sizeof(path.path) != EXPOSE_PGTBL_PATH_SIZE_VER0);
	if (mmap_read_lock_killable(req->mm))
		return -EINTR;
	while (!proved && !fatal_signal_pending(current)) {
		cond_resched();
		proved = read_path(req->mm, req->pfn, &path);
	}
	mmap_read_unlock(req->mm);
	if (!proved)
		return -EINTR;
	return copy_sized(req->remap_vaddr, &path, path.path.size,
			  EXPOSE_PGTBL_PATH_SIZE_VER0);
}

/* Returns the lookup level that @number in the ABI stands for, or an errno. */
static int level_of(unsigned int number)
{
	int root = root_level();

	if (!number)
		return root;
	if (number == EXPOSE_PGTBL_LEVEL_0 && root < 0)
		return 0;
	if (number > LAST_LEVEL || (int)number < root)
		return -EINVAL;
	return number;
}

static int get_request(struct request *req,
		       const struct expose_pgtbl_args __user *uargs)
{
	struct expose_pgtbl_args args;
	unsigned int number;

	/* The padding at the end is the caller's and may hold anything. */
	if (copy_from_user(&args, uargs, offsetofend(typeof(args), level)))
		return -EFAULT;
	number = args.level & EXPOSE_PGTBL_LEVEL_MASK;
	req->flag = args.level & ~EXPOSE_PGTBL_LEVEL_MASK;
	req->remap_vaddr = args.remap_vaddr;
	req->pfn = args.pfn;
	/* Addresses that are looked up; pointers to structs keep their tags. */
	if (!(req->flag & (EXPOSE_PGTBL_INFO | EXPOSE_PGTBL_PATH)))
		req->remap_vaddr = untagged_addr(args.remap_vaddr);
	if (req->flag & (EXPOSE_PGTBL_ADDR | EXPOSE_PGTBL_PATH))
		req->pfn = untagged_addr(args.pfn);

	if (args.pid || (req->flag & ~(FLAGS_HERE | FLAGS_OF_CALL)) ||
	    (req->flag && !is_power_of_2(req->flag)))
		return -EINVAL;
	if (req->flag & FLAGS_OF_CALL)
		return -EOPNOTSUPP;
	req->level = level_of(number);
	if (req->level < root_level())
		return -EINVAL;
	if (number && req->flag && req->flag != EXPOSE_PGTBL_ADDR &&
	    req->flag != EXPOSE_PGTBL_RANGE)
		return -EINVAL;
	/* A table of these is found in one above it. */
	if (req->flag == EXPOSE_PGTBL_RANGE && req->level == root_level())
		return -EINVAL;
	if (req->flag & (EXPOSE_PGTBL_ADDR | EXPOSE_PGTBL_PATH) &&
	    req->pfn >= TASK_SIZE_64)
		return -EINVAL;
	if (!(req->flag & (EXPOSE_PGTBL_INFO | EXPOSE_PGTBL_PATH)) &&
	    !PAGE_ALIGNED(req->remap_vaddr))
		return -EINVAL;
	req->by_frame = number && !req->flag;
	return 0;
}

/*
 * REMAP_PAGE_TABLE_CALL: as the system call remap_page_table(), see
 * Documentation/admin-guide/mm/remap_page_table.rst of its series, with these
 * differences in errno:
 *
 *  -EACCES     - the table would be writable, and /proc/PID/mem was not opened
 *		  for writing
 *  -EBUSY	- a table of level 2 that hugetlbfs may share with other
 *		  processes would be writable; FLUSH of a process with secondary
 *		  MMUs
 *  -EINVAL     - args->pid is not 0
 *  -EOPNOTSUPP - ADOPT, LEND, TAKE, TRACK; a writable root that would be a copy;
 *		  FLUSH on CPUs with Arm's erratum 4193714
 *  -ESRCH      - the process has ended, or executes another program
 */
static long target_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct expose_pgtbl_args __user *uargs = (void __user *)arg;
	struct request req = {
		.mm		= file->private_data,
		.may_write	= file->f_mode & FMODE_WRITE,
	};
	long ret;

	if (cmd != REMAP_PAGE_TABLE_CALL)
		return -ENOTTY;
	ret = get_request(&req, uargs);
	if (ret)
		return ret;
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (req.flag == EXPOSE_PGTBL_INFO)
		return fill_info(&req);

	if (!mmget_not_zero(req.mm))
		return -ESRCH;
	switch (req.flag) {
	case EXPOSE_PGTBL_PATH:
		ret = fill_path(&req);
		break;
	case EXPOSE_PGTBL_FLUSH:
		ret = flush_pages(&req);
		break;
	case EXPOSE_PGTBL_RANGE:
		ret = map_range(&req);
		break;
	default:
		ret = map_table(&req, uargs);
	}
	mmput(req.mm);
	return ret;
}

static int target_release(struct inode *inode, struct file *file)
{
	mmdrop(file->private_data);
	return 0;
}

static const struct file_operations target_fops = {
	.owner		= THIS_MODULE,
	.unlocked_ioctl	= target_ioctl,
	.release	= target_release,
};

/*
 * REMAP_PAGE_TABLE_OPEN.  Returns a descriptor, or
 *
 *  -EBADF  - @fd is not a descriptor, or not open for reading
 *  -EINVAL - @fd is not of /proc/PID/mem
 *  -EPERM  - no CAP_SYS_ADMIN
 *  -ESRCH  - the process is a kernel thread
 */
static long open_target(unsigned int fd)
{
	struct mm_struct *mm;
	struct file *mem;
	int flags, ret;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	mem = fget(fd);
	if (!mem)
		return -EBADF;
	ret = -EINVAL;
	if (mem->f_op != mem_fops)
		goto put;
	ret = -EBADF;
	if (!(mem->f_mode & FMODE_READ))
		goto put;
	ret = -ESRCH;
	mm = mem->private_data;
	if (!mm)
		goto put;
	mmgrab(mm);
	flags = O_CLOEXEC | (mem->f_mode & FMODE_WRITE ? O_RDWR : O_RDONLY);
	ret = anon_inode_getfd("[remap_page_table]", &target_fops, mm, flags);
	if (ret < 0)
		mmdrop(mm);
put:
	fput(mem);
	return ret;
}

static long device_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	return cmd == REMAP_PAGE_TABLE_OPEN ? open_target(arg) : -ENOTTY;
}

static const struct file_operations device_fops = {
	.owner		= THIS_MODULE,
	.unlocked_ioctl	= device_ioctl,
};

static struct miscdevice device = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "remap_page_table",
	.fops	= &device_fops,
	.mode	= 0600,
};

static int __init remap_page_table_init(void)
{
	struct file *mem = filp_open("/proc/self/mem", O_RDONLY, 0);

	if (IS_ERR(mem)) {
		pr_err("/proc/self/mem: %pe\n", mem);
		return PTR_ERR(mem);
	}
	/* Not anything that somebody has mounted there. */
	if (file_inode(mem)->i_sb->s_magic != PROC_SUPER_MAGIC ||
	    strcmp(file_dentry(mem)->d_name.name, "mem") ||
	    mem->private_data != current->mm) {
		pr_err("/proc/self/mem is not as expected\n");
		filp_close(mem, NULL);
		return -EINVAL;
	}
	mem_fops = mem->f_op;
	filp_close(mem, NULL);
	return misc_register(&device);
}

static void __exit remap_page_table_exit(void)
{
	misc_deregister(&device);
}

module_init(remap_page_table_init);
module_exit(remap_page_table_exit);
MODULE_DESCRIPTION("Maps live page tables of a process");
MODULE_LICENSE("GPL");
