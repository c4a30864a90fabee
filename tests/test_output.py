"""Tests programs whose output cannot be written: every byte arrives, or the exit status is an error.

The programs are those of `make programs`, run on this machine by qemu-user. They print a saved tree, which needs
no kernel with the call.
"""

import errno
import fcntl
import json
import os
import re
import resource
import signal
import struct
import subprocess
import tempfile
import unittest

BIN = "target/aarch64-unknown-linux-gnu/release"
PROGRAMS = ("init", "pt", "walktest", "uffd", "contract", "stress", "moved", "lazyload", "kinds")
SEED = "fuzz/corpus/dump/seed-4k39"
# The offset of the descriptors of its only table of level 3.
ENTRIES = 0x20b0


# Runs a command with an empty /dev, and without standard output.
WITHOUT_DEV = ("unshare", "--map-root-user", "--mount", "bash", "-c", 'mount -t tmpfs none /dev && exec "$@" >&-', "x")


def make_dump(path):
    """Writes a dump of 512 pages, each of which is a separate line: 60 KB of JSON."""
    with open(SEED, "rb") as file:
        dump = bytearray(file.read())
    for index in range(512):
        struct.pack_into("<Q", dump, ENTRIES + 8 * index, (0x1000 + 2 * index) << 12 | 0x743)
    with open(path, "wb") as file:
        file.write(dump)


