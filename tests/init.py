#!/usr/bin/env python3
"""Boots init in QEMU where devices, files or words are missing, wrong or unusual, and checks how init reacts.

usage: tests/init.py IMAGE BARE BIN

IMAGE is a kernel with kernel/config/init.config, BARE one with bare.config, BIN the folder of the programs; the
examples are those in build/. The verdict of each boot is checked twice: in the output, and by the emulator's exit
status or the kernel's message about the end. Logs are in build/log/init/. The last line is `N boots as expected`,
or how many were not.
"""

import concurrent.futures
import dataclasses
import os
import random
import re
import subprocess
import sys
import threading

from judge import trouble

# Seconds after which a boot counts as hung, and the runner of QEMU with a later limit of its own.
HUNG = 60
QEMU = [f"{os.path.dirname(__file__)}/qemu", f"{HUNG + 30}"]
LOGS = "build/log/init"
SEMIHOSTING = ["-semihosting-config", "enable=on,target=native,userspace=on"]
EARLY = "console=ttyS9 earlycon=pl011,0x9000000 keep_bootcon printk.devkmsg=on"
# A command that succeeds, one that fails, and one that takes many minutes.
GOOD, BAD, ENDLESS = "pt stat self", "pt nonsense", "stress --rounds 1000000"
LED = 5


@dataclasses.dataclass
class Case:
    """A boot: the kernel command line before and after ` -- `, and the expected result."""

    name: str
    words: str | bytes
    # Regular expressions that have to match a line each, in this order.
    expect: list[str]
    status: int | None = 0
    kernel: str = "console=ttyAMA0"
    # Regular expressions that must not match.
    absent: list[str] = dataclasses.field(default_factory=list)
    bare: bool = False
    initrd: str = "small"
    qemu: list[str] = dataclasses.field(default_factory=list)
    # How many seconds after the last expected line the emulator is killed.
    linger: float | None = None
    # A line, and what is typed after it was printed.
    types: tuple[str, bytes] | None = None


def end(name, words, *expect, **more):
    """A boot whose end is checked by the kernel's message."""
    return Case(name, words, list(expect), **more)


def refuse(name, words, complaint, **more):
    """A boot with an invalid command line: init says so, runs nothing, and fails."""
    words = words if isinstance(words, bytes) else words.encode()
    return Case(
        f"nonsense-{name}", b"--verdict=semihosting " + words,
        ["init: command line: " + complaint, "^tablewalk: FAIL$"], status=1,
        absent=["KTAP version", "^ *ok", "reboot:"], qemu=SEMIHOSTING, **more,
    )


def way(name, words, status, *expect, **more):
    """A boot that reports its verdict by the exit status of the emulator."""
    more.setdefault("absent", []).append("reboot:")
    more["qemu"] = SEMIHOSTING + more.get("qemu", [])
    return Case(name, f"--verdict=semihosting {words}", list(expect), status, **more)


ENDS = [
    end("poweroff", GOOD, "^ok 1", "^tablewalk: PASS$", "reboot: Power down"),
    end("poweroff-told", f"--end=poweroff {BAD}", "^not ok 1", "^tablewalk: FAIL$", "reboot: Power down"),
    end("reboot", f"--end=reboot {GOOD}", "^tablewalk: PASS$", "reboot: Restarting system"),
    end("halt", f"--end=halt {GOOD}", "^tablewalk: PASS$", "reboot: System halted", status=None, linger=0),
    end("stay", f"--end=stay {GOOD}", "^tablewalk: PASS$", status=None, linger=2, absent=["reboot:"]),
    # PASS, FAIL and SKIP as the exit code of process 1, in the second byte.
    end("panic", f"--end=panic {GOOD}", "^tablewalk: PASS$", "Attempted to kill init! exitcode=0x00000000"),
    end("panic-fail", f"--verdict=panic {BAD}", "^tablewalk: FAIL$",
        "Attempted to kill init! exitcode=0x00000100"),
    end("panic-pass", f"--verdict=panic {GOOD}", "^tablewalk: PASS$", "reboot: Power down"),
    end("panic-skip", "--verdict=panic --end=reboot walktest", "^tablewalk: SKIP$",
        "Attempted to kill init! exitcode=0x00000400", bare=True),
    way("semihosting", GOOD, 0, "^ok 1", "^tablewalk: PASS$"),
    way("semihosting-fail", f"{BAD} + {GOOD}", 1, "^not ok 1", "^ok 2", "^tablewalk: FAIL$"),
    # If nothing answers the semihosting call, init must not panic, and must use the other way.
    end("semihosting-missing", f"--verdict=semihosting {GOOD}", "^tablewalk: PASS$",
        "init: semihosting: killed by signal 4", "reboot: Power down"),
    end("semihosting-or-panic", f"--verdict=semihosting --verdict=panic {BAD}",
        "init: semihosting: killed by signal 4", "kill init! exitcode=0x00000100"),
    way("timeout", f"--timeout=2 {ENDLESS} + {GOOD}", 1, "^# stress.*: not done after 2 s",
        "^not ok 1 stress", "^ok 2", "^tablewalk: FAIL$"),
]

