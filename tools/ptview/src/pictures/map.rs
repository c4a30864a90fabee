//! The address space: mappings, levels, attributes, changes, one below the other.

use tablewalk_walker::Level;

use crate::axis::Axis;
use crate::difference::{Change, Sort};
use crate::picture::{Layer, Meaning, Picture, Rect, Zoom, fill};
use crate::pictures::{addresses, fill_of, row, table_rects, warmth_layer};
use crate::runs::Run;
use crate::view::View;

/// Flags that have a row even if no page has them.
const USUAL: [&str; 3] = ["accessed", "dirty", "writable"];
const FLAGS: [&str; 9] = [
    "accessed",
    "dirty",
    "writable",
    "contiguous",
    "special",
    "devmap",
    "guarded",
    "global",
    "uffd_wp",
];

/// What the fills of entries mean, in the order of the legend.
const MEANINGS: [(&str, &str); 12] = [
    ("read", "r--"),
    ("exec", "r-x"),
    ("write", "rw-"),
    ("wx", "rwx"),
    ("xonly", "--x"),
    ("kernel", "kernel only"),
    ("noacc", "no access"),
    ("swap", "swap"),
    ("poison", "poison"),
    ("moving", "moving"),
    ("device", "device"),
    ("other", "marker, other"),
];

/// Rows one below the other, being filled.
struct Rows {
    names: Vec<String>,
    layers: Vec<Layer>,
}

impl Rows {
    const fn new() -> Self {
        Self {
            names: Vec::new(),
            layers: Vec::new(),
        }
    }

    /// The number of a new row.
    fn name(&mut self, name: impl Into<String>) -> u64 {
        self.names.push(name.into());
        self.names.len() as u64 - 1
    }

    fn push(&mut self, of: &'static str, rects: Vec<Rect>) {
        self.push_labelled(of, rects, Vec::new());
    }

    fn push_labelled(&mut self, of: &'static str, rects: Vec<Rect>, labels: Vec<String>) {
        self.layers.push(Layer { of, labels, rects });
    }

    /// A picture of them.
    fn picture(self, name: &'static str, x: Axis, legend: Vec<Meaning>) -> Picture {
        let rows = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        Picture {
            name,
            title: String::new(),
            about: String::new(),
            x,
            y: Axis::Names {
                title: String::new(),
                names: self.names,
            },
            upwards: false,
            zoom: Zoom::X,
            height: rows.saturating_mul(28),
            layers: self.layers,
            legend,
        }
    }
}

/// Everything that is known of each address, one below the other.
pub(super) fn map(view: &View) -> Picture {
    let axis = addresses(view);
    let mut rows = Rows::new();
    add_regions(&mut rows, view, &axis);
    add_levels(&mut rows, view, &axis);
    add_memory(&mut rows, view);
    add_flags(&mut rows, view);
    for heat in &view.heats {
        let number = rows.name(format!("{}, rounds", heat.word()));
        let rounds = heat.rounds.len() as u64;
        rows.layers
            .push(warmth_layer(number, &heat.warmth(), rounds));
    }
    if let Some(changes) = &view.changes {
        let number = rows.name("changes");
        rows.push("change", change_rects(changes, number, |_| true));
    }
    let legend = legend(view);
    let mut picture = rows.picture("map", axis, legend);
    picture.title = "Address space".to_owned();
    picture.about = "Every address that an entry translates, from left to right; empty stretches \
        are cut out. A row shows the mappings, the rows of levels what stands in the tables of each \
        level (colours: what user space may do; grey: leads to a table), the others one attribute \
        each."
        .to_owned();
    picture
}

fn add_regions(rows: &mut Rows, view: &View, axis: &Axis) {
    let regions = view.regions();
    if regions.is_empty() {
        return;
    }
    let number = rows.name("mapping");
    let shift = view.geometry.page_shift();
    let rects = regions.iter().enumerate().flat_map(|(item, region)| {
        axis.clip(region.start >> shift, region.end >> shift)
            .map(move |x| Rect {
                x,
                y: row(number),
                fill: fill("region"),
                item: item as u64,
            })
    });
    let rects = rects.collect();
    let labels = regions.iter().map(|region| region.name.clone()).collect();
    rows.push_labelled("region", rects, labels);
}

/// What stands in the tables of each level: tables below, and pages or blocks.
fn add_levels(rows: &mut Rows, view: &View, axis: &Axis) {
    let has_tables = view
        .snapshot
        .as_ref()
        .is_some_and(|snapshot| snapshot.has_tables());
    for level in Level::ALL {
        let runs = view.runs.0.iter().any(|run| run.level == level);
        if level < view.geometry.root_level() || !has_tables && !runs {
            continue;
        }
        let name = view.geometry.level_name(level);
        let number = rows.name(format!("{level} {name}"));
        if let Some(below) = level.next_lower() {
            let rects = table_rects(view, axis, below, number);
            rows.push("table", rects);
        }
        let rects = run_rects(view, number, |run| {
            (run.level == level).then(|| fill_of(view.catalogue.of(run.attributes)))
        });
        rows.push("run", rects);
    }
}

