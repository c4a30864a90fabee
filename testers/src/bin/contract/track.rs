//! TRACK: pages that are written or accessed.

#![expect(unsafe_code, reason = "tries what may not work")]

use core::ptr;

use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_uapi::Errno;
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::remap::ExposePgtblInfo;
use tablewalk_uapi::track::{
    EXPOSE_PGTBL_RUN_ABSENT, EXPOSE_PGTBL_RUN_WRITTEN, EXPOSE_PGTBL_TRACK,
    EXPOSE_PGTBL_TRACK_ABSENT, EXPOSE_PGTBL_TRACK_ACCESSED, EXPOSE_PGTBL_TRACK_ARM,
    EXPOSE_PGTBL_TRACK_SIZE_VER0, EXPOSE_PGTBL_TRACK_SPLIT, EXPOSE_PGTBL_TRACK_STOP,
    EXPOSE_PGTBL_TRACK_WRITTEN, ExposePgtblRun, ExposePgtblTrack, track,
};
use tablewalk_uapi::{Mapping, Sharing, process};

use tablewalk_rt::memory::write;
use tablewalk_testkit::expect::{all, expect, expect_error};
use tablewalk_testkit::page::{self, page_size};

use crate::with;

pub(crate) const TESTS: &[crate::Test] = &[
    Case {
        name: "TRACK reports written pages, and continues at the given address",
        run: |info| with(info, EXPOSE_PGTBL_TRACK, tells),
    },
    Case {
        name: "TRACK refuses invalid modes and ranges",
        run: |info| with(info, EXPOSE_PGTBL_TRACK, refuses),
    },
    Case {
        name: "TRACK refuses an invalid struct",
        run: |info| with(info, EXPOSE_PGTBL_TRACK, bad_struct),
    },
];

const WRITTEN: u32 = EXPOSE_PGTBL_TRACK_WRITTEN;
const ARM: u32 = WRITTEN | EXPOSE_PGTBL_TRACK_ARM;
const STOP: u32 = WRITTEN | EXPOSE_PGTBL_TRACK_STOP;

fn private(size: usize) -> Result<Mapping, Errno> {
    let mapping = Mapping::anonymous(size, Protection::READ_WRITE, Sharing::Private)?;
    mapping.base_pages_only()?;
    Ok(mapping)
}

fn tells(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = page_size(info);
    let memory = private(8 * page)?;
    let start = memory.address();
    let (step, end) = (page as u64, start + 8 * page as u64);
    for number in 0..6 {
        write(&memory, number * page, 1);
    }
    // New pages wait on a per-CPU list, with a reference, and are reported as busy until they leave it.
    let mut busy = [ExposePgtblRun::default(); 1];
    while track(0, ARM, start..end, &mut busy)?.0 > 0 {
        process::yield_now();
    }
    for number in [0, 1, 3, 5] {
        write(&memory, number * page, 2);
    }
    let mut one = [ExposePgtblRun::default(); 1];
    let first = track(0, ARM, start..end, &mut one)?;
    let mut rest = [ExposePgtblRun::default(); 8];
    let mode = ARM | EXPOSE_PGTBL_TRACK_ABSENT;
    let second = track(0, mode, first.1..end, &mut rest)?;
    let [run] = one;
    let absent = ExposePgtblRun {
        start: start + 6 * step,
        end,
        kind: EXPOSE_PGTBL_RUN_ABSENT,
        reserved: 0,
    };
    let written = |run: &&ExposePgtblRun| run.kind == EXPOSE_PGTBL_RUN_WRITTEN;
    all(&[
        expect("a run", Ok(first.0 as u64), Ok(1)),
        expect("its start", Ok(run.start), Ok(start)),
        expect("its end", Ok(run.end), Ok(start + 2 * step)),
        expect(
            "its kind",
            Ok(run.kind.into()),
            Ok(EXPOSE_PGTBL_RUN_WRITTEN.into()),
        ),
        expect("where to go on", Ok(second.1), Ok(end)),
        expect(
            "written ones",
            Ok(rest.iter().filter(written).count() as u64),
            Ok(2),
        ),
        expect("the last one", Ok(u64::from(rest.contains(&absent))), Ok(1)),
        expect(
            "stopped",
            track(0, STOP, start..end, &mut []).map(|(_, at)| at),
            Ok(end),
        ),
    ])
}

