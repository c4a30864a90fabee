//! Compares the whole tree of a process with pagemap, in both directions.

use tablewalk_live::Live;
use tablewalk_rt::{Count, println};
use tablewalk_walker::{Format, Found, Geometry, TableSource, VirtualAddress, Visit, Walk};

use crate::error::Error;
use crate::tree;
use tablewalk_proc::pagemap::{Pagemap, for_each_mapping};

/// Page-table mappings that the walk keeps: one for each lookup level.
const SLOTS: usize = 5;
/// Level-3 tables mapped with one call. Deliberately fewer than some processes have, so that batches are
/// refilled.
const BATCH_SLOTS: usize = 4;

/// Counts of one walk.
#[derive(Default)]
struct Tally {
    tables: u64,
    pages: u64,
    /// Pages that pagemap leaves out because they are not memory of the process, such as page tables mapped
    /// here.
    special: u64,
    differences: u64,
}

/// Walks the tables of process `pid`, prints them if `print` is set, and compares them with pagemap in both
/// directions. Every page that the walk finds must be in pagemap, and the number of pages that the walk finds
/// must be the number that pagemap has. Returns whether both hold.
///
/// # Errors
///
/// The errors of mapping tables and of reading pagemap.
pub fn compare_all(pid: i32, print: bool) -> Result<bool, Error> {
    let source = &mut Live::with_batch(pid, SLOTS, BATCH_SLOTS)?;
    let geometry = source.geometry();
    let pagemap = Pagemap::open(pid, geometry.page_shift()).map_err(Error::call("pagemap"))?;
    // Walk once without printing: when a process walks itself, the first walk and the first read of pagemap
    // touch pages that the second walk then finds.
    visit(source, &pagemap, false)?;
    count_present(pid, &geometry, &pagemap)?;

    if print {
        println!(
            "process {pid}: {} KiB pages, {}-bit addresses, {} levels",
            geometry.page_size() >> 10,
            geometry.va_bits(),
            geometry.levels()
        );
    }
    let tally = visit(source, &pagemap, print)?;
    let present = count_present(pid, &geometry, &pagemap)?;
    println!(
        "# process {pid}: {}, {}, {} from pagemap, which has {present}; {} special",
        Count(tally.tables, "table", "tables"),
        Count(tally.pages, "page", "pages"),
        Count(tally.differences, "difference", "differences"),
        tally.special
    );
    Ok(tally.pages > 0 && tally.differences == 0 && tally.pages == present)
}

/// Compares each entry at the moment the walk reaches it: a process that walks itself changes the entries of
/// its own table mappings on the way.
fn visit(source: &mut Live, pagemap: &Pagemap, print: bool) -> Result<Tally, Error> {
    let format = source.format();
    let mut tally = Tally::default();
    for visit in Walk::new(source) {
        let visit = visit?;
        if print {
            tree::print(&format, &visit);
        }
        match visit {
            Visit::Table(_) => tally.tables += 1,
            Visit::Leaf(leaf) => compare(&format, pagemap, &leaf, &mut tally)?,
            // Present, but user space has no access (`PROT_NONE`).
            Visit::NotValid(entry) if format.linux.is_present(entry.descriptor, entry.level) => {
                compare(&format, pagemap, &entry, &mut tally)?;
            }
            Visit::NotValid(_) => {}
            Visit::Changed(_) => tally.differences += 1,
        }
    }
    Ok(tally)
}

fn compare(
    format: &Format,
    pagemap: &Pagemap,
    leaf: &Found,
    tally: &mut Tally,
) -> Result<(), Error> {
    let geometry = &format.geometry;
    for page in 0..leaf.pages(geometry) {
        let address = leaf.address.wrapping_add(page << geometry.page_shift());
        let found = leaf.frame(geometry).0 + page;
        let entry = pagemap.entry(address.0).map_err(Error::call("pagemap"))?;
        if format.linux.is_special(leaf.descriptor) && !entry.is_present() {
            tally.special += 1;
            continue;
        }
        tally.pages += 1;
        if !entry.is_present() || entry.frame() != found {
            tally.differences += 1;
            println!("# {address}: frame {found:#x}, pagemap has {entry}");
        }
    }
    Ok(())
}

/// Counts the pages present in all mappings of process `pid`, according to pagemap.
fn count_present(pid: i32, geometry: &Geometry, pagemap: &Pagemap) -> Result<u64, Error> {
    let mut present = 0;
    for_each_mapping(pid, |start, end| {
        // User tables translate no address above the user address space.
        if geometry.contains(VirtualAddress(start)) {
            present += pagemap.count_present(start, end)?;
        }
        Ok(())
    })
    .map_err(Error::call("maps"))?;
    Ok(present)
}
