#!/usr/bin/env python3
"""Runs `pt` in QEMU, on processes with a page of each kind and on files, and checks its output.

usage: tests/pt.py IMAGE INITRAMFS

Some dumps are made here, with names and entries that no boot produces. Every command is run with output in
columns, which must fit a line of 80, and as JSON lines, which must parse and have exactly the members of
docs/json.md. Errors are provoked, and the exit status and message of each are checked. The last line is
`N runs as expected`, or the first run that was not.
"""

import gzip
import json
import os
import re
import struct
import subprocess
import sys

from judge import trouble

# The kernel passes 32 words of its command line to init.
WORDS = 30
RESULT = re.compile(r"^(ok|not ok) [0-9]+ (.*)$")
STATUS = re.compile(r"^# (.*): exit status ([0-9]+)$")
LOG = "build/log/pt.log"
# The initramfs of the boots, with the files of FILES in it.
WITH_FILES = "build/pt.cpio.gz"


class Wrong(Exception):
    """A run was not as expected."""


def check(condition, *what):
    """Raises Wrong with a message if the condition does not hold."""
    if not condition:
        raise Wrong(" ".join(str(part) for part in what))


def members():
    """Returns the members of each type of object in docs/json.md: those that are always there, and the optional
    ones. The heading above a table is the type, as in `### header`."""
    found, kind = {}, None
    with open("docs/json.md", encoding="utf-8") as file:
        for line in file:
            if line.startswith("#"):
                kind = line.lstrip("#").strip().strip("`")
                found[kind] = ({"type"}, set())
            elif match := re.match(r"\| `(\w+)`( \?)? \|", line):
                found[kind][bool(match.group(2))].add(match.group(1))
    return found


# A page that user space may write and has written: 4 KiB pages of Linux 6.1.
WRITTEN = 0x00e8000000000f43
# A name that looks like a line of KTAP on a console, moves the cursor, and is not UTF-8.
EVIL = b"/\rok 1 x\x1b[\xc3'\\"


def dump(entries, text, swap=(3, 5, 8, 50, 23, 24, 27, 31)):
    """Returns a file as `pt save` writes it (crates/walker/src/dump.rs): 4 KiB pages, 39 bits, and `entries` of the
    level-3 table for addresses from 0x400000 on, by page number from there. The default layout of swap
    entries is that of Linux 6.1."""
    header = struct.pack("<8s6IQ8B8BQQ", b"pgtables", 1, 77, 12, 39, 48, 0, 0xff,
                         51, 55, 56, 57, 58, 59, 2, 255, *swap, 3, len(text))
    tables = b""
    for key, frame, words in ((1, 0x1000, {0: 0x1001003}), (2, 0x1001, {2: 0x1002003}),
                              (0x400003, 0x1002, entries)):
        tables += struct.pack("<514Q", key, frame, *(words.get(index, 0) for index in range(512)))
    return header.ljust(128, b"\0") + tables + text


def mappings(*names):
    """Returns adjacent mappings of two pages each."""
    return b"".join(
        b"%x-%x rw-p 00000000 00:02 5    %s\n" % (start, start + 0x2000, name)
        for start, name in zip(range(0x400000, 0x500000, 0x2000), names))


# Two mappings that are one range in the tables; and markers of Linux 6.12 beside a page.
NAMED = dump({page: (0x500 + page) << 12 | WRITTEN for page in range(4)}, mappings(EVIL, b"/two"))
MARKED = dump({0: 0x27c0, 1: 0x47c0, 2: 0x17c0, 3: 0x500000 | WRITTEN}, mappings(b"/one"),
              (6, 5, 12, 50, 23, 24, 27, 31))
FILES = {"named": NAMED, "marked": MARKED, "longer": NAMED + b"?", "shorter": NAMED[:-1]}


def archive(files):
    """Returns a cpio archive (newc), which the kernel unpacks after the one before it."""
    packed = b""
    for number, (name, contents) in enumerate([*files.items(), ("TRAILER!!!", b"")]):
        name = name.encode() + b"\0"
        fields = [number + 1, 0o100644, 0, 0, 1, 0, len(contents), 0, 0, 0, 0, len(name), 0]
        packed += b"070701" + b"".join(b"%08x" % field for field in fields) + name
        packed += bytes(-len(packed) % 4) + contents
        packed += bytes(-len(packed) % 4)
    return packed


