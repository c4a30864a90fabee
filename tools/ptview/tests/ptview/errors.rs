//! What is said of bad input, and that nothing is written then.

use crate::fixture::{END, Folder, Process, console, said};

/// Runs on `contents`, with a page that is there already: it stays, and the words are said.
fn refused(contents: impl AsRef<[u8]>, more: &[&str], words: &[&str]) {
    let folder = Folder::new();
    folder.file("input", contents);
    folder.file("ptview.html", "as it was");
    let mut arguments = vec!["input"];
    arguments.extend(more);
    let output = folder.run(&arguments);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    for word in words {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_eq!(folder.text("ptview.html"), "as it was");
    assert_eq!(folder.names(), ["input", "ptview.html"]);
}

/// The lines of a walk, one of which is another one.
fn changed(number: usize, from: &str, to: &str) -> String {
    let mut lines = Process::new().walk();
    let line = lines.get_mut(number).unwrap();
    assert!(line.contains(from), "{line}");
    *line = line.replace(from, to);
    lines.join("\n")
}

#[test]
fn a_bad_value_is_told_with_file_line_and_value() {
    for (number, from, to, words) in [
        (0, "tablewalk.pt", "other", &["input:1:", "other"][..]),
        (0, "\"version\":1", "\"version\":3", &["input:1:", "3"]),
        (
            0,
            "\"page_shift\":12",
            "\"page_shift\":13",
            &["input:1:", "13"],
        ),
        (2, "\"level\":2", "\"level\":7", &["input:3:", "level 7"]),
        (4, "0x400000", "400000", &["input:5:", "400000"]),
        (4, "0x400000", "0x400800", &["input:5:", "0x400800"]),
        (4, "0x400000", "0x8000000000", &["input:5:", "0x8000000000"]),
        (5, "0x401000", "0x3ff000", &["input:6:", "0x3ff000"]),
        (4, "\"size\":4096", "\"size\":8192", &["input:5:", "0x2000"]),
        (4, "\"kind\":\"page\",", "", &["input:5:", "kind"]),
        (4, "}", "", &["input:5:"]),
        (4, "}", "} {", &["input:5:", "behind"]),
    ] {
        refused(changed(number, from, to), &[], words);
    }
}

#[test]
fn a_run_that_makes_no_sense_is_told() {
    let process = Process::new();
    let run = |text: &str| [&process.header("dirty"), text, END].join("\n");
    let good =
        r#"{"type":"run","round":1,"start":"0x1000","end":"0x3000","pages":2,"kind":"dirty"}"#;
    for (from, to, word) in [
        ("\"pages\":2", "\"pages\":3", "pages 0x3"),
        ("0x3000", "0x1000", "end 0x1000"),
        ("\"kind\":\"dirty\"", "\"kind\":\"wet\"", "wet"),
    ] {
        refused(run(&good.replace(from, to)), &[], &["input:2:", word]);
    }
}

#[test]
fn what_was_cut_off_is_told() {
    let mut lines = Process::new().walk();
    lines.pop();
    refused(console(&lines), &[], &["input:4:", "walk", "cut off"]);
    let folder = Folder::new();
    folder.file("input", console(&lines));
    assert!(folder.run(&["input", "--partial"]).status.success());
    // The usual cut, in the middle of a line; what comes behind is another boot.
    let log = console(&lines);
    let (cut, _) = log.split_at(log.rfind("\"kind\"").unwrap());
    for more in ["", "\n[    9.000000] reboot: machine restart\n"] {
        let log = format!("{cut}{more}");
        refused(&log, &[], &["input:"]);
        folder.file("input", &log);
        let output = folder.run(&["input", "--partial"]);
        assert!(output.status.success(), "{}", said(&output));
    }
    // The cut may be in the header of the next command.
    let whole = console(&Process::new().walk());
    let header = Process::new().header("maps");
    let (header, _) = header.split_at(header.len() / 2);
    for more in ["", "\n[    9.000000] reboot: machine restart\n"] {
        folder.file("input", format!("{whole}\n{header}{more}"));
        let output = folder.run(&["input", "--partial"]);
        assert!(output.status.success(), "{}", said(&output));
    }
    refused(format!("{whole}\n{header}"), &[], &["input:"]);
    refused(header, &["--partial"], &["input:1:"]);
    // A line that is damaged in between is no cut.
    refused(changed(4, "}", ""), &["--partial"], &["input:5:"]);
}

#[test]
fn numbers_that_do_not_fit_are_told() {
    let process = Process::new();
    let range = |frame: &str| {
        format!(
            r#"{{"type":"range","start":"0x400000","end":"0x402000","pages":2,"level":3,"consecutive":true,"descriptor":"0x1","kind":"page","first_frame":"{frame}"}}"#
        )
    };
    for frame in ["0xffffffffffffffff", "0xfffffffffffff"] {
        let log = [&process.header("maps"), &range(frame), END].join("\n");
        refused(log, &[], &["input:2:", "first_frame", frame]);
    }
    let huge = "\"frame\":\"0xffffffffffffffff\",\"el0\"";
    refused(
        changed(4, "\"frame\":\"0x500\",\"el0\"", huge),
        &[],
        &["input:5:", "frame"],
    );
}

#[test]
fn tables_of_two_shapes_are_told() {
    let walk = Process::new().walk();
    let other = Process::new().header("dirty").replace(
        "\"page_shift\":12,\"va_bits\":39",
        "\"page_shift\":14,\"va_bits\":47",
    );
    let log = [walk.join("\n"), other, END.to_owned()].join("\n");
    refused(log, &[], &["16 KiB", "4 KiB"]);
}

#[test]
fn what_has_no_end_is_told() {
    let folder = Folder::new();
    let output = folder.run(&["/dev/zero"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("line 1 has more than"),
        "{}",
        said(&output)
    );
    // A dump that is followed by 64 GiB of nothing, which are not read.
    let dump = folder.file("dump", Process::new().dump());
    let file = std::fs::File::options().write(true).open(dump).unwrap();
    file.set_len(64 << 30).unwrap();
    let output = folder.run(&["dump"]);
    assert!(said(&output).contains("instead of"), "{}", said(&output));
}

#[test]
fn a_damaged_dump_is_told() {
    let dump = Process::new().dump();
    refused(dump.get(..9000).unwrap(), &[], &["input:", "9000"]);
    let mut other = dump.clone();
    *other.get_mut(8).unwrap() = 9;
    refused(other, &[], &["input:", "version 9"]);
    refused("nothing of ours\n", &[], &["input:", "no dump"]);
}

#[test]
fn processes_and_files_that_are_not_there_are_told() {
    let dump = Process::new().dump();
    refused(&dump, &["--pid", "5"], &["5", "77"]);
    refused(
        &dump,
        &["--before", "nowhere"],
        &["nowhere", "No such file"],
    );
    refused(&dump, &["-o", "input"], &["input", "read"]);
    refused(&dump, &["-o", "input/page.html"], &["input/page.html"]);
    let other = Process {
        pid: 78,
        ..Process::new()
    };
    let both = [Process::new().walk(), other.walk()].concat();
    refused(both.join("\n"), &[], &["77, 78", "--pid"]);
}