CONSOLES = [
    # Nobody prints anything; the status still reports the verdict.
    way("mute", GOOD, 0, kernel="console=ttyS9", absent=["."]),
    way("mute-fail", BAD, 1, kernel="console=ttyS9", absent=["."]),
    way("mute-nonsense", "--nonsense", 1, kernel="console=ttyS9", absent=["."]),
    # The kernel writes to a port that has no driver; init writes to the kernel log.
    way("early", GOOD, 0, "unable to open an initial console",
        "init: /dev/console: ENODEV.*kernel log", r"\] ok 1", r"\] tablewalk: PASS", kernel=EARLY),
    way("early-bare", "walktest", 4, r"init: /dev/console: ENODEV", r"\] tablewalk: SKIP",
        kernel=EARLY, bare=True),
    # The last line is printed although the kernel accepts only ten lines in five seconds.
    way("early-ratelimited", f"pt walk self + {BAD}", 1, r"\] tablewalk: FAIL",
        kernel=EARLY.replace("printk.devkmsg=on", ""), absent=["not ok 2"]),
    # Output goes to the last console= that exists; the verdict goes to all.
    way("two", GOOD, 0, "^ok 1", "^tablewalk: PASS$", kernel="console=hvc0 console=ttyAMA0"),
    way("two-turned", BAD, 1, "^tablewalk: FAIL$", kernel="console=ttyAMA0 console=hvc0", absent=["^not ok"]),
    way("second-missing", GOOD, 0, "^ok 1", "^tablewalk: PASS$", kernel="console=ttyAMA0 console=ttyS9"),
    way("none-named", GOOD, 0, "^ok 1", "^tablewalk: PASS$", kernel=""),
]

LACKS = [
    way("bare", "pt maps self + walktest", 4, "init: mount /proc: ENODEV.*CONFIG_PROC_FS",
        "init: mount /sys: ENODEV.*CONFIG_SYSFS", "init: mount /dev: ENODEV.*CONFIG_DEVTMPFS",
        "SKIP this kernel has no remap_page_table", "^ok 2 walktest # SKIP", "^tablewalk: SKIP$", bare=True),
    way("bare-all", "", 4, "pass:0 fail:0 skip:7", "^tablewalk: SKIP$", bare=True, initrd="all"),
    way("bare-led", "--led=green pt maps self", 1, "no LED `green`.*ENOENT", "^tablewalk: FAIL$", bare=True),
    way("read-only", GOOD, 0, r"Mounted root \(ext2 filesystem\) readonly", "^ok 1", "^tablewalk: PASS$",
        initrd="disk", kernel="console=ttyAMA0 root=/dev/ram0 init=/init", absent=["init: mount", "reboot:"]),
    # No folders to mount anything: the kernel opened the console before it mounted the root.
    way("read-only-empty", "walktest", 1, r"Mounted root \(ext2 filesystem\) readonly",
        *[f"init: mount {folder}: ENOENT.*: making the folder: EROFS" for folder in ("/proc", "/sys", "/dev")],
        "^ +# pagemap: ENOENT", "^not ok 1", "^tablewalk: FAIL$", initrd="empty",
        kernel="console=ttyAMA0 root=/dev/ram0 init=/init"),
    # And no console either, nor anything that could be opened in its place.
    way("read-only-mute", "walktest", 1, initrd="empty",
        kernel="console=ttyS9 root=/dev/ram0 init=/init", absent=["."]),
    way("read-only-mute-pass", "--timeout=60 pt stat 1", 0, initrd="empty",
        kernel="console=ttyS9 root=/dev/ram0 init=/init", absent=["."]),
]