class Run:
    """The output of one run, and its exit status."""

    def __init__(self, words, lines, status):
        self.words, self.lines, self.status = words, lines, status

    def objects(self, schema):
        """Checks the JSON lines by the schema; returns the objects between header and end."""
        lines = [line for line in self.lines if line.startswith("{")]
        check(lines, "no JSON")
        found = [json.loads(line) for line in lines]
        for thing in found:
            check(thing["type"] in schema, "no such type in docs/json.md:", thing)
            needed, possible = schema[thing["type"]]
            entry = schema["attributes"]
            if "descriptor" in thing:
                # The members of an entry depend on its kind.
                needed, possible = needed | {"descriptor", "kind"}, possible | entry[0] | entry[1]
            check(needed <= set(thing), "missing", needed - set(thing), "in", thing)
            check(set(thing) <= needed | possible, "unknown", set(thing) - needed - possible)
        first, last = found[0], found[-1]
        check(first["type"] == "header" and first["version"] == 2, "first is", first)
        check(last["type"] == "end", "last is", last)
        return found[1:-1]

    def only(self, schema, kind):
        """Returns the objects of one type."""
        return [thing for thing in self.objects(schema) if thing["type"] == kind]


def mapped(things):
    """Returns the objects that map pages."""
    return [thing for thing in things if thing.get("kind") in ("page", "block")]


def walk(run, schema):
    """A tree: tables of four levels, and an entry of each kind."""
    things = run.objects(schema)
    entries = [thing for thing in things if thing["type"] == "entry"]
    levels = [thing["level"] for thing in things if thing["type"] == "table"]
    check(set(levels) == {0, 1, 2, 3} and levels[0] == 0, "levels", levels)
    check({"page", "noacc", "swap", "poison"} <= {entry["kind"] for entry in entries}, entries)
    addresses = [int(entry["address"], 16) for entry in entries]
    check(addresses == sorted(set(addresses)), "not in order")


def walk_above(run, schema):
    """A tree without tables below level 2."""
    levels = {thing["level"] for thing in run.objects(schema)}
    check(levels == {0, 1, 2}, "levels", levels)


def walk_range(run, schema):
    """Only the first page of the program."""
    entries = run.only(schema, "entry")
    check([entry["address"] for entry in entries] == ["0x400000"], entries)


def maps(run, schema):
    """Ranges with names, one of each kind that attributes make."""
    ranges = run.only(schema, "range")
    names = [thing.get("name") for thing in ranges]
    check({"/bin/kinds", "[stack]", "/dev/mem"} <= set(names) and None not in names, names)
    for name, wanted in (
        ("rwx", lambda thing: thing.get("el0") == "rwx" and thing["el1"] == "rw-"),
        ("device", lambda thing: thing.get("memory") == "Device-nGnRnE"),
        ("tagged", lambda thing: thing.get("memory") == "Normal-Tagged"),
        ("guarded", lambda thing: "guarded" in thing.get("flags", [])),
        ("clean", lambda thing: thing.get("flags") == ["writable"]),
        ("swap", lambda thing: thing["kind"] == "swap" and thing["offset"] > 0),
    ):
        found = [thing for thing in ranges if wanted(thing)]
        check(len(found) == 1 and found[0]["pages"] == 1, name, found)
    for thing in ranges:
        size = int(thing["end"], 16) - int(thing["start"], 16)
        check(size == thing["pages"] * 4096, thing)


def frames(run, schema):
    """Ranges with consecutive frames."""
    ranges = run.only(schema, "range")
    check(all(thing["consecutive"] for thing in ranges), ranges)
    check(all("first_frame" in thing for thing in mapped(ranges)), ranges)


