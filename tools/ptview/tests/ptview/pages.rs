//! What is made of good input.

use std::io::Write;

use ptview::picture::fill;
use ptview::pictures;
use ptview::runs::Run;
use ptview::view::{Request, View};
use serde_json::Value;

use crate::fixture::{CODE, END, Folder, Process, WRITABLE, console, page, said};

fn view(folder: &Folder, files: &[&str], before: Option<&str>) -> View {
    let request = Request {
        files: files.iter().map(|name| folder.path(name)).collect(),
        before: before.map(|name| folder.path(name)),
        ..Request::default()
    };
    View::read(&request, &mut |_| {}).unwrap()
}

/// Runs in words.
fn runs(view: &View) -> Vec<String> {
    let word = |run: &Run| {
        let said = view.catalogue.of(run.attributes);
        format!(
            "{:#x}-{:#x} {} {} {} {:?} {} {:?} {}",
            run.start,
            run.end,
            run.level,
            said.kind,
            said.el0,
            said.flags,
            said.memory,
            run.frame,
            run.consecutive
        )
    };
    view.runs.0.iter().map(word).collect()
}

/// The data of a page.
fn data(folder: &Folder, name: &str) -> Value {
    let html = folder.text(name);
    let (_, data) = html.split_once("id=\"data\">").unwrap();
    let (data, _) = data.split_once("</script>").unwrap();
    serde_json::from_str(data).unwrap()
}

#[test]
fn a_dump_and_a_noisy_log_of_the_same_process_are_the_same() {
    let folder = Folder::new();
    let process = Process::new();
    folder.file("dump", process.dump());
    folder.file("log", console(&process.walk()));
    let (dump, log) = (
        view(&folder, &["dump"], None),
        view(&folder, &["log"], None),
    );
    assert_eq!(
        runs(&dump),
        [
            r#"0x400-0x404 L3 page r-x ["accessed"] Normal Some(1280) true"#,
            r#"0x410-0x418 L3 page rw- ["accessed", "dirty", "writable"] Normal Some(1552) false"#,
        ]
    );
    assert_eq!(runs(&dump), runs(&log));
    assert_eq!(dump.frames, log.frames);
    let frames: Vec<_> = dump
        .frames
        .iter()
        .map(|run| (run.start, run.frame, run.pages))
        .collect();
    assert_eq!(
        frames,
        [(0x400, 0x500, 4), (0x410, 0x610, 5), (0x415, 0x616, 3)]
    );
    let tables = |view: &View| {
        view.snapshot
            .as_ref()
            .map(|found| found.tables.list().to_vec())
    };
    assert_eq!(tables(&dump), tables(&log));
    let used: Vec<_> = tables(&dump)
        .unwrap()
        .iter()
        .map(|table| table.used)
        .collect();
    assert_eq!(used, [1, 1, 12]);
}

#[test]
fn a_page_has_the_data_and_nothing_of_the_net() {
    let folder = Folder::new();
    folder.file("dump", Process::new().dump());
    let output = folder.run(&["dump"]);
    assert!(output.status.success(), "{}", said(&output));
    let html = folder.text("ptview.html");
    for outside in [
        "<script src",
        "<link rel=\"style",
        "@import",
        "url(http",
        "<img",
    ] {
        assert!(!html.contains(outside), "{outside}");
    }
    // A name of a mapping is text, whatever is in it.
    assert!(!html.contains("<b>one"));
    let data = data(&folder, "ptview.html");
    assert_eq!(data["regions"][0][3], "/bin/<b>one");
    assert_eq!(data["runs"].as_array().map(Vec::len), Some(2));
    assert_eq!(data["runs"][0][4], format!("{:#x}", page(0x500, CODE)));
}

#[test]
fn each_picture_is_a_well_formed_svg() {
    let folder = Folder::new();
    let process = Process::new();
    let mut before = Process::new();
    before.entries.truncate(9);
    folder.file("dump", process.dump());
    folder.file("before", before.dump());
    folder.file("log", heat(&process).join("\n"));
    let output = folder.run(&["dump", "log", "--before", "before", "--svg", "out"]);
    assert!(output.status.success(), "{}", said(&output));
    let names = [
        "difference",
        "dirty",
        "dirty-rounds",
        "frames",
        "lengths",
        "map",
        "shares",
        "tables",
    ];
    for name in names {
        let text = folder.text(&format!("out/{name}.svg"));
        let document = roxmltree::Document::parse(&text).unwrap();
        let rects = document
            .descendants()
            .filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "rect")));
        assert!(rects.count() > 3, "{name}");
    }
    assert_eq!(folder.names(), ["before", "dump", "log", "out"]);
}

