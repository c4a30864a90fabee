//! Random arguments of each form.

use tablewalk_uapi::remap::{
    EXPOSE_PGTBL_ADDR, EXPOSE_PGTBL_ADOPT, EXPOSE_PGTBL_FLUSH, EXPOSE_PGTBL_INFO,
    EXPOSE_PGTBL_INFO_SIZE_VER0, EXPOSE_PGTBL_LEND, EXPOSE_PGTBL_LEVEL_MASK, EXPOSE_PGTBL_PATH,
    EXPOSE_PGTBL_RANGE, EXPOSE_PGTBL_RANGE_SIZE_VER0, EXPOSE_PGTBL_TAKE, ExposePgtblArgs, number,
    path,
};
use tablewalk_uapi::track::{
    EXPOSE_PGTBL_TRACK, EXPOSE_PGTBL_TRACK_ABSENT, EXPOSE_PGTBL_TRACK_ACCESSED,
    EXPOSE_PGTBL_TRACK_ARM, EXPOSE_PGTBL_TRACK_SIZE_VER0, EXPOSE_PGTBL_TRACK_SPLIT,
    EXPOSE_PGTBL_TRACK_STOP, EXPOSE_PGTBL_TRACK_WRITTEN,
};
use tablewalk_uapi::{Errno, Mapping};

use super::oracle::{Allowed, Place, judge};
use super::{SLOTS, STRUCT, THREADS, Thread};
use crate::races::frame_of;

/// Forms that the module may lack.
const FORMS: [u32; 4] = [
    EXPOSE_PGTBL_ADOPT,
    EXPOSE_PGTBL_LEND,
    EXPOSE_PGTBL_TAKE,
    EXPOSE_PGTBL_TRACK,
];

/// Index of the first of the processes that have no tables.
const GONE: usize = 4;

