//! Where a page goes, and what is there before.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};

use crate::fixture::{Folder, Process, said};

fn folder() -> Folder {
    let folder = Folder::new();
    folder.file("dump", Process::new().dump());
    folder
}

#[test]
fn what_is_no_regular_file_is_written_to() {
    let folder = folder();
    let fifo = folder.path("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let reader = Command::new("cat")
        .arg(&fifo)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = folder.run(&["dump", "-o", "fifo"]);
    assert!(output.status.success(), "{}", said(&output));
    let page = reader.wait_with_output().unwrap().stdout;
    assert!(page.ends_with(b"</html>"), "{} bytes", page.len());
    assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());
    for (device, status) in [("/dev/full", 1), ("/dev/null", 0)] {
        let before = fs::metadata(device).unwrap().ino();
        let output = folder.run(&["dump", "-o", device]);
        assert_eq!(output.status.code(), Some(status), "{}", said(&output));
        let after = fs::metadata(device).unwrap();
        assert!(after.file_type().is_char_device() && after.ino() == before);
    }
}

#[test]
fn the_names_of_the_standard_output_are_written_into() {
    let folder = folder();
    let program = env!("CARGO_BIN_EXE_ptview");
    for (name, line) in [
        ("pipe", "-o /dev/stdout | cat >page"),
        ("file", "-o /dev/stdout >page"),
        ("link", "-o link >page"),
    ] {
        let _ = symlink("/proc/self/fd/1", folder.path("link"));
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{program} dump {line}")]);
        let page = fs::File::create(folder.path("page")).unwrap();
        let before = page.metadata().unwrap().ino();
        let output = shell.current_dir(folder.path("")).output().unwrap();
        assert!(
            folder.text("page").ends_with("</html>"),
            "{name}: {}",
            said(&output)
        );
        assert_eq!(
            fs::metadata(folder.path("page")).unwrap().ino(),
            before,
            "{name}"
        );
    }
}

#[test]
fn output_that_nobody_takes_is_an_error() {
    let folder = folder();
    // A reader that has ended, and a full device, for a page, a message and the help.
    for line in [
        "(sleep 0.2; exec ptview dump -o - 2>&1) | true; exit ${PIPESTATUS[0]}",
        "ptview nowhere 2>/dev/full",
        "ptview dump -o - >/dev/full 2>&1",
        "ptview --help >/dev/full",
        "ptview --version >/dev/full",
    ] {
        let line = line.replace("ptview", env!("CARGO_BIN_EXE_ptview"));
        let mut shell = Command::new("bash");
        shell.args(["-c", &line]).current_dir(folder.path(""));
        let output = shell.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}: {}", said(&output));
    }
}

#[test]
fn a_dash_is_the_standard_output() {
    let folder = folder();
    let output = folder.run(&["dump", "-o", "-"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(output.stdout.ends_with(b"</html>"));
    assert_eq!(folder.names(), ["dump"]);
}

#[test]
fn folders_are_there_except_that_of_the_pictures() {
    let folder = folder();
    for (option, path) in [("-o", "nowhere/page.html"), ("--svg", "nowhere/pictures")] {
        let output = folder.run(&["dump", option, path]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(path), "{}", said(&output));
        assert_eq!(folder.names(), ["dump"]);
    }
    let output = folder.run(&["dump", "--svg", "pictures"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(folder.text("pictures/map.svg").ends_with("</svg>"));
}

#[test]
fn symbolic_links_are_followed() {
    let folder = folder();
    folder.file("there", "as it was");
    fs::create_dir(folder.path("other")).unwrap();
    for (link, target) in [("old", "there"), ("new", "other/nowhere"), ("far", "new")] {
        symlink(target, folder.path(link)).unwrap();
        let output = folder.run(&["dump", "-o", link]);
        assert!(output.status.success(), "{}", said(&output));
        assert!(folder.path(link).is_symlink());
        assert!(folder.text(target).ends_with("</html>"));
    }
    symlink("round", folder.path("round")).unwrap();
    let output = folder.run(&["dump", "-o", "round"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
}

#[test]
fn no_output_replaces_an_input_or_another_output() {
    let folder = folder();
    let dump = Process::new().dump();
    folder.file("map.svg", &dump);
    fs::hard_link(folder.path("map.svg"), folder.path("link")).unwrap();
    symlink("map.svg", folder.path("symbolic")).unwrap();
    for arguments in [
        &["map.svg", "--svg", "."][..],
        &["dump", "--before", "map.svg", "--svg", "."],
        &["link", "--svg", "."],
        &["map.svg", "-o", "symbolic"],
    ] {
        let output = folder.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(said(&output).contains("is read and would be written"));
        assert_eq!(fs::read(folder.path("map.svg")).unwrap(), dump);
        assert_eq!(folder.names(), ["dump", "link", "map.svg", "symbolic"]);
    }
    fs::create_dir(folder.path("out")).unwrap();
    let output = folder.run(&["dump", "-o", "out/map.svg", "--svg", "out/../out"]);
    assert!(said(&output).contains("written twice"), "{}", said(&output));
}

#[test]
fn a_page_has_the_mode_of_what_it_replaces_or_that_of_the_umask() {
    let folder = folder();
    let mode = |name: &str| fs::metadata(folder.path(name)).unwrap().mode() & 0o7777;
    folder.file("page.html", "as it was");
    for wanted in [0o600, 0o640] {
        fs::set_permissions(folder.path("page.html"), Permissions::from_mode(wanted)).unwrap();
        assert!(folder.run(&["dump", "-o", "page.html"]).status.success());
        assert_eq!(mode("page.html"), wanted);
    }
    for (umask, wanted) in [("077", 0o600), ("027", 0o640)] {
        let program = env!("CARGO_BIN_EXE_ptview");
        let line = format!("umask {umask}; exec {program} dump -o {umask}.html");
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]).current_dir(folder.path(""));
        assert!(shell.status().unwrap().success());
        assert_eq!(mode(&format!("{umask}.html")), wanted);
    }
}