LEDS = [
    end("led-pass", f"--led=green --end=halt {GOOD}", "^tablewalk: PASS$", "reboot: System halted",
        status=None, linger=0),
    end("led-stay", f"--led=green --end=stay {GOOD}", "^tablewalk: PASS$", status=None, linger=3),
    end("led-fail", f"--led=green --end=stay {BAD}", "^tablewalk: FAIL$", status=None, linger=4),
    # Without lockdown and Yama there are no restrictions to test.
    end("led-skip", "--led=green --end=stay hostile restrictions", "^tablewalk: SKIP$", status=None, linger=4,
        initrd="all"),
    end("led-mute", "--led=green --end=stay --nonsense", f"output {LED} to 1", status=None, linger=4,
        kernel="console=ttyS9", absent=["tablewalk"]),
]
LEVELS = {
    # The levels of the LED after the verdict: for four seconds, except in the first two cases.
    "led-pass": r"^1$", "led-stay": r"^1+$", "led-fail": r"^0?(10){4,}", "led-skip": r"^0?(10){1,3}1?$",
    "led-mute": r"(10){4,}",
}

# Programs that print without pause, leave processes behind, stop the console, or print lines of KTAP; a
# disk that is in use.
UNRULY = [
    way("shout", f"--timeout=2 unruly shout + {GOOD}", 1, "^# unruly shout: not done after 2 s",
        "^not ok 1 unruly shout", "^ok 2", "^tablewalk: FAIL$"),
    way("haunt", f"--timeout=20 unruly haunt + {GOOD}", 0, "^ok 1 unruly haunt", "^ok 2", "^tablewalk: PASS$"),
    # A file without end is refused; init would kill one that reads on.
    way("endless-file", "--timeout=60 lazyload /dev/zero", 1, "^  lazyload: .*/dev/zero.*: EFBIG",
        "exit status 1$", "^tablewalk: FAIL$"),
    way("orphans", "unruly orphans", 0, "^  # at most [0-9]+ of 1000 orphans were not reaped", "^ok 1",
        "^tablewalk: PASS$"),
    way("stopped", f"unruly stop + {GOOD}", 0, "^ok 1 unruly stop", "^ok 2", "^tablewalk: PASS$"),
    way("stopped-last", "unruly stop", 0, "^ok 1 unruly stop", "^tablewalk: PASS$"),
    way("ctrl-s", f"--timeout=2 {ENDLESS} + {GOOD}", 1, "^not ok 1 stress", "^ok 2", "^tablewalk: FAIL$",
        types=("^KTAP", b"\x13")),
    way("forge", "unruly forge", 0, r"^  one\\rok 1 forged$", r"^  \\x1b\[2K\\x0bok 2 forged$",
        r"^  \\x85not ok 3 forged\ttab$", "^ok 1", "^tablewalk: PASS$"),
    # A command that would run forever, and cannot print its results.
    *[way(f"full-{command}", f"--timeout=20 unruly full pt {command} 1 --interval 100 + {GOOD}", 1,
          "^  (pt|unruly|full): standard output: ENOSPC", f"^# unruly full pt {command}.*: exit status 1$",
          f"^not ok 1 unruly full pt {command}", "^ok 2", "^tablewalk: FAIL$")
      for command in ("diff", "dirty", "idle")],
    way("gone", f"unruly gone + {GOOD}", 0, "^ *pt: process [0-9]+ has ended$", "^ok 1 unruly gone", "^ok 2",
        "^tablewalk: PASS$", initrd="all"),
    way("trackers", f"unruly trackers + {GOOD}", 0, "^  # first Exited.0., then .Exited.1., Exited.1..$",
        "^  # first Exited.0., then .Exited.1., Exited.1..$", "^ok 1 unruly trackers", "^ok 2", "^tablewalk: PASS$",
        initrd="all"),
    way("disk-in-use", f"unruly swap + {GOOD}", 0, r"Mounted root \(ext2 filesystem\) readonly",
        "^  # swap: false, written: false", "^ok 1 unruly swap", "^tablewalk: PASS$",
        initrd="disk", kernel="console=ttyAMA0 root=/dev/ram0 init=/init"),
    # If the disk is not in use swapon succeeds, which shows that the case above can fail.
    way("disk-free", "unruly swap", 1, "^  # swap: true, written: true", "^tablewalk: FAIL$"),
    way("disk-refused", "unruly zram", 0, "^  # zram: empty false, next true", "^tablewalk: PASS$"),
]