def stat(run, schema):
    """Numbers that add up."""
    things = run.objects(schema)
    total = next(thing for thing in things if thing["type"] == "total")
    levels = [thing for thing in things if thing["type"] == "level"]
    pages = [thing for thing in things if thing["type"] == "pages"]
    check(total["tables"] == sum(level["tables"] for level in levels), things)
    leaves = sum(level["leaves"] * level["entry_size"] for level in levels)
    check(total["pages"] * 4096 == total["mapped_bytes"] == leaves, things)
    for by in ("el0", "memory"):
        numbers = [thing["pages"] for thing in pages if thing["by"] == by]
        check(sum(numbers) == total["pages"] > 20, by, numbers)
    absent = {thing["name"]: thing["pages"] for thing in pages if thing["by"] == "absent"}
    check(absent == {"noacc": 1, "swap": 1, "poison": 1}, absent)


def verify(run, schema):
    """Every page agrees with pagemap, including those that are not in memory."""
    (found,) = run.only(schema, "verified")
    check(found["pages"] > 20 and found["swapped"] == 2 and found["special"] >= 1, found)
    check(found["differences"] == 0, found)


def find_wx(run, schema):
    """The only page that is writable and executable."""
    ranges = run.only(schema, "range")
    check(len(ranges) == 1 and ranges[0]["el0"] == "rwx" and ranges[0]["pages"] == 1, ranges)


def find_dirty(run, schema):
    """Only dirty pages."""
    ranges = run.only(schema, "range")
    check(len(ranges) >= 4 and all("dirty" in thing["flags"] for thing in ranges), ranges)


def find_block(run, schema):
    """The two blocks of zeros that `kinds` has read."""
    ranges = run.only(schema, "range")
    check(ranges and all(thing["kind"] == "block" for thing in ranges), ranges)
    check(sum(thing["pages"] for thing in ranges) == 1024, ranges)


def find_frame(run, schema):
    """The page of device registers, whose frame is given by the machine."""
    (found,) = run.only(schema, "entry")
    check(found["memory"] == "Device-nGnRnE" and found["frame"] == "0x9000", found)


def find_alias(run, schema):
    """The first page of the program is mapped a second time, as a file."""
    found = [thing for thing in run.only(schema, "alias") if thing["address"] == "0x400000"]
    check(len(found) == 1 and found[0]["mappings"] >= 2, found)
    # `kinds` has read two blocks that it never wrote: one frame, of zeros.
    blocks = [thing for thing in run.only(schema, "alias") if thing["pages"] >= 512]
    check(not blocks, blocks)


def translate(run, schema):
    """The steps to a page, and an address that is not mapped."""
    things = run.objects(schema)
    steps = [thing for thing in things if thing["type"] == "step" and thing["address"] == "0x400000"]
    check([step["level"] for step in steps] == [0, 1, 2, 3], steps)
    check(all(a["frame"] == b["table"] for a, b in zip(steps, steps[1:])), steps)
    there, nowhere = [thing for thing in things if thing["type"] == "translation"]
    check(int(there["physical"], 16) == int(steps[3]["frame"], 16) << 12, there)
    check(not nowhere["mapped"] and "physical" not in nowhere, nowhere)


def tagged(run, schema):
    """An address with a tag is the address without it."""
    (there,) = run.only(schema, "translation")
    check(there["address"] == "0x401000" and there["tag"] == "0xb4", there)
    check(there["physical"] == "0x501000", there)


def tagged_range(run, schema):
    """A range with a tag is the range without it."""
    entries = run.only(schema, "entry")
    check([entry["address"] for entry in entries] == ["0x401000"], entries)
    check(json.loads(run.lines[0])["tag"] == "0xb4", run.lines)


def two_mappings(run, schema):
    """One range in the tables that is two mappings of the process. The name is valid JSON."""
    ranges = run.only(schema, "range")
    found = [(thing["start"], thing["end"], thing["name"]) for thing in ranges]
    name = "/\rok 1 x\x1b[\ufffd'\\"
    check(found == [("0x400000", "0x402000", name), ("0x402000", "0x404000", "/two")], found)