fn refuses(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = page_size(info);
    let memory = private(2 * page)?;
    let (start, step) = (memory.address(), page as u64);
    write(&memory, 0, 1);
    let user_end = 1 << info.va_bits;
    let refused = |what, mode, start, end, runs: usize| {
        let mut room = [ExposePgtblRun::default(); 2];
        let runs = room.get_mut(..runs).unwrap_or_default();
        expect_error(what, track(0, mode, start..end, runs), Errno::EINVAL)
    };
    let alone = EXPOSE_PGTBL_TRACK_ARM;
    let modes = [0, 0x40 | WRITTEN, !0, 0x8000_0000 | ARM, alone];
    let modes = modes.map(|mode| refused("a mode", mode, start, start + step, 1));
    let accessed = EXPOSE_PGTBL_TRACK_ACCESSED;
    all(&[
        modes == [true; 5],
        refused("both ends", ARM | STOP, start, start + step, 0),
        refused(
            "split alone",
            WRITTEN | EXPOSE_PGTBL_TRACK_SPLIT,
            start,
            start + step,
            1,
        ),
        refused(
            "split to stop",
            STOP | EXPOSE_PGTBL_TRACK_SPLIT,
            start,
            start + step,
            0,
        ),
        refused("stop and tell", STOP, start, start + step, 1),
        refused(
            "stop and absent",
            STOP | EXPOSE_PGTBL_TRACK_ABSENT,
            start,
            start + step,
            0,
        ),
        refused("look at nothing", WRITTEN, start, start + step, 0),
        refused("no page", ARM, start, start, 1),
        refused("backwards", ARM, start + step, start, 1),
        refused("unaligned", ARM, start + 8, start + step, 1),
        refused("an unaligned end", accessed, start, start + step - 8, 1),
        refused("beyond user space", ARM, start, user_end + step, 1),
        expect_error(
            "no process",
            track(i32::MAX, ARM, start..start + step, &mut []),
            Errno::ESRCH,
        ),
    ])
}

fn bad_struct(info: &mut ExposePgtblInfo) -> Result<Verdict, Errno> {
    let page = page_size(info);
    let memory = private(page)?;
    write(&memory, 0, 1);
    let mut runs = [ExposePgtblRun::default(); 1];
    let good = ExposePgtblTrack {
        size: EXPOSE_PGTBL_TRACK_SIZE_VER0,
        mode: WRITTEN,
        start: memory.address(),
        end: memory.address() + page as u64,
        runs: runs.as_mut_ptr().expose_provenance() as u64,
        count: 1,
        reserved: 0,
    };
    let raw = |remap_vaddr, mut asked: ExposePgtblTrack| {
        let pfn = ptr::from_mut(&mut asked).expose_provenance() as u64;
        call(0, remap_vaddr, pfn, EXPOSE_PGTBL_TRACK).map(drop)
    };
    let with = |change: fn(&mut ExposePgtblTrack)| {
        let mut asked = good;
        change(&mut asked);
        raw(0, asked)
    };
    // The bytes after the struct that the kernel knows are not zero.
    let large = [(good, !0_u64)];
    let sized = |size: u32| {
        let mut large = large;
        let [(known, _)] = &mut large;
        known.size = size;
        let pfn = ptr::from_mut(&mut large).expose_provenance() as u64;
        call(0, 0, pfn, EXPOSE_PGTBL_TRACK).map(drop)
    };
    all(&[
        expect("a good one", raw(0, good).map(|()| 0), Ok(0)),
        expect_error(
            "an address of the caller",
            raw(page as u64, good),
            Errno::EINVAL,
        ),
        expect_error("reserved", with(|asked| asked.reserved = 1), Errno::EINVAL),
        expect_error("small", with(|asked| asked.size -= 1), Errno::EINVAL),
        expect_error(
            "large",
            sized(EXPOSE_PGTBL_TRACK_SIZE_VER0 + 8),
            Errno::E2BIG,
        ),
        expect_error("no array", with(|asked| asked.runs = 8), Errno::EFAULT),
        expect_error(
            "no struct",
            call(0, 0, 8, EXPOSE_PGTBL_TRACK),
            Errno::EFAULT,
        ),
        expect_error(
            "a level",
            call(0, 0, 8, EXPOSE_PGTBL_TRACK | 3),
            Errno::EINVAL,
        ),
    ])
}

/// Makes the call on pages of these tests, or on unmapped addresses.
fn call(pid: i32, remap_vaddr: u64, pfn: u64, level: u32) -> Result<u64, Errno> {
    // SAFETY: no Rust reference points to memory that the tests of this file name.
    unsafe { page::call(pid, remap_vaddr, pfn, level) }
}