NONSENSE = [
    refuse("option", f"--nonsense {GOOD}", "unknown option `--nonsense`; there are --end="),
    refuse("dash", "-", "unknown option `-`"),
    refuse("end", f"--end=explode {GOOD}", "`--end=explode` is not one of poweroff, reboot"),
    refuse("end-empty", f"--end= {GOOD}", "`--end=` is not one of"),
    refuse("end-bare", f"--end {GOOD}", "unknown option `--end`"),
    refuse("end-late", f"{GOOD} --end=halt", "`--end=halt` .* before the program `pt`"),
    refuse("twice", f"--end=halt --end=halt {GOOD}", "`--end=halt` is the second"),
    refuse("verdict", "--verdict=maybe", "`--verdict=maybe` is not one of semihosting or panic"),
    refuse("verdict-twice", f"--verdict=semihosting {GOOD}", "`--verdict=semihosting` is the second"),
    refuse("led", f"--led=purple {GOOD}", "no LED `purple` in /sys/class/leds: ENOENT"),
    refuse("led-path", f"--led=../leds/green {GOOD}", "no LED `../leds/green` .*EINVAL"),
    refuse("led-empty", f"--led= {GOOD}", "no LED `` .*EINVAL"),
    refuse("timeout", f"--timeout=0 {GOOD}", "`--timeout=0` is not one of the seconds from 1 to 65535"),
    refuse("timeout-large", f"--timeout=65536 {GOOD}", "`--timeout=65536` is not one of"),
    refuse("timeout-sign", f"--timeout=+5 {GOOD}", r"`--timeout=\+5` is not one of"),
    refuse("timeout-words", f"--timeout=soon {GOOD}", "`--timeout=soon` is not one of"),
    refuse("plus", "+", r"no program before or after \+"),
    refuse("plus-twice", f"{GOOD} + + {GOOD}", r"no program before or after \+"),
    refuse("plus-last", f"{GOOD} +", r"no program before or after \+"),
    refuse("program", f"{GOOD} + nosuch", "no program `nosuch` in /bin: ENOENT"),
    refuse("quotes", f'"{GOOD}"', "no program `pt stat self` in /bin"),
    refuse("default", "", "no program `uffd` in /bin: ENOENT"),
    refuse("long", "pt " + "x" * 123, "`x+` has more than 122 bytes"),
    refuse("many", "pt" + " x" * 16, "too many words of a program, at most 16"),
    refuse("bytes", b"pt \xff", "word 3 is not UTF-8"),
    # The kernel drops the rest of the line; without this check init would run less, or end in another way.
    refuse("separator-twice", f"{GOOD} -- --end=halt", "there is a second ` -- `"),
    refuse("separator-quoted-twice", f'{GOOD} "--" pt', "there is a second ` -- `"),
    # The kernel takes all of it for one parameter of its own. Nothing is left for init, which therefore
    # cannot report to the emulator.
    end("quotes-around", f'--end=halt {GOOD}"', "init: command line: the ` -- ` stands inside quotes",
        "^tablewalk: FAIL$", "reboot: Power down", kernel='"console=ttyAMA0', absent=["KTAP version"]),
    # Valid quotes.
    way("quotes-fine", GOOD, 0, "^ok 1", "^tablewalk: PASS$", kernel='console=ttyAMA0 dyndbg="a -- b"'),
    # The kernel passes unknown words to init: without `=` as arguments ...
    refuse("before", GOOD, "no program `nosuch` in /bin", kernel="console=ttyAMA0 nosuch"),
    # ... and with `=` in the environment.
    refuse("early", GOOD, "`--end=halt` .* has to stand after ` -- `", kernel="console=ttyAMA0 --end=halt"),
]