def escaped(run, _):
    """A name is escaped by its bytes."""
    end = r" /\rok 1 x\x1b[\xc3'\\"
    check(any(line.endswith(end) for line in run.lines), run.lines)
    check(all(line.isprintable() and len(line) <= 78 for line in run.lines), run.lines)


def marked(run, schema):
    """Markers have the names that the kernel gives them."""
    found = [thing["marked"] for thing in run.only(schema, "entry") if thing["kind"] == "marker"]
    check(found == [["poisoned"], ["guard"], ["uffd_wp"]], found)


def diff(run, schema):
    """Two rounds."""
    rounds = run.only(schema, "round")
    check(len(rounds) == 2 and rounds[1]["time_ms"] >= 20, rounds)


def heat(kind, hot, what):
    """Two rounds in which a process that watches itself has written or used its own pages."""

    def look(run, schema):
        rounds = run.only(schema, "round")
        check([thing["round"] for thing in rounds] == [1, 2], rounds)
        runs = run.only(schema, "run")
        for thing in rounds:
            check(thing["kind"] == kind and 0 < thing[what] <= thing["pages"], thing)
            told = [part for part in runs if part["round"] == thing["round"]]
            check(sum(p["pages"] for p in told if p["kind"] == hot) == thing[what], told)
        sizes = [(int(p["end"], 16) - int(p["start"], 16)) >> 12 for p in runs]
        check(sizes == [part["pages"] for part in runs], runs)
        for thing in rounds:
            unsure = [part["pages"] for part in runs if part["round"] == thing["round"]
                      and part["kind"] in ("away", "busy", "new")]
            check(sum(unsure) == thing["uncertain"], thing, unsure)
        kinds = {part["kind"] for part in runs}
        check({hot, "absent"} <= kinds <= {hot, "absent", "away", "busy", "new"}, runs)

    return look


def saved(run, schema):
    """A file."""
    (found,) = run.only(schema, "saved")
    check(found["tables"] >= 4 and found["bytes"] > found["tables"] * 4096, found)


def walk_file(run, schema):
    """A tree from a file."""
    check(run.only(schema, "entry") and not json.loads(run.lines[0])["live"], run.lines)


def nothing(run, schema):
    """No difference."""
    check(run.objects(schema) == [], run.lines)


def columns(run, _):
    """Lines that fit a serial console, after the two columns that init adds."""
    check(len(run.lines) > 1, "no lines")
    for line in run.lines:
        check(len(line) <= 78, "too long:", line)


def has(*words):
    """Lines that fit; one of them has all of the words."""

    def said(run, schema):
        columns(run, schema)
        check(any(all(word in line for word in words) for line in run.lines), run.lines)

    return said


def only_says(*words):
    """An error of one line that has all of the words, and no other output."""

    def said(run, schema):
        check(len(run.lines) == 1, run.lines)
        says(*words)(run, schema)

    return said


def says(*words):
    """An error of one line that has all of the words."""

    def said(run, _):
        check(len([line for line in run.lines if line.startswith("pt: ")]) == 1, run.lines)
        line = next(line for line in run.lines if line.startswith("pt: "))
        check(all(word in line for word in words), line)

    return said


