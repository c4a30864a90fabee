//! Prints tables and leaves as a walk comes to them.

use tablewalk_rt::println;
use tablewalk_walker::{Format, Found, Geometry, Level, TableVisit, Visit};

/// Columns before a table of `level`: two for each level below the root.
fn columns(geometry: &Geometry, level: Level) -> usize {
    2 * geometry.depth(level)
}

/// Prints one line for what a walk came to.
pub fn print(format: &Format, visit: &Visit) {
    let geometry = &format.geometry;
    match visit {
        Visit::Table(table) => print_table(geometry, table),
        Visit::Leaf(leaf) => print_leaf(format, leaf),
        Visit::NotValid(entry) => print_not_valid(geometry, entry),
        Visit::Changed(id) => println!(
            "# the {} of {} changed while it was walked",
            geometry.level_name(id.level),
            id.address
        ),
    }
}

/// `[index] PMD frame 0x40a3b`: the place in the table above, level and frame.
fn print_table(geometry: &Geometry, table: &TableVisit) {
    let columns = columns(geometry, table.level);
    let name = geometry.level_name(table.level);
    match table.level.next_higher() {
        Some(above) if table.level != geometry.root_level() => {
            let index = geometry.index(above, table.address);
            println!("{:columns$}[{index}] {name} frame {}", "", table.frame);
        }
        _ => println!("{name} frame {}", table.frame),
    }
}

/// `[index] page frame 0x404c2  0x7f8b320000 rw-`: and what user space may do with it.
fn print_leaf(format: &Format, leaf: &Found) {
    let geometry = &format.geometry;
    let columns = columns(geometry, leaf.level) + 2;
    let what = if leaf.level == Level::L3 {
        "page"
    } else {
        "block"
    };
    let descriptor = leaf.descriptor;
    let letter = |allowed, letter| if allowed { letter } else { '-' };
    println!(
        "{:columns$}[{}] {what} frame {}  {} {}{}{}",
        "",
        leaf.index,
        leaf.frame(geometry),
        leaf.address,
        letter(descriptor.is_user(), 'r'),
        letter(
            descriptor.is_user() && format.linux.is_writable(descriptor),
            'w'
        ),
        letter(!descriptor.is_uxn(), 'x'),
    );
}

/// `[index] not valid 0x4000000000000f43  0x7f8b320000`: the word itself.
fn print_not_valid(geometry: &Geometry, entry: &Found) {
    let columns = columns(geometry, entry.level) + 2;
    println!(
        "{:columns$}[{}] not valid {:#x}  {}",
        "", entry.index, entry.descriptor.0, entry.address
    );
}