def make_random(number):
    """A boot with random words: whatever they are, the verdict and the status agree."""
    source = random.Random(number)
    sense = [b"pt stat self", b"pt maps 1", b"walktest", b"pt stat self + pt stat 1", b"walktest + pt stat 1"]
    nonsense = [
        b"--end=halt", b"--end=stay", b"--end=panic", b"--end", b"--end==", b"--verdict=panic", b"--verdict=",
        b"--led=green", b"--led=", b"--timeout=5", b"--timeout=-1", b"--timeout=5s", b"--", b"-", b"---", b"+",
        b"pt", b"init", b"../init", b"/bin/pt", b"self", b'"', b'""', b'"a b"', b"=", b"=x", b"a=b", b"\xff\xfe",
        b"\xc3", "ü".encode(), b"x" * 127, b"y" * 200, b".", b"..", b"%s%n", b"'", b"\\", b"\x01", b"\x7f",
    ]
    late = source.choices(nonsense, k=max(source.randrange(-3, 6), 0)) + [source.choice(sense)]
    source.shuffle(late)
    # Before ` -- ` only words that the kernel does not know.
    early = [word for word in source.choices(nonsense, k=source.randrange(3)) if b'"' not in word and word != b"--"]
    early = early if source.random() < 0.3 else []
    kernel = b" ".join([b"console=ttyAMA0", *early]).decode("utf-8", "surrogateescape")
    return Case(f"random-{number}", b" ".join([b"--verdict=semihosting", *late]), ["^tablewalk: (PASS|FAIL|SKIP)$"],
                STATUS_OF_VERDICT, kernel=kernel, absent=["reboot:"], qemu=SEMIHOSTING)


# Means: the status that belongs to the verdict.
STATUS_OF_VERDICT = -1
RANDOM = [make_random(number) for number in range(int(os.environ.get("RANDOM_BOOTS", "20")))]


# The examples of an init. Each page has the frame of pagemap; without the call init says so and ends.
EXAMPLES = [
    end("own-init", "", "^PGD 0x0 frame", "^ +PTE 0x400000 frame", "^ +0x400000 frame 0x",
        "^own-init: [1-9][0-9]* pages, 0 differ from pagemap", "reboot: Power down", initrd="own-init"),
    end("own-init-bare", "", "^own-init: this kernel has no remap_page_table", "reboot: Power down",
        initrd="own-init", bare=True),
    end("c-init", "", "^table of level 0 at 0, frame 0x", "^      table of level 3 at 0x400000",
        "^ +0x400000 frame 0x", "^c-init: [1-9][0-9]+ pages, 0 differ from pagemap", "reboot: Power down",
        initrd="c-init"),
    end("c-init-bare", "", "^c-init: pagemap: No such file", "reboot: Power down", initrd="c-init", bare=True),
]


def manual():
    """Yields a boot for each command line of the manual page."""
    with open("docs/man/tablewalk-init.8", encoding="utf-8") as page:
        for number, line in enumerate(line for line in page if line.startswith(".Dl console=")):
            kernel, words = line.removeprefix(".Dl ").strip().split(" -- ")
            kernel = kernel.replace("ttyS0,115200", "ttyAMA0")
            if "semihosting" in words:
                yield Case(f"manual-{number}", words, ["^ok 1", "^tablewalk: PASS$"], 0, kernel, qemu=SEMIHOSTING)
            else:
                yield end(f"manual-{number}", words, "^ok 1", "^ok 2", "^tablewalk: PASS$", "reboot: Restarting",
                          kernel=kernel)