# Words, exit status, and the check of the output.
RUNS = [
    ("kinds walk --json", 0, walk),
    ("kinds walk --level 2 --json", 0, walk_above),
    ("kinds walk --range 400000-401000 --json", 0, walk_range),
    ("kinds maps --json", 0, maps),
    ("kinds maps --frames --json", 0, frames),
    ("kinds stat --json", 0, stat),
    ("kinds verify --json", 0, verify),
    ("kinds find --wx --json", 0, find_wx),
    ("kinds find --dirty --json", 0, find_dirty),
    ("kinds find --young --json", 0, lambda run, schema: check(run.only(schema, "range"))),
    ("kinds find --block --json", 0, find_block),
    ("kinds find --frame 9000 --json", 0, find_frame),
    ("kinds find --alias --json", 0, find_alias),
    ("kinds translate 400000 0x7000000000 --json", 0, translate),
    ("kinds diff --count 2 --interval 10 --json", 0, diff),
    ("kinds walk", 0, columns),
    ("kinds maps", 0, columns),
    ("kinds maps --frames", 0, columns),
    ("kinds stat", 0, columns),
    ("kinds verify", 0, columns),
    ("kinds find --dirty", 0, columns),
    ("kinds find --alias", 0, columns),
    ("kinds find --frame 9000", 0, columns),
    ("kinds translate 400000 0x7000000000", 0, columns),
    ("kinds diff --count 1 --interval 10", 0, columns),
    ("pt dirty self --count 2 --interval 10 --json", 0, heat("dirty", "dirty", "written")),
    ("pt idle self --count 2 --interval 10 --json", 0, heat("idle", "accessed", "accessed")),
    ("kinds dirty --count 1 --interval 10", 0, lambda run, _: check(run.lines)),
    ("pt dirty self --count 1 --interval 10", 0, columns),
    ("pt idle 1 --count 1 --interval 10", 0, columns),
    # The files of one boot are those of one machine.
    ("pt save 1 /tmp/x --json", 0, saved),
    ("pt walk /tmp/x --json", 0, walk_file),
    ("pt diff /tmp/x /tmp/x --json", 0, nothing),
    ("pt maps /tmp/x", 0, columns),
    ("pt stat /tmp/x", 0, columns),
    ("pt save 1 /tmp/x", 1, only_says("/tmp/x", "EEXIST")),
    ("pt walk /tmp/x", 0, columns),
    # Files that are made here.
    ("pt find /named --dirty --json", 0, two_mappings),
    ("pt maps /named --json", 0, two_mappings),
    ("pt maps /named", 0, escaped),
    ("pt find /named --dirty", 0, escaped),
    ("pt translate /named 0xb400000000401000 --json", 0, tagged),
    ("pt translate /named b400000000401000", 0, has("0x401000", "tag 0xb4")),
    ("pt walk /named --range b400000000401000-b400000000402000 --json", 0, tagged_range),
    ("pt walk /named --range b400000000401000-b400000000402000", 0, has("tag 0xb4")),
    ("pt walk /named --range 401000-8000000000", 0, columns),
    ("pt walk /marked --json", 0, marked),
    ("pt maps /marked", 0, has("marker", "0x2 poisoned")),
    ("pt walk /longer", 1, only_says("/longer", "more than", str(len(NAMED)))),
    ("pt walk /shorter", 1, only_says("/shorter", str(len(NAMED)))),
    # A file without end: the beginning shows that it is not a dump.
    ("pt walk /dev/zero", 1, only_says("/dev/zero", "not a dump")),
    ("pt verify /tmp/x", 2, says("verify", "pagemap")),
    ("pt dirty /tmp/x", 2, only_says("file")),
    ("pt diff /tmp/x", 2, only_says("file")),
    ("pt walk /bin/pt", 1, says("/bin/pt", "not a dump")),
    ("pt walk /nowhere", 1, says("/nowhere", "ENOENT")),
    ("pt walk 99999", 1, only_says("99999", "no user tables", "ESRCH")),
    ("pt maps 99999 --json", 1, only_says("99999", "no user tables", "ESRCH")),
    # A kernel thread.
    ("pt maps 2", 1, only_says("process 2", "no user tables", "ESRCH")),
    ("pt dirty 2 --count 1", 1, only_says("process 2", "no user tables", "ESRCH")),
    ("pt idle 2 --count 1 --json", 1, only_says("process 2", "no user tables", "ESRCH")),
    ("pt walk 99999999999", 1, says("99999999999", "ESRCH")),
    ("pt translate 1 1000000000000", 2, only_says("0x1000000000000", "48")),
    ("pt translate 1 400000 --range 0-1000", 2, only_says("--range")),
    ("pt diff 1 99999", 1, only_says("process 99999", "no user tables", "ESRCH")),
    ("pt diff 1 2 --json", 1, only_says("process 2", "no user tables", "ESRCH")),
    ("pt diff 1 /nowhere", 1, only_says("/nowhere", "ENOENT")),
    ("pt diff /named /marked", 1, only_says("different kernels")),
    ("pt walk 1 --range 0-1000000000001", 2, only_says("0x1000000000001", "48")),
    ("pt dirty 1 --range ffff000000000000-ffff000000001000", 2, only_says("48")),
    ("pt walk 1 --range b400000000400000-b500000000400000", 2, only_says("48")),
    ("pt translate 1 xyz", 2, says("xyz")),
    ("pt dirty 99999", 1, only_says("99999", "no user tables", "ESRCH")),
    ("pt idle 1 --count x", 2, says("--count", "x")),
    ("pt walk 1 --level 4", 2, says("--level", "4")),
    ("pt walk 1 --range 5-5", 2, says("--range", "5-5")),
    ("pt maps 1 --wx", 2, says("--wx")),
    ("pt frob 1", 2, says("frob")),
    ("pt find 1", 2, says("find")),
    ("pt find all --wx", 2, only_says("find all", "--frame")),
    ("pt walk /named --source bpf", 2, only_says("--source", "file")),
    ("pt save 1 /nowhere/x", 1, only_says("/nowhere/x", "ENOENT")),
    ("pt --version", 0, lambda run, _: check(re.fullmatch(r"pt \d+\.\d+\.\d+", run.lines[0]))),
    ("pt --help", 0, lambda run, _: check("Usage: pt" in run.lines[0], run.lines)),
]