/// The runs for which `fill_of` has a fill; neighbours with the same fill as one where they are
/// not told apart.
fn run_rects(
    view: &View,
    number: u64,
    fill_of: impl Fn(&Run) -> Option<&'static str>,
) -> Vec<Rect> {
    let runs = view.runs.0.iter().enumerate();
    let rects = runs.filter_map(|(item, run)| {
        Some(Rect {
            x: (run.start, run.end),
            y: row(number),
            fill: fill(fill_of(run)?),
            item: item as u64,
        })
    });
    rects.collect()
}

/// Memory types, if there is more than one.
fn add_memory(rows: &mut Rows, view: &View) {
    let unusual = |memory: &str| !matches!(memory, "" | "Normal" | "Normal-Tagged");
    if !view.attributes().any(|said| unusual(&said.memory)) {
        return;
    }
    let number = rows.name("not Normal");
    let rects = run_rects(view, number, |run| {
        unusual(&view.catalogue.of(run.attributes).memory).then_some("device")
    });
    rows.push("run", rects);
}

fn add_flags(rows: &mut Rows, view: &View) {
    for flag in FLAGS {
        let known = view.attributes().any(|said| said.has(flag));
        if !known && !USUAL.contains(&flag) {
            continue;
        }
        let number = rows.name(flag);
        let rects = run_rects(view, number, |run| {
            view.catalogue
                .of(run.attributes)
                .has(flag)
                .then_some("flag")
        });
        rows.push("run", rects);
    }
}

/// Fills that are used, with the pages of each.
fn legend(view: &View) -> Vec<Meaning> {
    let mut found = Vec::new();
    for (name, text) in MEANINGS {
        let runs = view.runs.0.iter();
        let runs = runs.filter(|run| fill_of(view.catalogue.of(run.attributes)) == name);
        let pages: u64 = runs.map(Run::pages).sum();
        if pages > 0 {
            found.push(Meaning {
                fill: name,
                text: format!("{text}: {pages} pages"),
            });
        }
    }
    let has_tables = view
        .snapshot
        .as_ref()
        .is_some_and(|snapshot| snapshot.has_tables());
    if has_tables {
        found.push(Meaning {
            fill: "table",
            text: "table below".to_owned(),
        });
    }
    if view.changes.is_some() {
        found.extend(change_legend());
    }
    found
}

fn change_legend() -> impl Iterator<Item = Meaning> {
    [Sort::Added, Sort::Gone, Sort::Changed]
        .into_iter()
        .map(|sort| Meaning {
            fill: sort.word(),
            text: sort.word().to_owned(),
        })
}

fn change_rects(changes: &[Change], number: u64, wanted: impl Fn(&Change) -> bool) -> Vec<Rect> {
    let changes = changes.iter().enumerate();
    let changes = changes.filter(|(_, change)| !change.table && wanted(change));
    let rects = changes.map(|(item, change)| Rect {
        x: (change.start, change.end),
        y: row(number),
        fill: fill(change.sort.word()),
        item: item as u64,
    });
    rects.collect()
}

/// What has come, gone and changed.
pub(super) fn difference(view: &View, changes: &[Change]) -> Picture {
    let axis = addresses(view);
    let mut rows = Rows::new();
    add_regions(&mut rows, view, &axis);
    if !view.runs.0.is_empty() {
        let number = rows.name("now");
        let rects = run_rects(view, number, |run| {
            Some(fill_of(view.catalogue.of(run.attributes)))
        });
        rows.push("run", rects);
    }
    for sort in [Sort::Added, Sort::Gone] {
        let number = rows.name(sort.word());
        rows.push(
            "change",
            change_rects(changes, number, |change| change.sort == sort),
        );
    }
    let mut ways: Vec<&'static str> = Vec::new();
    for change in changes.iter().filter(|change| !change.table) {
        ways.extend(&change.what);
    }
    ways.sort_unstable();
    ways.dedup();
    for way in ways {
        let number = rows.name(format!("≠ {way}"));
        rows.push(
            "change",
            change_rects(changes, number, |change| change.what.contains(&way)),
        );
    }
    let mut picture = rows.picture("difference", axis, change_legend().collect());
    picture.title = "Difference".to_owned();
    picture.about = "Entries that are others than before: added, gone, or changed in their frame, \
        their permissions or other bits."
        .to_owned();
    picture
}