def pack(output, *programs):
    """Makes an initramfs."""
    subprocess.run(["initramfs/pack", output, *programs], check=True, stdout=subprocess.DEVNULL,
                   env={**os.environ, "INITRAMFS_LIMIT": ""})


def make_disk(output, programs, folders):
    """Makes a root file system that holds the programs and some empty folders, and no device."""
    root = f"{output}.root"
    subprocess.run(["rm", "-rf", root, output], check=True)
    for folder in ["bin", *folders]:
        os.makedirs(f"{root}/{folder}")
    subprocess.run(["cp", programs[0], f"{root}/init"], check=True)
    subprocess.run(["cp", *programs[1:], f"{root}/bin"], check=True)
    mke2fs = ["/sbin/mke2fs", "-q", "-t", "ext2", "-d", root, output, "2M"]
    subprocess.run(mke2fs, check=True, stdout=subprocess.DEVNULL)


def make_tree(output):
    """Makes the device tree of the machine, with an LED at its GPIO controller."""
    blob = f"{output}.virt"
    machine = ["-M", f"virt,acpi=off,dumpdtb={blob}", "-cpu", "cortex-a72", "-m", "256", "-nic", "none"]
    subprocess.run([*QEMU, *machine, "-nographic"], check=True, capture_output=True)
    source = subprocess.run(["dtc", "-q", "-I", "dtb", "-O", "dts", blob], check=True, capture_output=True, text=True)
    leds = f"""/ {{ leds {{ compatible = "gpio-leds"; led-0 {{
        label = "green"; gpios = <&{{/pl061@9030000}} {LED} 0>; default-state = "on";
        retain-state-shutdown; }}; }}; }};"""
    subprocess.run(["dtc", "-q", "-I", "dts", "-O", "dtb", "-o", output], check=True,
                   input=source.stdout + leds, text=True)


def wanting(case, log):
    """Yields the problems in the log of a boot."""
    lines = iter(log.split("\n"))
    for pattern in case.expect:
        if not any(re.search(pattern, line) for line in lines):
            yield f"no {pattern!r}, in this order"
    for pattern in case.absent:
        if found := re.search(pattern, log, re.MULTILINE):
            yield f"{found.group()!r} was not to be there"
    # Only a panic that was asked for is allowed.
    asked = any("kill init" in pattern for pattern in case.expect)
    known = r"Kernel panic|Call trace" if asked else "$^"
    yield from (line for line in trouble(log) if not re.search(known, line))


