//! Tables that their process frees while they are mapped, and processes that end.

use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_testkit::expect::{all, expect, expect_error};
use tablewalk_testkit::page::Page;
use tablewalk_testkit::witness::Witness;
use tablewalk_uapi::remap_device::{EXPOSE_PGTBL_ROOT_COPY, Target};
use tablewalk_uapi::{Errno, process};

use crate::place::{Other, frame_of, index, map, map_address, open_target, root_level, witness};
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "a table that its process frees reads as zeros",
        run: unmapped,
    },
    Case {
        name: "so do all tables of a process that was killed, which then is ESRCH",
        run: killed,
    },
    Case {
        name: "no frame is lost",
        run: frames,
    },
];

fn unmapped(context: &mut Context) -> Result<Verdict, Errno> {
    let info = &context.info;
    let other = Other::new(info)?;
    let target = open_target(&context.device, other.child.pid())?;
    let page = Page::read_only(info)?;
    let table = map_address(info, &target, &page, 3, other.address)?;
    let entry = page.word(index(info, 3, other.address));
    let frame = witness(info, other.child.pid(), other.address);
    other.unmap()?;
    let left = page.words_in_use();
    let again = Page::read_only(info)?;
    all(&[
        expect("before", Ok(frame_of(info, entry)), frame),
        expect("words that are not 0", Ok(left), Ok(0)),
        expect_error("by frame", map(&target, &again, 3, table), Errno::ENOENT),
        expect_error(
            "by address",
            map_address(info, &target, &again, 3, other.address),
            Errno::ENOENT,
        ),
    ])
}

/// Maps the tables of all levels that translate `address`.
fn map_all(context: &Context, target: &Target, address: u64) -> Result<[Option<Page>; 5], Errno> {
    let mut pages = [const { None }; 5];
    for (level, place) in (root_level(&context.info)..4).zip(&mut pages) {
        let page = Page::read_only(&context.info)?;
        map_address(&context.info, target, &page, level, address)?;
        *place = Some(page);
    }
    Ok(pages)
}

fn killed(context: &mut Context) -> Result<Verdict, Errno> {
    let info = &context.info;
    let other = Other::new(info)?;
    let target = open_target(&context.device, other.child.pid())?;
    let pages = map_all(context, &target, other.address)?;
    // Kills it, and waits for its end.
    drop(other);
    // A copy of the root stays as it was.
    let copied = info.features & EXPOSE_PGTBL_ROOT_COPY != 0;
    let live = pages.iter().flatten().skip(usize::from(copied));
    let mut met = live.clone().count() == info.levels as usize - usize::from(copied);
    for page in live {
        met &= expect("words that are not 0", Ok(page.words_in_use()), Ok(0));
    }
    let page = Page::read_only(info)?;
    all(&[
        met,
        expect_error("map", map(&target, &page, 0, 0), Errno::ESRCH),
    ])
}

fn frames(context: &mut Context) -> Result<Verdict, Errno> {
    let lost = |error| {
        tablewalk_rt::println!("# {error}");
        Errno::EIO
    };
    let witness = Witness::begin().map_err(lost)?;
    // More tables than a count may be wrong by for each CPU.
    for _ in 0..40 * process::cpus()? {
        killed(context)?;
    }
    witness.all_came_back().map(Verdict::from).map_err(lost)
}