/// Three rounds: one page always, four in the second, one gone in the third.
fn heat(process: &Process) -> Vec<String> {
    let run = |round: u64, start: u64, pages: u64, kind: &str| {
        let end = start + pages * 4096;
        format!(
            r#"{{"type":"run","round":{round},"start":"{start:#x}","end":"{end:#x}","pages":{pages},"kind":"{kind}"}}"#
        )
    };
    let round = |round: u64, written: u64| {
        format!(
            r#"{{"type":"round","time_ms":{},"round":{round},"kind":"dirty","pages":12,"written":{written}}}"#,
            round * 100
        )
    };
    vec![
        process.header("dirty"),
        run(1, 0x41_0000, 1, "dirty"),
        round(1, 1),
        run(2, 0x41_0000, 4, "dirty"),
        round(2, 4),
        run(3, 0x41_0000, 1, "dirty"),
        run(3, 0x41_1000, 1, "absent"),
        round(3, 1),
        END.to_owned(),
    ]
}

#[test]
fn rounds_become_heat() {
    let folder = Folder::new();
    folder.file("log", console(&heat(&Process::new())));
    let view = view(&folder, &["log"], None);
    let rounds: Vec<_> = view.heats[0]
        .rounds
        .iter()
        .map(|round| (round.time_ms, round.touched()))
        .collect();
    assert_eq!(rounds, [(Some(100), 1), (Some(200), 4), (Some(300), 1)]);
    let pictures = pictures::all(&view);
    let dirty = pictures
        .iter()
        .find(|picture| picture.name == "dirty")
        .unwrap();
    let items: Vec<_> = dirty.layers[0]
        .rects
        .iter()
        .map(|rect| (rect.x.0, rect.y, rect.item))
        .collect();
    let (first, rest) = ((0x410, 0x411), (0x411, 0x414));
    assert_eq!(
        items,
        [
            (0, first, 3),
            (1, first, 3),
            (1, rest, 1),
            (2, first, 3),
            (2, (0x411, 0x412), 0)
        ]
    );
}

#[test]
fn what_is_not_certain_is_shown_apart() {
    let folder = Folder::new();
    let mut lines = heat(&Process::new());
    for (number, kind) in [(1, "away"), (3, "busy"), (5, "new")] {
        let line = lines.get_mut(number).unwrap();
        *line = line.replace("\"kind\":\"dirty\"", &format!("\"kind\":\"{kind}\""));
    }
    let log = lines.join("\n").replace("\"version\":1", "\"version\":2");
    folder.file("log", log);
    let view = view(&folder, &["log"], None);
    assert!(
        view.heats[0]
            .rounds
            .iter()
            .all(|round| round.touched() == 0)
    );
    let pictures = pictures::all(&view);
    let dirty = pictures.iter().find(|picture| picture.name == "dirty");
    let fills: Vec<_> = dirty.unwrap().layers[0]
        .rects
        .iter()
        .map(|rect| rect.fill)
        .collect();
    let (uncertain, absent) = (fill("uncertain"), fill("absent"));
    assert_eq!(fills, [uncertain, uncertain, uncertain, absent]);
}

#[test]
fn a_second_watch_is_told() {
    let folder = Folder::new();
    let lines = heat(&Process::new()).join("\n");
    folder.file("log", format!("{lines}\n{lines}"));
    let output = folder.run(&["log"]);
    let words = said(&output);
    assert!(
        words.contains("pt dirty") && words.contains("twice"),
        "{words}"
    );
}

#[test]
fn a_name_with_control_characters_makes_pictures_that_parse() {
    let folder = Folder::new();
    let (mut maps, mut dump) = (Process::new(), Process::new());
    maps.text = b"400000-404000 r-xp 00000000 00:02 5 /\x1b[2J\x01\xff\xef\xbf\xbe\n".to_vec();
    dump.text = maps.text.clone();
    folder.file("dump", dump.dump());
    let output = folder.run(&[
        "dump",
        "--svg",
        "out",
        "--title",
        "\x1b[2J",
        "-o",
        "page.html",
    ]);
    assert!(output.status.success(), "{}", said(&output));
    for name in std::fs::read_dir(folder.path("out")).unwrap() {
        let text = std::fs::read_to_string(name.unwrap().path()).unwrap();
        assert!(!text.contains(|character: char| character.is_control() && character != '\n'));
        roxmltree::Document::parse(&text).unwrap();
    }
    assert_eq!(
        data(&folder, "page.html")["regions"][0][3],
        "/\u{241b}[2J\u{2401}\u{fffd}\u{fffd}"
    );
    assert!(!folder.text("page.html").contains('\x1b'));
}

