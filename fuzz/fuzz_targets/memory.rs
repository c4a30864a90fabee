//! Walks over random memory: frames whose words lead to each other, to themselves and to nothing.

#![no_main]

use std::sync::atomic::AtomicU64;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use tablewalk_walker::{
    Cache, Format, FrameNumber, Geometry, Linux, LiveSource, Merge, Runs, Table, TableId, TableSource,
    VirtualAddress, Walk, path, translate,
};

/// Frames that exist: 0 is the root.
const FRAMES: usize = 4;
/// Visits of one walk: memory that leads to itself has more paths than can be walked.
const VISITS: usize = 2000;

#[derive(Arbitrary, Debug)]
struct Input {
    shape: u8,
    words: Vec<(u8, u16, Word)>,
    addresses: [u64; 4],
    range: [u64; 2],
    wanted: (u64, u64),
    ignored: u64,
    frames: bool,
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Word {
    Any(u64),
    /// Leads to a frame, which exists or not.
    Table(u8),
    /// A page.
    Page(u16),
}

struct Memory {
    format: Format,
    frames: Vec<Vec<AtomicU64>>,
    slots: [usize; 8],
}

// SAFETY: the words are the tables themselves, and nothing changes them.
unsafe impl LiveSource for Memory {}

// SAFETY: the words stay where they are as long as this lives.
unsafe impl TableSource for Memory {
    type Error = ();

    fn format(&self) -> Format {
        self.format
    }

    fn slots(&self) -> usize {
        self.slots.len()
    }

    fn map(&mut self, slot: usize, id: TableId) -> Result<Option<FrameNumber>, ()> {
        // Without a frame: the way down from the root, as the kernel would go it.
        let frame = match id.frame {
            Some(frame) => frame.0,
            None => {
                let mut frame = 0;
                let mut level = self.format.geometry.root_level();
                while level < id.level {
                    let Some(words) = self.frames.get(frame as usize) else {
                        return Ok(None);
                    };
                    let index = self.format.geometry.index(level, id.address);
                    let descriptor = Table::new(words).load(index);
                    if descriptor.0 & 3 != 3 {
                        return Ok(None);
                    }
                    frame = descriptor.next_table(&self.format.geometry).0;
                    level = level.next_lower().unwrap();
                }
                frame
            }
        };
        if frame as usize >= self.frames.len() {
            return Ok(None);
        }
        *self.slots.get_mut(slot).ok_or(())? = frame as usize;
        Ok(Some(FrameNumber(frame)))
    }

    fn table(&self, slot: usize) -> Table<'_> {
        Table::new(&self.frames[self.slots[slot]])
    }
}

fn memory(input: &Input) -> Memory {
    let (page_shift, va_bits, oa_bits) = [
        (12, 39, 48),
        (12, 48, 48),
        (14, 36, 48),
        (14, 47, 48),
        (14, 48, 48),
        (16, 42, 48),
        (16, 48, 48),
        (16, 52, 52),
        (12, 52, 52),
        (14, 52, 52),
    ][usize::from(input.shape) % 10];
    let geometry = Geometry::new(page_shift, va_bits, oa_bits).unwrap();
    let entries = 1_usize << (page_shift - 3);
    let mut frames: Vec<Vec<AtomicU64>> = Vec::new();
    for _ in 0..FRAMES {
        frames.push((0..entries).map(|_| AtomicU64::new(0)).collect());
    }
    for &(frame, index, word) in &input.words {
        let word = match word {
            Word::Any(word) => word,
            Word::Table(frame) => u64::from(frame) << page_shift | 3,
            Word::Page(frame) => u64::from(frame) << page_shift | 0x743,
        };
        let place = &mut frames[usize::from(frame) % FRAMES][usize::from(index) % entries];
        *place = AtomicU64::new(word);
    }
    Memory {
        format: Format {
            geometry,
            linux: Linux::V6_1,
            mair: 0x0400_44ff,
        },
        frames,
        slots: [0; 8],
    }
}

fuzz_target!(|input: Input| {
    let (mut first, mut second) = (memory(&input), memory(&input));
    let geometry = first.geometry();
    let all: Vec<_> = Walk::new(&mut first).take(VISITS).collect();
    assert!(all.iter().all(Result::is_ok));
    let [start, last] = input.range.map(|end| VirtualAddress(end % (1 << geometry.va_bits())));
    let _ = Walk::new(&mut first).within(start, last).take(VISITS).count();
    let merge = if input.frames { Merge::Frames } else { Merge::Attributes };
    let runs = Runs::new(Walk::new(&mut first), merge)
        .ignoring(input.ignored)
        .matching(input.wanted.0, input.wanted.1);
    for run in runs.take(VISITS).flatten() {
        assert!(run.entries > 0);
    }
    let mut cache = Cache::<_, 2, 2>::new(memory(&input)).unwrap();
    for address in input.addresses.into_iter().chain(input.range) {
        for address in [address, address % (1 << geometry.va_bits()), address % (1 << 21)] {
            let address = VirtualAddress(address);
            let expected = translate(&mut first, address).unwrap();
            let way = path(&mut second, address).unwrap();
            assert_eq!(cache.translate(address).unwrap(), expected);
            assert_eq!(cache.translate(address).unwrap(), expected);
            // A path that leads to nothing ends there; a translation says so one level above.
            if expected.physical().is_some() {
                assert_eq!(way.translation(&geometry), expected);
            }
        }
    }
});