class Output(unittest.TestCase):
    """Has one test for each kind of descriptor that does not accept the output."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.dump = f"{self.folder}/dump"
        make_dump(self.dump)
        self.walk = ["qemu-aarch64", f"{BIN}/pt", "walk", self.dump, "--json"]
        # Python ignores SIGPIPE and SIGXFSZ; its children inherit that with `restore_signals=False`.
        self.assertEqual(signal.getsignal(signal.SIGPIPE), signal.SIG_IGN)

    def test_nothing_is_lost_in_a_pipe_that_does_not_block(self):
        whole = subprocess.run(self.walk, stdout=subprocess.PIPE, check=True).stdout
        self.assertGreater(len(whole), 50000)
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(writer, False)
        # The pipe is full from the beginning, so the first write has to wait.
        filled = os.write(writer, b"." * 4096)
        with subprocess.Popen(self.walk, stdout=writer, stderr=subprocess.PIPE) as process:
            os.close(writer)
            with open(f"/proc/{process.pid}/stat", encoding="ascii") as stat:
                # Wait until it sleeps, or has ended, which would be an error.
                while stat.read().split()[2] not in "SZ":
                    stat.seek(0)
            with open(reader, "rb") as file:
                text = file.read()[filled:]
            self.assertEqual(process.stderr.read(), b"")
        self.assertEqual(process.returncode, 0)
        self.assertEqual(text, whole)

    def test_a_file_may_have_the_longest_name(self):
        name = "x" * 255
        # The path of a file has at most 255 bytes too.
        for path in (name, f"./{name[2:]}"):
            done = subprocess.run(["qemu-aarch64", os.path.abspath(f"{BIN}/pt"), "save", "dump", path],
                                  cwd=self.folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, check=False)
            self.assertEqual((done.returncode, done.stderr), (0, b""))
            self.assertEqual(os.path.getsize(f"{self.folder}/{path}"), os.path.getsize(self.dump))
        self.assertEqual(len(os.listdir(self.folder)), 3)

    def test_the_options_of_init_are_those_of_its_pages(self):
        done = subprocess.run(["qemu-aarch64", f"{BIN}/init"], stdout=subprocess.PIPE, text=True, check=False)
        options = re.findall(r"^  (--\S+)", done.stdout, re.MULTILINE)
        with open("docs/boards.md", encoding="utf-8") as page:
            self.assertEqual(re.findall(r"^\| `(--\S+)` \|", page.read(), re.MULTILINE), options)
        with open("docs/man/tablewalk-init.8", encoding="utf-8") as page:
            items = re.findall(r"^\.It Fl (-\S+) Ns = Ns (?:Cm|Ar) (.*)$", page.read(), re.MULTILINE)
        written = [f"-{name}={value}" for name, values in items for value in values.split(" | ")]
        self.assertEqual(written, options)

    def test_a_full_device_is_a_failure_and_named(self):
        with open("/dev/full", "w", encoding="ascii") as full:
            done = subprocess.run(self.walk, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"^\S+: standard output: ENOSPC \(No space left on device\)\n$")

    def test_a_closed_descriptor_takes_nothing(self):
        for program in (["pt", *self.walk[2:]], ["uffd", "--version"]):
            done = subprocess.run(["qemu-aarch64", f"{BIN}/{program[0]}", *program[1:]], stderr=subprocess.PIPE,
                                  text=True, check=False, preexec_fn=lambda: os.close(1))
            self.assertEqual(done.returncode, 1, program)
            self.assertRegex(done.stderr, r"^\S+: standard output: EBADF \(.*\)\n$")
        # Nothing is lost where nothing is printed.
        done = subprocess.run(self.walk, stdout=subprocess.PIPE, check=False, preexec_fn=lambda: os.close(2))
        self.assertEqual(done.returncode, 0)

    def test_what_excludes_each_other_is_refused(self):
        for option in (["--signals"], ["--zeros"], ["--threads", "2"], ["--handlers", "2"], ["--batch", "2"]):
            done = subprocess.run(["qemu-aarch64", f"{BIN}/uffd", "--alias", *option], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, check=False)
            self.assertEqual((done.returncode, done.stdout), (2, ""), option)
            self.assertIn("--alias", done.stderr)

    def test_a_refusal_is_the_only_output(self):
        for words in (["diff", self.dump], ["dirty", self.dump], ["idle", self.dump], ["diff", self.dump, "/nowhere"]):
            done = subprocess.run(["qemu-aarch64", f"{BIN}/pt", *words], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, check=False)
            self.assertEqual(done.returncode, 1 if "/nowhere" in words else 2, words)
            self.assertEqual((done.stdout, done.stderr.count("\n")), ("", 1), words)

    def pt(self, *words):
        """Runs pt; returns the finished process."""
        return subprocess.run(["qemu-aarch64", f"{BIN}/pt", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, check=False)

    def test_nothing_is_printed_for_a_file_that_cannot_be_saved(self):
        for name in (self.dump, self.folder, f"{self.folder}/nowhere/x", ""):
            for more in ([], ["--json"]):
                done = self.pt("save", self.dump, name, *more)
                self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (1, "", 1), name)

    def test_what_a_range_left_out_of_a_file_is_not_called_a_change(self):
        part = f"{self.folder}/part"
        # Of the tables, only that of level 1, whose entry leads to one that is left out.
        self.assertEqual(self.pt("save", self.dump, part, "--range", "7ffffff000-8000000000").returncode, 0)
        done = self.pt("maps", part)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, r"\n([2-9] tables are|1 table is) not in this file\n$")
        self.assertNotIn("changed", done.stdout)

    def test_nothing_in_a_range_is_said(self):
        done = self.pt("stat", self.dump, "--range", "7ffffff000-8000000000")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, r"\ntables [0-9]+, [0-9]+ KiB: nothing mapped\n$")

    def test_a_name_cannot_begin_a_line(self):
        evil, shown = f"{self.folder}/a\nok 1 x\x1b[", "a\\nok 1 x\\x1b["
        for words in (["save", self.dump, evil], ["maps", evil], ["save", self.dump, evil], ["maps", evil + "x"]):
            done = self.pt(*words)
            self.assertIn(shown, done.stdout + done.stderr, words)
            self.assertNotIn("\nok", done.stdout + done.stderr, words)

    def test_a_source_is_for_the_target_that_is_a_process(self):
        for words in (["diff", self.dump, "1"], ["diff", "1", self.dump]):
            done = self.pt(*words, "--source", "call")
            # The emulation of processes does not have the call.
            self.assertEqual((done.returncode, done.stdout), (4, ""), words)
            self.assertIn("this kernel has no remap_page_table", done.stderr)
        done = self.pt("diff", self.dump, self.dump, "--source", "call")
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertIn("--source", done.stderr)

    def test_the_end_of_a_range_is_named_as_it_was_given(self):
        for words, said in ((["0-1000000000001"], "0x1000000000001: "), (["2000000000000-2000000001000"], "0x2000000000000: ")):
            done = self.pt("maps", self.dump, "--range", *words)
            self.assertEqual((done.returncode, done.stdout), (2, ""))
            self.assertIn(f"pt: {said}", done.stderr)

    def test_words_that_are_wrong_are_named(self):
        for words, said in ((["pt", "find", "1"], "find needs TARGET WHAT"), (["pt", "walk"], "walk needs TARGET"),
                            (["pt", "save", "1"], "save needs PID FILE"), (["pt", "look", "1"], "`look`"),
                            (["pt", "", "1"], "``"), (["pt", "walk", ""], "``"), (["lazyload", "a", "b"], "b:"),
                            (["lazyload", "--frames", "+5"], "+5"), (["pt", "dirty", "1", "--count", "+5"], "+5"),
                            (["pt", "walk", "1", "more"], "`more`"), (["pt", "save", "1", "a", "more"], "`more`"),
                            (["pt", "find", "1", "more", "--wx"], "`more`"), (["pt", "look", "1", "2"], "`look`"),
                            (["pt", "diff", "1", "2", "--count", "3"], "--count"),
                            (["pt", "walk", "all"], "`all`"), (["pt", "diff", "1", "all"], "`all`"),
                            (["pt", "save", "all", "x"], "`all`"), (["pt", "translate", "all", "0"], "`all`")):
            done = subprocess.run(["qemu-aarch64", f"{BIN}/{words[0]}", *words[1:]], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, check=False)
            self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (2, "", 1), words)
            self.assertIn(said, done.stderr, words)

    def test_an_option_is_given_once(self):
        for words, option in ((["pt", "walk", "/x", "--range", "0-1", "--range", "1-2"], "--range"),
                              (["pt", "walk", "/x", "--level", "-1", "--json", "--level", "2"], "--level"),
                              (["pt", "maps", "--source", "bpf", "/x", "--source", "kcore"], "--source"),
                              (["pt", "find", "/x", "--frame", "1", "--frame", "2"], "--frame"),
                              (["pt", "dirty", "1", "--count", "1", "--count", "1"], "--count"),
                              (["walktest", "--pid", "1", "--pid", "2"], "--pid"),
                              (["uffd", "--pages", "1", "--quiet", "--pages", "2"], "--pages"),
                              (["lazyload", "--frames", "4", "--frames", "5"], "--frames"),
                              (["checkpoint", "--rounds", "1", "--rounds", "2"], "--rounds"),
                              (["stress", "--seed", "1", "--seed", "2"], "--seed"),
                              (["hostile", "--calls", "1", "--calls", "2"], "--calls"),
                              (["tracked", "--pages", "1", "--pages", "2"], "--pages"),
                              (["tracked", "races", "calm"], "calm")):
            done = subprocess.run(["qemu-aarch64", f"{BIN}/{words[0]}", *words[1:]], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, check=False)
            self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (2, "", 1), words)
            self.assertIn(f"{words[0]}: {option}: ", done.stderr, words)

    def test_only_what_was_tried_is_said_to_be_missing(self):
        # The emulation of processes has neither the call nor BPF; the call gives no tables of the kernel.
        for words, status in ((["1", "--source", "bpf"], 4), (["1", "--source", "call"], 4), (["kernel"], None)):
            done = subprocess.run(["qemu-aarch64", f"{BIN}/pt", "walk", *words], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, check=False)
            self.assertEqual(done.returncode, status or done.returncode, words)
            self.assertEqual("remap_page_table" in done.stderr, "call" in words, done.stderr)

    def test_every_program_says_that_its_output_is_lost(self):
        for program in PROGRAMS:
            with open("/dev/full", "w", encoding="ascii") as full:
                done = subprocess.run(["qemu-aarch64", f"{BIN}/{program}", "--help"], stdout=full,
                                      stderr=subprocess.PIPE, text=True, check=False)
            # init is not process 1 here, so its help is an error already.
            self.assertEqual(done.returncode, 2 if program == "init" else 1, program)
            self.assertIn("standard output: ENOSPC", done.stderr, program)

    def test_what_fits_a_full_disk_is_a_beginning_without_an_end(self):
        limit = 10000
        with open(f"{self.folder}/out", "w+b") as out:
            done = subprocess.run(
                self.walk, stdout=out, stderr=subprocess.PIPE, text=True, check=False, restore_signals=False,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
            out.seek(0)
            lines = out.read().decode().splitlines()
        self.assertEqual(done.returncode, 1)
        self.assertIn("standard output: EFBIG", done.stderr)
        # The last line is cut off where the disk is full.
        for line in lines[:-1]:
            self.assertNotEqual(json.loads(line)["type"], "end")
        self.assertNotIn('"end"', lines[-1])

    def test_a_reader_that_goes_is_an_end_where_no_signal_says_so(self):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(self.walk, stdout=writer, stderr=subprocess.PIPE, text=True, check=False,
                              restore_signals=False)
        os.close(writer)
        self.assertEqual(done.returncode, 1)
        # The error is printed once: the program has stopped.
        self.assertRegex(done.stderr, r"^\S+: standard output: EPIPE \(Broken pipe\)\n$")

    def test_a_status_that_says_more_is_kept(self):
        with open("/dev/full", "w", encoding="ascii") as full:
            done = subprocess.run(["qemu-aarch64", f"{BIN}/pt", "nonsense"], stdout=subprocess.PIPE,
                                  stderr=full, check=False)
        self.assertEqual(done.returncode, 2)

    def test_no_file_gets_the_number_of_a_closed_descriptor(self):
        for closed in [(0,), (1,), (2,), (0, 1, 2)]:
            fifo = f"{self.folder}/fifo{len(closed)}{closed[0]}"
            os.mkfifo(fifo)

            def close(numbers=closed):
                for number in numbers:
                    os.close(number)

            with subprocess.Popen(["qemu-aarch64", f"{BIN}/pt", "walk", fifo], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=close) as process:
                writer = self.open_when_read(process, fifo)
                files = f"/proc/{process.pid}/fd"
                names = {number: os.readlink(f"{files}/{number}") for number in map(int, os.listdir(files))
                         if number in closed}
                os.close(writer)
                process.communicate()
            self.assertEqual(names, {number: "/dev/null" for number in closed})

    @unittest.skipUnless(subprocess.run([*WITHOUT_DEV, "true"], check=False, capture_output=True).returncode == 0,
                         "cannot mount anything")
    def test_no_file_gets_it_either_where_there_is_no_device(self):
        fifo = f"{self.folder}/fifo"
        os.mkfifo(fifo)
        with subprocess.Popen([*WITHOUT_DEV, "qemu-aarch64", f"{BIN}/pt", "walk", fifo], stdin=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as process:
            writer = self.open_when_read(process, fifo)
            files = f"/proc/{process.pid}/fd"
            names = {number: os.readlink(f"{files}/{number}") for number in os.listdir(files)}
            os.close(writer)
            self.assertIn("pt: ", process.communicate()[1])
        self.assertEqual(names.get("1"), "/")
        # What is printed is lost then, and the status says so.
        done = subprocess.run([*WITHOUT_DEV, *self.walk], stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("standard output: EBADF", done.stderr)

    def open_when_read(self, process, fifo):
        """Waits until the process opens the FIFO for reading; opens it for writing."""
        while process.poll() is None:
            try:
                return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                self.assertEqual(error.errno, errno.ENXIO)
        return self.fail("it did not read the file")


if __name__ == "__main__":
    unittest.main()