# The examples of the manual page, with 1 in place of the shell's $$.
with open("docs/man/pt.1", encoding="utf-8") as page:
    EXAMPLES = [line.removeprefix(".Dl # ").strip().replace("$$", "1") for line in page if line.startswith(".Dl # pt")]
RUNS += [(words, 0, lambda run, _: check(run.lines)) for words in EXAMPLES]


def boots():
    """Yields the runs in groups, one for each command line. A file exists only in the boot that wrote it."""
    (save,) = [run for run in RUNS if run[0] == "pt save 1 /tmp/x --json"]
    group = []
    for run in RUNS:
        more = [save] if "/tmp/x" in run[0] and save not in (*group, run) else []
        more.append(run)
        if sum(len(words.split()) + 1 for words, _, _ in group + more) > WORDS:
            yield group
            group, more = [], [save, run] if "/tmp/x" in run[0] and run != save else [run]
        group += more
    yield group


def boot(image, initramfs, group):
    """Boots, and yields each run of the group."""
    words = " + ".join(run[0] for run in group).split()
    environment = dict(os.environ, QUIET="1", CPU="max", SMP="2", QEMU_ARGS="-M mte=on", KUNIT="")
    # Some runs should fail, so the verdict of init does not count.
    subprocess.run(
        ["tests/boot", "pt", image, initramfs, *words],
        env=environment, stdout=subprocess.DEVNULL, check=False,
    )
    with open(LOG, encoding="utf-8", errors="replace") as file:
        log = file.read()
    check(not trouble(log), "kernel:", trouble(log))
    lines, status = [], 0
    for line in log.partition("KTAP version 1\n")[2].splitlines():
        if line.startswith("  "):
            lines.append(line[2:])
        elif match := STATUS.match(line):
            status = int(match.group(2))
        elif match := RESULT.match(line):
            yield Run(match.group(2), lines, status)
            lines, status = [], 0


def main():
    """Runs everything; prints the first run that was not as expected."""
    image, initramfs = sys.argv[1:]
    with open(initramfs, "rb") as file, open(WITH_FILES, "wb") as whole:
        whole.write(file.read() + gzip.compress(archive(FILES), mtime=0))
    schema, done = members(), 0
    for group in boots():
        found = {run.words: run for run in boot(image, WITH_FILES, group)}
        for words, status, look in group:
            try:
                run = found.get(words)
                check(run, "did not run")
                check(run.status == status, "exit status", run.status, "expected", status)
                look(run, schema)
                done += 1
            except (Wrong, ValueError, KeyError, StopIteration, IndexError) as error:
                print(f"pt: `{words}`: {error!r}", *(run.lines[:20] if run else []), sep="\n  ")
                return 1
    print(f"{done} runs as expected")
    return 0


if __name__ == "__main__":
    sys.exit(main())
