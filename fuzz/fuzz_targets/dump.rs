//! Any bytes as a saved tree: refused, or walked without harm.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tablewalk_walker::dump::Dump;
use tablewalk_walker::{Merge, Runs, VirtualAddress, Walk, translate};

const VISITS: usize = 5000;

fuzz_target!(|bytes: &[u8]| {
    // Aligned as words are.
    let mut words = vec![0_u64; bytes.len().div_ceil(8)];
    let (_, copy, _) = unsafe { words.align_to_mut::<u8>() };
    let copy = &mut copy[..bytes.len()];
    copy.copy_from_slice(bytes);
    // A header that says more or fewer bytes than there are is refused, and rarely right by chance:
    // the text is what is left behind the tables.
    if let [shift, .., _] = copy.get(16..20).unwrap_or_default()
        && let Some(tables) = copy.get(56..64).and_then(|bytes| bytes.try_into().ok())
        && (12..=16).contains(shift)
    {
        let tables = u64::from_le_bytes(tables).wrapping_mul(16 + (1 << shift));
        let text = (bytes.len() as u64).wrapping_sub(128).wrapping_sub(tables);
        if let Some(place) = copy.get_mut(64..72) {
            place.copy_from_slice(&text.to_le_bytes());
        }
    }
    let Ok(mut dump) = Dump::from_bytes(copy) else {
        return;
    };
    for visit in Walk::new(&mut dump).take(VISITS) {
        visit.unwrap();
    }
    let _ = Runs::new(Walk::new(&mut dump), Merge::Frames).take(VISITS).count();
    let _ = Runs::new(Walk::new(&mut dump).gathering(), Merge::Attributes).take(VISITS).count();
    for table in 0..dump.tables() {
        let table = dump.nth(table).unwrap();
        let _ = translate(&mut dump, table.address).unwrap();
    }
    assert!(dump.nth(dump.tables()).is_none());
    let _ = translate(&mut dump, VirtualAddress(u64::MAX)).unwrap();
});