#[test]
fn a_million_mappings_leave_a_page_that_can_be_opened() {
    let folder = Folder::new();
    let mut process = Process::new();
    process.text.clear();
    for number in 0..1_000_000_u64 {
        let start = 0x1000_0000 + number * 0x2000;
        let end = start + 0x1000;
        writeln!(
            process.text,
            "{start:x}-{end:x} rw-p 00000000 00:00 0 /a/name"
        )
        .unwrap();
    }
    folder.file("dump", process.dump());
    assert!(folder.run(&["dump"]).status.success());
    let page = folder.text("ptview.html");
    assert!(page.contains("The 960000 smallest mappings are left out"));
    assert!(page.len() < 8 << 20, "{}", page.len());
}

#[test]
fn a_difference_tells_what_has_come_gone_and_changed() {
    let folder = Folder::new();
    let (before, mut now) = (Process::new(), Process::new());
    // The first page of code is gone, the last of data has another frame and is read-only, one is new.
    now.entries.remove(0);
    now.entries.last_mut().unwrap().1 = page(0x700, WRITABLE | 1 << 7);
    now.entries.push((40, page(0x800, WRITABLE)));
    folder.file("before", before.dump());
    folder.file("now", console(&now.walk()));
    let view = view(&folder, &["now"], Some("before"));
    let changes: Vec<_> = view
        .changes
        .iter()
        .flatten()
        .map(|change| {
            (
                change.start,
                change.end,
                change.sort.word(),
                change.what.clone(),
            )
        })
        .collect();
    assert_eq!(
        changes,
        [
            (0x400, 0x401, "gone", vec![]),
            (0x417, 0x418, "changed", vec!["frame", "permissions"]),
            (0x428, 0x429, "added", vec![]),
        ]
    );
}

/// Tables that lead to one page at `address`, from the root at `level` down, as `pt walk --json` prints them.
fn lines_to(header: &str, root: i8, address: [u64; 5]) -> String {
    let first = usize::try_from(root + 1).unwrap();
    let mut lines = vec![header.to_owned()];
    for (number, start) in (root..=3).zip(&address[first..]) {
        lines.push(format!(
            r#"{{"type":"table","level":{number},"name":"PGD","address":"{start:#x}","frame":"{:#x}"}}"#,
            0x1000 + i64::from(number)
        ));
    }
    let page = address[4];
    lines.push(format!(
        r#"{{"type":"entry","level":3,"address":"{page:#x}","size":4096,"table":"0x1003","index":0,"descriptor":"0x60000000500f83","kind":"page","frame":"0x500","el0":"---","el1":"rw-","memory":"Normal","shareability":"ISH","flags":["accessed"]}}"#
    ));
    lines.push(END.to_owned());
    lines.join("\n")
}

#[test]
fn five_levels_are_drawn() {
    let folder = Folder::new();
    let header = r#"{"type":"header","schema":"tablewalk.pt","version":2,"command":"walk","pid":7,"live":true,"source":"bpf","promise":"copy under RCU","page_shift":12,"va_bits":52,"oa_bits":52,"levels":5,"mair":"0xff"}"#;
    folder.file("walk", lines_to(header, -1, [0; 5]));
    let view = view(&folder, &["walk"], None);
    let tables = view.snapshot.as_ref().unwrap().tables.list();
    let levels: Vec<_> = tables.iter().map(|table| table.level.number()).collect();
    assert_eq!(levels, [-1, 0, 1, 2, 3]);
    assert_eq!(tables[4].parent, Some(3));
    assert_eq!(tables[0].parent, None);
    let output = folder.run(&["walk", "-o", "page.html"]);
    assert!(output.status.success(), "{}", said(&output));
    let data = data(&folder, "page.html");
    assert_eq!(data["tables"][0][0], -1);
    assert_eq!(data["levels"][0]["level"], -1);
    assert_eq!(data["levels"][0]["name"], "PGD");
}

#[test]
fn tables_of_the_kernel_are_in_the_upper_half() {
    let folder = Folder::new();
    let header = r#"{"type":"header","schema":"tablewalk.pt","version":2,"command":"walk","pid":0,"live":true,"source":"kcore","promise":"checked copy","page_shift":12,"va_bits":39,"oa_bits":48,"levels":3,"mair":"0xff","kernel":true}"#;
    let (first, last) = (u64::MAX << 39, u64::MAX << 30);
    let addresses = [0, 0, first, last, u64::MAX << 21];
    folder.file("walk", lines_to(header, 1, addresses));
    let output = folder.run(&["walk", "-o", "page.html"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(
        data(&folder, "page.html")["tables"][2][1],
        (u64::MAX << 21) >> 12
    );
    // Without the member, these are no addresses of the tables.
    let user = header.replace(",\"kernel\":true", "");
    folder.file("user", lines_to(&user, 1, addresses));
    let output = folder.run(&["user", "-o", "user.html"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
}