impl Thread<'_> {
    /// Returns random arguments and the results they may have.
    pub(super) fn choose(&mut self) -> (ExposePgtblArgs, Allowed) {
        let (args, allowed) = self.arguments();
        match number() {
            Some(_) => (args, allowed),
            None => (args, self.by_module(&args, allowed)),
        }
    }

    /// Returns what the module may return for these arguments: the process is opened first, and it lacks forms.
    fn by_module(&self, args: &ExposePgtblArgs, allowed: Allowed) -> Allowed {
        let flag = args.level & !EXPOSE_PGTBL_LEVEL_MASK;
        if flag == EXPOSE_PGTBL_INFO {
            return allowed;
        }
        let allowed = if FORMS.contains(&flag) && self.shared.info.flags & flag == 0 {
            Allowed::Exactly(Err(Errno::EOPNOTSUPP))
        } else {
            allowed
        };
        // A parent that has started virtual machines is not flushed by the module.
        let allowed = match allowed {
            Allowed::Exactly(Ok(())) if flag == EXPOSE_PGTBL_FLUSH => Allowed::OrBusy,
            allowed => allowed,
        };
        let known = self.shared.pids.iter().position(|&pid| pid == args.pid);
        match (known, allowed) {
            (Some(GONE..), _) => Allowed::Exactly(Err(Errno::ESRCH)),
            (None, Allowed::Exactly(result)) => Allowed::OrNoProcess(result),
            (_, allowed) => allowed,
        }
    }

    fn arguments(&mut self) -> (ExposePgtblArgs, Allowed) {
        match self.random.below(16) {
            0..=3 => self.by_frame(),
            4 => self.take(),
            5 => self.adopt(),
            6..=8 => self.by_address(),
            9 => self.track(),
            10 => self.flush(),
            11 => self.info(),
            12 | 13 => self.path(),
            14 => self.by_range(),
            _ => self.nonsense(),
        }
    }

    /// Returns a process ID, and whether such a process exists and has tables, if that is known.
    fn pid(&mut self) -> (i32, Option<bool>) {
        let index = usize::try_from(self.random.below(8)).unwrap_or(0);
        match self.shared.pids.get(index) {
            // A process that has ended, a kernel thread, and a number that no process has.
            Some(&pid) if index >= GONE => (pid, Some(false)),
            Some(&pid) => (pid, Some(true)),
            None => {
                let [a, b, ..] = self.random.number().to_le_bytes();
                (i32::from(u16::from_le_bytes([a, b])), None)
            }
        }
    }

    /// Returns a level that exists; 0 is the root.
    fn level(&mut self) -> u32 {
        let steps = u32::try_from(self.random.below(self.shared.info.levels.into())).unwrap_or(0);
        if steps == 0 { 0 } else { 4 - steps }
    }

    /// Returns the address of a page to map a table over.
    fn page(&mut self) -> (u64, Place) {
        let places = self.shared.places;
        let shift = self.shared.info.page_shift;
        let slot = self.random.below(SLOTS) << shift;
        let top = 1_u64 << self.shared.info.va_bits;
        match self.random.below(16) {
            0..=6 => (places.writable.address() + slot, Place::Good),
            7..=12 => (places.read_only.address() + slot, Place::Good),
            13 => (places.without.address(), Place::Good),
            14 => {
                let holes = [0, top, 1 << 63, 1 << shift];
                (self.random.pick(&holes), Place::Bad)
            }
            _ => {
                let odd = self.random.below((1 << shift) - 1) + 1;
                (places.writable.address() + slot + odd, Place::Unaligned)
            }
        }
    }

    fn by_frame(&mut self) -> (ExposePgtblArgs, Allowed) {
        let (pid, exists) = self.pid();
        let (remap_vaddr, place) = self.page();
        let (mut level, frame) = match self.random.below(4) {
            0 => (self.level(), self.random.number()),
            1 => (self.level(), self.random.below(1 << 20)),
            2 => self.random.pick(&self.seen),
            _ => self.real_table(pid),
        };
        if level != 0 && level + self.shared.info.levels < 4 {
            level = 3;
        }
        let args = ExposePgtblArgs {
            pid,
            remap_vaddr,
            pfn: frame,
            level,
        };
        let found = if level == 0 {
            Allowed::Exactly(Ok(()))
        } else {
            Allowed::MaybeNoTable
        };
        (args, judge(place, exists, found))
    }

    /// Returns a table that process `pid` has at this moment.
    fn real_table(&mut self, pid: i32) -> (u32, u64) {
        let address = self.shared.range.part(self.random.below(2));
        match path(pid, address) {
            Ok(path) if path.last_level > path.root_level => {
                let above = path.last_level - 1;
                let descriptor = path.desc.get(above as usize).copied().unwrap_or(0);
                (path.last_level, frame_of(self.shared.info, descriptor))
            }
            _ => (3, 0),
        }
    }

    /// Returns an address below the end of user space, sometimes with a tag in its top byte.
    fn address(&mut self) -> u64 {
        let end = 1 << self.shared.info.va_bits;
        let addresses = [
            0,
            self.shared.range.part(0),
            self.shared.range.part(1) + 8,
            self.shared.places.data.address(),
            end - 1,
            self.random.below(end >> 12) << 12,
        ];
        let tag = if self.random.one_in(8) { 0xa5 << 56 } else { 0 };
        self.random.pick(&addresses) | tag
    }

    fn by_address(&mut self) -> (ExposePgtblArgs, Allowed) {
        let (pid, exists) = self.pid();
        let (remap_vaddr, place) = self.page();
        let level = self.level();
        let beyond = self.random.one_in(16);
        let pfn = if beyond {
            self.random
                .pick(&[1 << self.shared.info.va_bits, 1 << 55, u64::MAX])
        } else {
            self.address()
        };
        let args = ExposePgtblArgs {
            pid,
            remap_vaddr,
            pfn,
            level: level | EXPOSE_PGTBL_ADDR,
        };
        let found = if level == 0 {
            Allowed::Exactly(Ok(()))
        } else {
            Allowed::MaybeNoTable
        };
        if beyond {
            return (args, Allowed::Exactly(Err(Errno::EINVAL)));
        }
        (args, judge(place, exists, found))
    }

    /// Arguments of RANGE. The struct and its array lie in the page of this thread, or at an invalid address.
    fn by_range(&mut self) -> (ExposePgtblArgs, Allowed) {
        let (pid, exists) = self.pid();
        let (remap_vaddr, mut place) = self.page();
        let places = self.shared.places;
        let shift = self.shared.info.page_shift;
        let own = places.data.address() + (self.number << shift);
        let end = 1_u64 << self.shared.info.va_bits;
        let start = self.address();
        let start = start & (end - 1);
        let (start, end, sound) = match self.random.below(8) {
            0 => (start, start, false),
            1 => (start, end + 1, false),
            2 => (0, end, true),
            _ => (
                start,
                (start + self.random.below(1 << 32) + 1).min(end),
                true,
            ),
        };
        let root_level = 4 - self.shared.info.levels;
        let level = self.random.pick(&[3, 3, root_level + 1, root_level]);
        // Map two only if the next page is of the same kind, since it is replaced, too.
        let two = |pages: &Mapping| {
            remap_vaddr >= pages.address()
                && remap_vaddr + (2 << shift) <= pages.address() + pages.size() as u64
        };
        let most = 1 + u32::from(two(&places.writable) || two(&places.read_only));
        let count = self.random.pick(&[1, 1, most, most, 0]);
        if place == Place::Good && (count == 0 || !sound) {
            place = Place::Bad;
        }
        let least = u64::from(EXPOSE_PGTBL_RANGE_SIZE_VER0);
        let size = self.random.pick(&[least, least, least, 0, least - 1]);
        let tables = self.random.pick(&[own + 8 * STRUCT, own + 8 * STRUCT, 8]);
        let words = [u64::from(count) << 32 | size, start, end, tables];
        self.fill_struct(&words);
        let at = self
            .random
            .pick(&[own, own, own, 8, places.without.address()]);
        let args = ExposePgtblArgs {
            pid,
            remap_vaddr,
            pfn: at,
            level: level | EXPOSE_PGTBL_RANGE,
        };
        // An invalid array matters only if there is something to write to it.
        let found = if tables == 8 {
            Allowed::Any
        } else {
            Allowed::Exactly(Ok(()))
        };
        let allowed = if level == root_level || place == Place::Unaligned {
            Allowed::Exactly(Err(Errno::EINVAL))
        } else if at != own {
            Allowed::Exactly(Err(Errno::EFAULT))
        } else if size < least {
            Allowed::Exactly(Err(Errno::EINVAL))
        } else {
            judge(place, exists, found)
        };
        (args, allowed)
    }

    fn flush(&mut self) -> (ExposePgtblArgs, Allowed) {
        let (pid, exists) = self.pid();
        let shift = self.shared.info.page_shift;
        let end = 1_u64 << self.shared.info.va_bits;
        let start = self.random.below(end >> shift) << shift;
        let (pages, fits) = match self.random.below(4) {
            0 => (0, true),
            1 => ((end - start) >> shift, true),
            2 => (((end - start) >> shift) + 1, false),
            _ => (1, true),
        };
        let args = ExposePgtblArgs {
            pid,
            remap_vaddr: start,
            pfn: pages,
            level: EXPOSE_PGTBL_FLUSH,
        };
        let place = if fits { Place::Good } else { Place::Bad };
        (args, judge(place, exists, Allowed::Exactly(Ok(()))))
    }

    /// Arguments of ADOPT or LEND.
    fn adopt(&mut self) -> (ExposePgtblArgs, Allowed) {
        let (pid, exists) = self.pid();
        let places = self.shared.places;
        let shift = self.shared.info.page_shift;
        let own = places.private.address();
        let end = 1_u64 << self.shared.info.va_bits;
        let (address, pages, place) = match self.random.below(8) {
            0 => (places.data.address(), 1, Place::Bad),
            1 => (places.without.address(), 1, Place::Bad),
            2 => (0, 1, Place::Bad),
            3 => (own, ((end - own) >> shift) + 1, Place::Unaligned),
            4 => (
                own + 1 + self.random.below((1 << shift) - 1),
                1,
                Place::Unaligned,
            ),
            5 => (own, 0, Place::Unaligned),
            _ => (own, 1 + self.random.below(THREADS), Place::Good),
        };
        let args = ExposePgtblArgs {
            pid,
            remap_vaddr: address,
            pfn: pages,
            level: self.random.pick(&[EXPOSE_PGTBL_ADOPT, EXPOSE_PGTBL_LEND]),
        };
        // The kernel notices last that no page is there, and other processes have other mappings.
        let allowed = match (place, exists) {
            (Place::Unaligned, _) => Allowed::Exactly(Err(Errno::EINVAL)),
            (_, Some(false)) => Allowed::Exactly(Err(Errno::ESRCH)),
            (Place::Bad, _) if pid == 0 => Allowed::Exactly(Err(Errno::EINVAL)),
            (Place::Good, _) if pid == 0 => Allowed::Exactly(Ok(())),
            _ => Allowed::Any,
        };
        (args, allowed)
    }

    /// Arguments of TAKE, within the private memory, where other threads take pages, too.
    fn take(&mut self) -> (ExposePgtblArgs, Allowed) {
        let (pid, exists) = self.pid();
        let places = self.shared.places;
        let shift = self.shared.info.page_shift;
        let own = places.data.address() + (self.number << shift);
        let private = places.private.address();
        let page = |number: u64| private + (number << shift);
        let end = 1_u64 << self.shared.info.va_bits;
        let half = THREADS / 2;
        let (from, to, count, place) = match self.random.below(8) {
            0 => (page(0)..page(half), page(half), 0, Place::Unaligned),
            1 => (page(0)..page(0), page(half), 1, Place::Unaligned),
            2 => (page(0)..page(half), page(half) + 1, 1, Place::Unaligned),
            3 => (page(0)..page(half), page(half - 1), 1, Place::Unaligned),
            4 => (end - 8..end + 8, page(half), 1, Place::Unaligned),
            5 => (page(0)..page(half), 0, 1, Place::Bad),
            6 => (page(half)..page(THREADS), page(0), half, Place::Good),
            _ => (page(0)..page(half), page(half), half, Place::Good),
        };
        let least = u64::from(EXPOSE_PGTBL_RANGE_SIZE_VER0);
        let words = [count << 32 | least, from.start, from.end, own + 8 * STRUCT];
        self.fill_struct(&words);
        let at = self.random.pick(&[own, own, own, 8]);
        let args = ExposePgtblArgs {
            pid,
            remap_vaddr: to,
            pfn: at,
            level: EXPOSE_PGTBL_TAKE,
        };
        let allowed = match (place, exists) {
            // The kernel checks the destination before it reads the struct.
            _ if at != own && to.trailing_zeros() >= shift => Allowed::Exactly(Err(Errno::EFAULT)),
            (Place::Unaligned, _) => Allowed::Exactly(Err(Errno::EINVAL)),
            (_, Some(false)) => Allowed::Exactly(Err(Errno::ESRCH)),
            (Place::Bad, _) if pid == 0 => Allowed::Exactly(Err(Errno::EINVAL)),
            (Place::Good, _) if pid == 0 => Allowed::Exactly(Ok(())),
            _ => Allowed::Any,
        };
        (args, allowed)
    }

    /// Arguments of TRACK for the private memory, which other threads track and move at the same time.
    fn track(&mut self) -> (ExposePgtblArgs, Allowed) {
        let (pid, exists) = self.pid();
        let places = self.shared.places;
        let shift = self.shared.info.page_shift;
        let own = places.data.address() + (self.number << shift);
        let (start, end) = (
            places.private.address(),
            places.private.address() + (THREADS << shift),
        );
        let user_end = 1_u64 << self.shared.info.va_bits;
        let what = self.random.pick(&[
            EXPOSE_PGTBL_TRACK_WRITTEN,
            EXPOSE_PGTBL_TRACK_ACCESSED,
            EXPOSE_PGTBL_TRACK_WRITTEN | EXPOSE_PGTBL_TRACK_ACCESSED,
        ]);
        let arm = what | EXPOSE_PGTBL_TRACK_ARM;
        let absent = self.random.pick(&[0, EXPOSE_PGTBL_TRACK_ABSENT]);
        let (mode, range, count, good) = match self.random.below(9) {
            0 => (arm | 0x40, start..end, 4, false),
            1 => (arm, start..start, 4, false),
            2 => (arm, start + 8..end, 4, false),
            3 => (arm, start..user_end + (1 << shift), 4, false),
            4 => (arm | EXPOSE_PGTBL_TRACK_STOP, start..end, 0, false),
            5 => (what | EXPOSE_PGTBL_TRACK_STOP, start..end, 0, true),
            6 => (what | absent, start..end, 4, true),
            7 => (arm | EXPOSE_PGTBL_TRACK_SPLIT, start..end, 0, true),
            _ => (arm | absent, start..end, 4, true),
        };
        let size = u64::from(EXPOSE_PGTBL_TRACK_SIZE_VER0);
        let words = [
            u64::from(mode) << 32 | size,
            range.start,
            range.end,
            own + size,
            count,
        ];
        self.fill_struct(&words);
        let at = self.random.pick(&[own, own, own, 8]);
        let remap_vaddr = self.random.pick(&[0, 0, 0, 1 << shift]);
        let args = ExposePgtblArgs {
            pid,
            remap_vaddr,
            pfn: at,
            level: EXPOSE_PGTBL_TRACK,
        };
        let allowed = match exists {
            // Kernels that have the call may lack TRACK.
            _ if self.shared.info.flags & EXPOSE_PGTBL_TRACK == 0 => {
                Allowed::Exactly(Err(Errno::EINVAL))
            }
            _ if at != own => Allowed::Exactly(Err(Errno::EFAULT)),
            _ if !good || remap_vaddr != 0 => Allowed::Exactly(Err(Errno::EINVAL)),
            Some(false) => Allowed::Exactly(Err(Errno::ESRCH)),
            _ if pid == 0 => Allowed::Exactly(Ok(())),
            _ => Allowed::Any,
        };
        (args, allowed)
    }

    /// Returns the address and size of a struct to fill, and the result for it.
    fn struct_to_fill(&mut self) -> (u64, Result<(), Errno>) {
        let places = self.shared.places;
        let page = 1_u64 << self.shared.info.page_shift;
        let own = places.data.address() + self.number * page;
        match self.random.below(4) {
            0 | 1 => {
                let least = u64::from(EXPOSE_PGTBL_INFO_SIZE_VER0);
                let sizes = [least, least + 1, 4096, u64::from(u32::MAX), 0, least - 1];
                let size = self.random.pick(&sizes);
                let offset = self.random.below(8) * 8;
                let word = usize::try_from(self.number * page + offset).unwrap_or(0);
                tablewalk_rt::memory::write(&places.data, word, size);
                let outcome = if size < least {
                    Err(Errno::EINVAL)
                } else {
                    Ok(())
                };
                (own + offset, outcome)
            }
            2 => (places.without.address(), Err(Errno::EFAULT)),
            _ => {
                let nowhere = [0, 4, 1 << 63, u64::MAX - 3];
                (self.random.pick(&nowhere), Err(Errno::EFAULT))
            }
        }
    }

    fn info(&mut self) -> (ExposePgtblArgs, Allowed) {
        let (pid, _) = self.pid();
        let (remap_vaddr, outcome) = self.struct_to_fill();
        let args = ExposePgtblArgs {
            pid,
            remap_vaddr,
            pfn: self.random.number(),
            level: EXPOSE_PGTBL_INFO,
        };
        (args, Allowed::Exactly(outcome))
    }

    fn path(&mut self) -> (ExposePgtblArgs, Allowed) {
        let (pid, exists) = self.pid();
        let (remap_vaddr, outcome) = self.struct_to_fill();
        let args = ExposePgtblArgs {
            pid,
            remap_vaddr,
            pfn: self.address(),
            level: EXPOSE_PGTBL_PATH,
        };
        (args, judge(Place::Good, exists, Allowed::Exactly(outcome)))
    }

    /// Arguments with an invalid level or flag: `EINVAL`, whatever the others are.
    fn nonsense(&mut self) -> (ExposePgtblArgs, Allowed) {
        let [a, b, c, d, ..] = self.random.number().to_le_bytes();
        let bits = u32::from_le_bytes([a, b, c, d]);
        let level = match self.random.below(4) {
            0 => bits | 0x2_0000,
            1 => (bits & 0xff) | 4,
            2 => EXPOSE_PGTBL_ADDR | EXPOSE_PGTBL_INFO,
            _ => EXPOSE_PGTBL_PATH | 3,
        };
        let args = ExposePgtblArgs {
            pid: bits.cast_signed(),
            remap_vaddr: self.random.number(),
            pfn: self.random.number(),
            level,
        };
        (args, Allowed::Exactly(Err(Errno::EINVAL)))
    }

    /// Writes a struct to the page of this thread.
    fn fill_struct(&self, words: &[u64]) {
        let page = self.number << self.shared.info.page_shift;
        for (index, &word) in (0_u64..).zip(words) {
            let offset = usize::try_from(page + 8 * index).unwrap_or(0);
            tablewalk_rt::memory::write(&self.shared.places.data, offset, word);
        }
    }
}
