//! Prints the tables and leaves of a walk.

use tablewalk_rt::println;
use tablewalk_walker::{Format, Found, Geometry, Level, TableVisit, Visit};

/// Returns the indentation of a table of `level`: two columns for each level below the root.
fn columns(geometry: &Geometry, level: Level) -> usize {
    2 * geometry.depth(level)
}

/// Prints one line for one step of the walk.
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

/// Prints `[index] PMD frame 0x40a3b`: the index in the table above, the level and the frame.
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

/// Prints `[index] page frame 0x404c2  0x7f8b320000 rw-`: the last word is the permissions of user space.
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

/// Prints `[index] not valid 0x4000000000000f43  0x7f8b320000`: the raw descriptor.
fn print_not_valid(geometry: &Geometry, entry: &Found) {
    let columns = columns(geometry, entry.level) + 2;
    println!(
        "{:columns$}[{}] not valid {:#x}  {}",
        "", entry.index, entry.descriptor.0, entry.address
    );
}