class Machine:
    """The kernels of all boots."""

    def __init__(self, image, bare):
        self.image, self.bare = image, bare

    def boot(self, case):
        """Boots; returns the problems."""
        base = f"{LOGS}/{case.name}"
        words = case.words if isinstance(case.words, bytes) else case.words.encode()
        command = [
            *QEMU, "-M", "virt,acpi=off", "-cpu", "cortex-a72", "-smp", "1", "-m", "256",
            "-nic", "none", "-nographic", "-no-reboot",
            "-kernel", self.bare if case.bare else self.image, "-initrd", f"{LOGS}/{case.initrd}",
            "-append", case.kernel.encode("utf-8", "surrogateescape") + b" panic=-1 -- " + words,
            "-device", "virtio-serial-device", "-chardev", f"file,id=second,path={base}.hvc0",
            "-device", "virtconsole,chardev=second", *case.qemu,
        ]
        if case in LEDS:
            command += ["-dtb", f"{LOGS}/led.dtb", "-trace", "pl061_set_output", "-msg", "timestamp=on"]
        with subprocess.Popen(command, stdin=subprocess.PIPE if case.types else subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            log, killed = self.read(process, case)
        with open(f"{base}.log", "w", encoding="utf-8", newline="\n") as file:
            file.write(log)
        status = None if killed == "done" else process.returncode
        problems = list(wanting(case, log))
        if killed == "hung":
            problems.append("hung")
        expected = case.status
        if expected == STATUS_OF_VERDICT:
            verdicts = re.findall(r"^tablewalk: (\w+)$", log, re.MULTILINE)
            expected = {"PASS": 0, "FAIL": 1, "SKIP": 4}.get(" ".join(verdicts))
        if killed != "hung" and status != expected:
            problems.append(f"status {status}, not {expected}")
        with open(f"{base}.hvc0", encoding="utf-8") as file:
            second = file.read()
        word = re.search("tablewalk: (PASS|FAIL)", log)
        if "hvc0" in case.kernel and not (word and word.group() in second):
            problems.append(f"the other console has {second[-80:]!r}")
        return problems + list(self.led(case, log))

    @staticmethod
    def read(process, case):
        """Returns the output of a boot, and why it was killed, if it was."""
        killed = []

        def kill(why):
            killed.append(why)
            process.kill()

        timer = threading.Timer(HUNG, kill, ["hung"])
        timer.start()
        log = ""
        for line in process.stdout:
            log += re.sub("\r+\n", "\n", line.decode(errors="replace"))
            if case.types and re.search(case.types[0], log, re.MULTILINE):
                process.stdin.write(case.types[1])
                process.stdin.flush()
                case = dataclasses.replace(case, types=None)
            if case.linger is not None and not killed and re.search(case.expect[-1], log, re.MULTILINE):
                timer.cancel()
                timer = threading.Timer(case.linger, kill, ["done"])
                timer.start()
                case = dataclasses.replace(case, linger=None)
        timer.cancel()
        process.wait()
        return log, killed[0] if killed else None

    @staticmethod
    def led(case, log):
        """Yields the problems with the LED, by the levels of the GPIO controller."""
        if case.name not in LEVELS:
            return
        states = re.findall(rf"@([0-9.]+):pl061_set_output .*output {LED} to ([01])|^KTAP", log, re.MULTILINE)
        levels = "".join(level or "K" for _, level in states)
        # On by default, off while programs run.
        if case.name != "led-mute" and not re.match(r"[01]*0K", levels):
            yield f"the LED was not off when programs ran: {levels}"
        if not re.search(LEVELS[case.name], levels.rpartition("K")[2]):
            yield f"the LED showed {levels}"
        if case.name == "led-skip":
            lit, dark, again = [float(time) for time, level in states[levels.rindex("K") + 1:]][:3]
            if not dark - lit < again - dark:
                yield f"the LED was on for {dark - lit} s, then off for {again - dark} s"


def main():
    """Runs all boots, two at a time; prints the name and problems of each that was not as expected."""
    image, bare, folder = sys.argv[1:]
    os.makedirs(LOGS, exist_ok=True)
    programs = [f"{folder}/{name}" for name in ("init", "pt", "walktest", "stress", "unruly", "lazyload")]
    pack(f"{LOGS}/small", *programs)
    pack(f"{LOGS}/all", *programs, *(f"{folder}/{name}" for name in ("uffd", "contract", "hostile", "checkpoint")))
    for example in ("own-init", "c-init"):
        pack(f"{LOGS}/{example}", f"build/{example}")
    make_disk(f"{LOGS}/disk", programs, ["dev", "proc", "sys"])
    make_disk(f"{LOGS}/empty", programs, [])
    make_tree(f"{LOGS}/led.dtb")
    cases = ENDS + CONSOLES + LACKS + LEDS + UNRULY + NONSENSE + RANDOM + EXAMPLES + [*manual()]
    if wanted := os.environ.get("CASES"):
        cases = [case for case in cases if re.search(wanted, case.name)]
    machine = Machine(image, bare)
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for case, problems in zip(cases, pool.map(machine.boot, cases)):
            for problem in problems:
                print(f"{case.name}: {problem}")
            failed += bool(problems)
    print(f"{failed} boots were not, see {LOGS}" if failed else f"{len(cases)} boots as expected")
    return 1 if failed or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
