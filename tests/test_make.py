#!/usr/bin/env python3
"""Tests how make and its scripts fail: with invalid variables and files, folders with odd names, full disks.
Nothing is compiled, and nothing boots.
"""

import glob
import os
import pwd
import shutil
import subprocess
import tempfile
import unittest

CHECKOUT = os.getcwd()
FOLDERS = ("scripts", "kernel", "images", "initramfs", "tests", ".cargo")
OWN = ("RUN", "IMAGE", "CDPATH", "CPU", "SMP", "MEM", "TIMEOUT", "KEYS", "KERNEL_SRC", "TABLEWALK_CACHE", "INITRAMFS_LIMIT")


def run(*command, cwd=CHECKOUT, **variables):
    """Runs a command with only these variables for make; None removes one. Returns status and output."""
    environment = {name: value for name, value in os.environ.items()
                   if name not in OWN and not name.startswith(("MAKE", "MFLAGS", "CARGO_"))}
    environment |= variables
    environment = {name: value for name, value in environment.items() if value is not None}
    done = subprocess.run(command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
    return done.returncode, done.stdout


def write(path, content, mode=0o644):
    """Writes a file, text or bytes; makes its folder."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    os.chmod(path, mode)


def read(path):
    """Returns the bytes of a file."""
    with open(path, "rb") as file:
        return file.read()


class WithFolder(unittest.TestCase):
    """A test with a temporary folder."""

    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def checkout(self, name="checkout"):
        """Copies the files of this checkout that make needs, without build results; returns the path."""
        path = os.path.join(self.folder, name)
        os.makedirs(path)
        shutil.copy("Makefile", path)
        for folder in FOLDERS:
            shutil.copytree(folder, os.path.join(path, folder), ignore=shutil.ignore_patterns("__pycache__"))
        return path

    def stub(self, path, script):
        """Replaces a script by another one."""
        write(path, "#!/bin/bash\n" + script, 0o755)

    def refuses(self, message, *command, **variables):
        """Checks that the command fails with one line, which contains the message; lines of make do not count."""
        status, output = run(*command, **variables)
        lines = [line for line in output.splitlines() if not line.startswith("make")]
        self.assertNotEqual(status, 0, output)
        self.assertEqual(len(lines), 1, output)
        self.assertIn(message, lines[0])


class Variables(WithFolder):
    """Invalid variables are refused at once."""

    def test_sense(self):
        for name, value in (("SMP", "4"), ("SMP", "1 2 4"), ("MEM", "24"), ("CPU", "max"), ("CPU", "cortex-a53,pmu=off"),
                            ("TIMEOUT", "7"), ("INITRAMFS_LIMIT", ""), ("INITRAMFS_LIMIT", "0"),
                            ("TABLEWALK_CACHE", "/somewhere"), ("HOME", None), ("SANITIZERS", "a=4k39,thp b=64k42")):
            with self.subTest(name, value=value):
                self.assertEqual(run("scripts/variables", **{name: value}), (0, ""))

    def test_nonsense(self):
        for name, value in (("SMP", "0"), ("SMP", "two"), ("SMP", "1;id"), ("MEM", "abc"), ("MEM", "0"), ("CPU", "nope"),
                            ("CPU", "max;id"), ("TIMEOUT", "abc"), ("TIMEOUT", "0"), ("INITRAMFS_LIMIT", "abc"),
                            ("SMALL_LIMIT", "-1"), ("JOBS", "0"), ("ROUNDS", "x"), ("TABLEWALK_CACHE", "cache"),
                            ("TABLEWALK_CACHE", "/a b"), ("TABLEWALK_CACHE", "/a;b"), ("XDG_CACHE_HOME", "x"),
                            ("TMPDIR", "/a b"), ("GEOMETRIES", "4k39;id"), ("SECONDS_EACH", "-1"), ("IMAGE", "/etc/passwd"),
                            ("IMAGE", "/nowhere"), ("MAY_KILL", "abc"), ("TORTURE_SECONDS", "abc"),
                            ("CARGO_HOME", "/a'b")):
            with self.subTest(name, value=value):
                self.refuses(value if name != "CPU" else value.split(",")[0], "scripts/variables", **{name: value})

    def test_folders_that_reach_cargo(self):
        for name in ("HOME", "CARGO_HOME", "TMPDIR", "TABLEWALK_CACHE"):
            for special in ("'", '"', "\\", "`", "$", " ", ";", "=", "\t"):
                value = f"/a{special}b"
                with self.subTest(name, value=value):
                    variables = {"TABLEWALK_CACHE": "/x", "CARGO_HOME": None, name: value}
                    self.refuses(name, "scripts/variables", **variables)
        # Cargo does not use HOME then.
        self.assertEqual(run("scripts/variables", HOME="/a b", CARGO_HOME="/x", TABLEWALK_CACHE="/x"), (0, ""))

    def test_make_builds_nothing_before(self):
        checkout = self.checkout()
        for variable in ("SMP=0", "MEM=abc", "CPU=nope", "TIMEOUT=abc", "INITRAMFS_LIMIT=abc", "TABLEWALK_CACHE=x"):
            with self.subTest(variable):
                self.refuses(variable.partition("=")[2], "make", "--no-print-directory", "run", variable, cwd=checkout)
                self.assertFalse({"build", "target"} & set(os.listdir(checkout)))

    def test_scripts_alone(self):
        self.refuses("no Image", "tests/boot", "x", "/etc/passwd", "")
        self.refuses("SMP", "tests/boot", "x", "/dev/null", "", SMP="0")
        self.refuses("SMP", "tests/boot", "x", "/dev/null", "", SMP="2 4")
        # With the one of tests/boot itself, these are 33.
        self.refuses("32 words", "tests/boot", "x", "/dev/null", "", *["a"] * 30, "a a")
        self.refuses("INITRAMFS_LIMIT", "initramfs/pack", f"{self.folder}/x", "Makefile", INITRAMFS_LIMIT="abc")
        self.refuses("TABLEWALK_CACHE", "kernel/build", "base", TABLEWALK_CACHE="x")
        self.refuses("`frob'", "tests/matrix", "/bin", "x=4k48", GROUPS_WANTED="races frob")

    def test_checkout_with_a_space(self):
        for name in ("a b", "a'b", "a$b"):
            checkout = self.checkout(name)
            for target in ("programs", "kernel", "run", "check"):
                with self.subTest(name, target=target):
                    self.refuses("checkout", "make", "--no-print-directory", target, cwd=checkout)
            self.assertFalse({"build", "target"} & set(os.listdir(checkout)))

    def test_packages(self):
        """Only setup, run, test and dist install packages; other targets check, and say `make setup`."""
        checkout = self.checkout()
        self.stub(f"{checkout}/bin/dpkg-query", "exit 1")
        self.stub(f"{checkout}/bin/bash", 'echo "$@" >>installed; exec /bin/bash -c true')
        self.stub(f"{checkout}/scripts/rust-path", f"echo {checkout}/bin")
        for target, missing in (("lint", "make setup"), ("boards", "make setup FOR=dist"), ("kernel-6.12", "make setup")):
            self.refuses(missing, "make", "--no-print-directory", target, cwd=checkout,
                         PATH=f"{checkout}/bin:{os.environ['PATH']}", KERNEL_SRC=checkout)
        for target in ("run", "dist"):
            status, output = run("make", "--no-print-directory", target, cwd=checkout,
                                 PATH=f"{checkout}/bin:{os.environ['PATH']}", KERNEL_SRC=checkout)
            self.assertIn("setup: installing", output, target)

    def test_words_are_data(self):
        checkout = self.checkout()
        for stub in ("scripts/setup", "tests/check-elf", "initramfs/pack"):
            self.stub(f"{checkout}/{stub}", "exit 0")
        self.stub(f"{checkout}/bin/cargo", "exit 0")
        self.stub(f"{checkout}/scripts/rust-path", f"echo {checkout}/bin")
        self.stub(f"{checkout}/tests/boot", "printf '<%s>' \"$@\"")
        write(f"{self.folder}/Image", "MZ" + 54 * " " + "ARMd")
        words = "pt stat self; touch pwned `touch pwned` ' \" * ~ + uffd"
        status, output = run("make", "--no-print-directory", "run", f"IMAGE={self.folder}/Image", cwd=checkout, RUN=words)
        self.assertEqual(status, 0, output)
        self.assertIn("".join(f"<{word}>" for word in words.split()), output)
        self.assertNotIn("pwned", os.listdir(checkout))

    def test_flags_of_other_projects(self):
        names = ("RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_PROFILE_RELEASE_LTO",
                 "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS")
        status, output = run("make", "--no-print-directory", "--eval=show: ; @env", "show", CARGO_TARGET_DIR="/x",
                             CARGO_BUILD_JOBS="3", **dict.fromkeys(names, "x"))
        shown = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
        self.assertEqual(status, 0, output)
        self.assertFalse(set(names) & set(shown))
        self.assertEqual(shown["CARGO_TARGET_DIR"], f"{CHECKOUT}/target")
        self.assertEqual(shown["CARGO_BUILD_JOBS"], "3")

    def test_no_home(self):
        home = pwd.getpwuid(os.getuid()).pw_dir
        for variable in (None, ""):
            status, output = run("make", "--no-print-directory", "--eval=show: ; @echo '$(REMAP)'; echo $$HOME", "show",
                                 HOME=variable)
            self.assertEqual(status, 0, output)
            self.assertIn(f"{home}/.cargo=cargo", output)
            self.assertEqual(output.splitlines()[-1], home)
        _, output = run("bash", "-ceu", "here=kernel; . kernel/source.sh; echo $cache", HOME=None, XDG_CACHE_HOME=None)
        self.assertEqual(output, f"{home}/.cache/tablewalk\n")


    def test_folders_of_the_shell(self):
        """With CDPATH, cd goes elsewhere, and says so."""
        os.makedirs(f"{self.folder}/kernel")
        os.makedirs(f"{self.folder}/scripts")
        self.assertEqual(run("scripts/variables", CDPATH=self.folder), (0, ""))
        status, output = run("make", "--no-print-directory", "--eval=show: ; @env", "show", CDPATH=self.folder)
        self.assertEqual(status, 0, output)
        self.assertNotIn("CDPATH", output)

    def test_rows_of_the_environment(self):
        status, output = run("make", "--no-print-directory", "--eval=show: ; @echo $(GEOMETRIES)/$(SANITIZERS)", "show",
                             GEOMETRIES="4k39", SANITIZERS="x=4k48")
        self.assertEqual((status, output), (0, "4k39/x=4k48\n"))
        self.assertNotEqual(run("tests/matrix", "/bin")[0], 0)

    def test_no_row_is_all_of_them(self):
        for target, name in (("matrix", "GEOMETRIES"), ("sanitize", "SANITIZERS")):
            shown = [run("make", "--no-print-directory", "-n", target, *words)[1].splitlines()[-1]
                     for words in ((), (f"{name}=",))]
            self.assertIn(",thp,hostile", shown[0])
            self.assertEqual(*shown)

    def test_words_of_make_are_data(self):
        for name in ("RUN", "PARTS", "CONFIG", "SECONDS_EACH"):
            status, output = run("make", "--no-print-directory", "--eval=show: ; @env", "show",
                                 f"{name}=$(shell touch {self.folder}/pwned)")
            self.assertEqual(status, 0, output)
            self.assertIn(f"{name}=$(shell touch {self.folder}/pwned)", output)
            self.assertEqual(os.listdir(self.folder), [])

    def test_nothing_is_run_that_is_only_shown(self):
        checkout = self.checkout()
        self.stub(f"{checkout}/tests/all", f"touch {self.folder}/ran")
        self.assertEqual(run("make", "-n", "test", cwd=checkout)[0], 0)
        self.assertFalse(os.path.exists(f"{self.folder}/ran"))


class Kernel(WithFolder):
    """Tests the kernel's source, and the key of the cache."""

    def source(self):
        """Makes a fake source of Linux 6.1."""
        write(f"{self.folder}/linux/Makefile", "VERSION = 6\nPATCHLEVEL = 1\n")
        return f"{self.folder}/linux"

    def test_no_source(self):
        os.mkdir(f"{self.folder}/empty")
        for source in ("/etc/passwd", f"{self.folder}/empty", f"{self.folder}/gone"):
            with self.subTest(source):
                self.refuses(source, "kernel/build", "base", KERNEL_SRC=source, TABLEWALK_CACHE=f"{self.folder}/cache")
                self.assertFalse(os.path.exists(f"{self.folder}/cache"))

    def test_no_such_fragment(self):
        self.refuses("4k99", "kernel/build", "base", "4k99", KERNEL_SRC=self.source(), TABLEWALK_CACHE=f"{self.folder}/cache")

    def test_module_names_what_is_wrong_with_its_headers(self):
        status, output = run("make", "module", PATH=os.environ["PATH"])
        self.assertNotEqual(status, 0)
        self.assertIn("KDIR: no folder", output)
        folder = os.path.join(self.folder, "headers")
        for content, message in ((None, "no .config"), ("CONFIG_X86=y\n", "not of an arm64 kernel")):
            if content:
                for name in (".config", "Makefile", "Module.symvers"):
                    write(os.path.join(folder, name), content)
            status, output = run("make", "module", KDIR=folder)
            self.assertNotEqual(status, 0)
            self.assertIn(message, output)

    def test_no_configuration(self):
        status, output = run("make", "check-config")
        self.assertEqual((status, "CONFIG: no file" in output), (2, True), output)

    def test_key_without_a_part(self):
        checkout, cache = self.checkout(), f"{self.folder}/cache"
        os.symlink("gone", f"{checkout}/kernel/patches/6.1/9999-gone.patch")
        status, output = run("kernel/build", "base", cwd=checkout, KERNEL_SRC=self.source(), TABLEWALK_CACHE=cache)
        self.assertNotEqual(status, 0)
        self.assertIn("no key for the cache", output)
        self.assertFalse(os.path.exists(cache))

    def test_environment(self):
        """Variables that are set for other projects do not reach the commands."""
        checkout, cache = self.checkout(), f"{self.folder}/cache"
        shutil.rmtree(f"{checkout}/kernel/patches/6.1")
        write(f"{checkout}/kernel/patches/6.1/0001-x.patch", "--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+x\n")
        source = self.source()
        write(f"{source}/Makefile", "VERSION = 6\nPATCHLEVEL = 1\nmrproper: ;\n%: ; @env; false\n")
        for tool in ("sparse", "mandoc", "riscv64-linux-gnu-gcc"):
            self.stub(f"{self.folder}/bin/{tool}", "exit 0")
        names = ("KCFLAGS", "KAFLAGS", "LOCALVERSION", "KCONFIG_CONFIG", "KCONFIG_ALLCONFIG", "LLVM", "KBUILD_OUTPUT",
                 "KBUILD_BUILD_VERSION", "HOSTCFLAGS", "CPATH", "GCC_EXEC_PREFIX", "CCACHE_COMPILER", "CDPATH", "O",
                 "MAKEFLAGS", "SOURCE_DATE_EPOCH", "CC")
        for command in ("build", "neighbours", "check"):
            with self.subTest(command):
                _, output = run(f"kernel/{command}", "base", cwd=checkout, KERNEL_SRC=source, TABLEWALK_CACHE=cache,
                                PATH=f"{self.folder}/bin:{os.environ['PATH']}", **dict.fromkeys(names, "-of-others"))
                logs = glob.glob(f"{cache}/*/log") + glob.glob(f"{cache}/kernel/*.log")
                shown = output + "".join(read(log).decode() for log in logs)
                self.assertIn("\nPATH=", shown)
                self.assertNotIn("of-others", shown)
                if command == "build":
                    self.assertIn("\nKBUILD_BUILD_USER=tablewalk\n", shown)

    def test_key_without_a_compiler(self):
        self.stub(f"{self.folder}/cross-gcc", "exit 1")
        status, output = run("kernel/build", "base", KERNEL_SRC=self.source(), CROSS_COMPILE=f"{self.folder}/cross-",
                             TABLEWALK_CACHE=f"{self.folder}/cache")
        self.assertNotEqual(status, 0)
        self.assertIn("no key for the cache", output)


class Programs(WithFolder):
    """Tests the checks of the programs."""

    def program(self, text):
        """Makes a program that contains a string."""
        write(f"{self.folder}/p.c", f'const char text[] = "{text}";\nvoid _start(void) {{ for (;;); }}\n')
        subprocess.run(["aarch64-linux-gnu-gcc", "-static", "-nostdlib", "-Wl,-zmax-page-size=65536,--build-id=none", f"-T{CHECKOUT}/linker/tablewalk.ld",
                        "-o", f"{self.folder}/p", f"{self.folder}/p.c"], check=True)
        return f"{self.folder}/p"

    def test_paths_of_the_machine(self):
        for text in ("/proc/self/exe", "/usr/src/rustc-1.96.0/library/core/src/time.rs", "bins/src/bin/pt/walk.rs"):
            self.assertEqual(run("tests/check-elf", self.program(text))[0], 0, text)
        for text in (f"{CHECKOUT}/bins/src/bin/pt/walk.rs", "/home/she/.cargo/registry/src/x/src/lib.rs", "/cargo/home/registry"):
            self.refuses("path of this machine", "tests/check-elf", self.program(text), CARGO_HOME="/cargo/home")

    def test_limits(self):
        program = self.program("x" * 40_000)
        self.assertEqual(run("tests/check-elf", program)[0], 0)
        os.rename(program, f"{self.folder}/init")
        self.refuses("more than 32768", "tests/check-elf", f"{self.folder}/init")


def image(contents=b""):
    """Returns a fake Image of an arm64 kernel, of 512 KiB, with space for an initramfs."""
    header = b"MZ" + bytes(54) + b"ARMd" + bytes(4)
    return header + os.urandom(0x10000 - len(header)) + contents + bytes(0x20000 - len(contents)) + os.urandom(0x50000)


SYMBOLS = """0000000000000000 T _text
0000000000010000 T __initramfs_start
0000000000030000 T __initramfs_size
"""
CPIO = b"070701" + b"0" * 200 + b"TRAILER!!!" + bytes(300)
# Runs a command with a small file system at $0, which has a file already; prints its contents afterwards.
FULL = ("unshare", "--map-root-user", "--mount", "bash", "-c",
        'mount -t tmpfs -o size=128k tmpfs "$0" && echo whole >"$0/out" && "$@"; status=$?; '
        'echo; find "$0" -type f -printf "%f %s\\n"; exit $status')


def mounts():
    """Returns whether a user may mount one here."""
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run((*FULL, folder, "true"), check=False, capture_output=True).returncode == 0


MOUNTS = mounts()


def tools(*names):
    """Skips a test if these tools are not installed."""
    missing = [name for name in names if not shutil.which(name)]
    return unittest.skipIf(missing, f"not installed: {missing}")


STUB = unittest.skipUnless(os.path.exists("/usr/lib/systemd/boot/efi/linuxaa64.efi.stub"), "no stub of systemd-boot")


class Images(WithFolder):
    """Tests the scripts that make images."""

    def setUp(self):
        super().setUp()
        write(f"{self.folder}/kernel/Image", image())
        write(f"{self.folder}/kernel/System.map", SYMBOLS)
        write(f"{self.folder}/cpio", CPIO)
        write(f"{self.folder}/passwd", "root:x:0:0::/root:/bin/sh\n")
        subprocess.run(["gzip", "-kn", f"{self.folder}/kernel/Image"], check=True)

    def commands(self, output, **other):
        """Returns the command of each script; `other` replaces a file."""
        at = {"image": "kernel/Image", "gz": "kernel/Image.gz", "cpio": "cpio", "dtb": "dtb", "kernel": "kernel"} | other
        at = {name: f"{self.folder}/{path}" for name, path in at.items()}
        return {
            "embed": ("images/embed", at["kernel"], at["cpio"], output),
            "zboot": ("images/zboot", at["kernel"], at["gz"], output),
            "fit": ("images/fit", output, at["gz"], at["cpio"], at["dtb"], "0x40400000"),
            "uki": ("images/uki", output, at["image"], at["cpio"], "panic=30"),
        }

    def keeps(self, script, *command):
        """Checks that a script refuses an output that is not a regular file, also through a link, or that is one of
        its inputs. The word OUTPUT stands for the output."""
        os.mkfifo(f"{self.folder}/fifo")
        os.symlink("fifo", f"{self.folder}/link")
        os.mkdir(f"{self.folder}/there")
        os.symlink("there/new", f"{self.folder}/good")
        inputs = [word.partition("=")[0] for word in command[1:]]
        inputs = {word for word in inputs if word.startswith(self.folder) and os.path.isfile(word)}
        self.assertTrue(inputs)
        for number, name in enumerate(inputs):
            os.link(name, f"{self.folder}/hard{number}")
        before = self.listing()
        for name in ["fifo", "link", "there", *(f"hard{number}" for number in range(len(inputs)))]:
            path = f"{self.folder}/{name}"
            with self.subTest(script, output=name):
                self.refuses("regular" if name in ("fifo", "link", "there") else "read and would be written",
                             *(path if word == "OUTPUT" else word for word in command))
                self.assertEqual(self.listing(), before)
        with self.subTest(script, output="good"):
            status, output = run(*(f"{self.folder}/good" if word == "OUTPUT" else word for word in command))
            self.assertEqual(status, 0, output)
            self.assertTrue(os.path.islink(f"{self.folder}/good"))
            self.assertEqual(os.listdir(f"{self.folder}/there"), ["new"])

    def listing(self):
        """Returns the contents of the folder: names, kinds, numbers."""
        entries = list(os.scandir(self.folder))
        return sorted((entry.name, entry.stat(follow_symlinks=False).st_mode, entry.inode()) for entry in entries)

    def test_embed_keeps(self):
        self.keeps("embed", *self.commands("OUTPUT")["embed"])

    def test_zboot_keeps(self):
        self.zboot_parts()
        self.keeps("zboot", *self.commands("OUTPUT")["zboot"])

    @tools("mkimage", "dtc")
    def test_fit_keeps(self):
        self.device_tree()
        self.keeps("fit", *self.commands("OUTPUT")["fit"])

    @STUB
    @tools("sbsign", "faketime")
    def test_uki_keeps(self):
        self.keeps("uki", *self.commands("OUTPUT")["uki"])

    @tools("sgdisk", "sfdisk", "mcopy")
    def test_disk_keeps(self):
        self.keeps("disk", "images/disk", "gpt", "OUTPUT", f"{self.folder}/cpio=x")

    def test_pack_keeps(self):
        self.keeps("pack", "initramfs/pack", "OUTPUT", f"{self.folder}/cpio", f"{self.folder}/passwd")

    @tools("gnuplot")
    def test_plot_keeps(self):
        log = "1 CPU\n" + "".join(f"ours: {way}, {n} at once {9000 // n} 1 1 1 {9999 // n}\n"
                                  f"ours: {way}, {n}, recycled {900 // n}\n" for way in ("thread", "signal")
                                  for n in (1, 16))
        log += "".join(f"kernel: {name} 700\n" for name in ("UFFDIO_COPY", "anonymous fault", "populate"))
        write(f"{self.folder}/log", log)
        self.keeps("plot-faults", "scripts/plot-faults", f"{self.folder}/log", "OUTPUT")

    def test_pack_two_of_one_name(self):
        write(f"{self.folder}/other/passwd", "x")
        self.refuses("the name passwd", "initramfs/pack", f"{self.folder}/out", f"{self.folder}/cpio",
                     f"{self.folder}/passwd", f"{self.folder}/other/passwd")

    def test_cut_off(self):
        write(f"{self.folder}/short", CPIO[:-320])
        subprocess.run(["gzip", "-kn", f"{self.folder}/cpio"], check=True)
        write(f"{self.folder}/short.gz", read(f"{self.folder}/cpio.gz")[:-6])
        for name in ("short", "short.gz"):
            self.refuses(name, *self.commands(f"{self.folder}/out", cpio=name)["embed"])
        self.device_tree()
        write(f"{self.folder}/short.dtb", read(f"{self.folder}/dtb")[:-1])
        for name, status in (("dtb", 0), ("short.dtb", 1)):
            done = run("bash", "-ceu", '. images/needs.sh; wants_dtb "$1"', "x", f"{self.folder}/{name}")
            self.assertEqual(done[0], status, done)

    def device_tree(self):
        """Makes a small one."""
        subprocess.run(["dtc", "-q", "-O", "dtb", "-o", f"{self.folder}/dtb"], input="/dts-v1/; / {};", text=True,
                       check=True)

    def refuses_all(self, script, **files):
        """Checks that the script refuses each of these files, and makes none."""
        write(f"{self.folder}/nonsense/Image", "nonsense\n")
        write(f"{self.folder}/nonsense/System.map", SYMBOLS)
        for name, path in files.items():
            with self.subTest(script, replaced=name):
                output = f"{self.folder}/out"
                self.refuses(path, *self.commands(output, **{name: path})[script])
                self.assertFalse([name for name in os.listdir(self.folder) if name.startswith("out")])

    def test_embed_nonsense(self):
        self.refuses_all("embed", kernel="nonsense", cpio="passwd")

    def test_zboot_nonsense(self):
        self.refuses_all("zboot", gz="passwd")

    @tools("mkimage", "dtc")
    def test_fit_nonsense(self):
        self.device_tree()
        self.refuses_all("fit", gz="passwd", cpio="passwd", dtb="passwd")
        command = self.commands(f"{self.folder}/out")["fit"]
        for load in ("0x1000", "here", "", "-2097152"):
            self.refuses("2 MiB", *command[:-1], load)

    @STUB
    @tools("sbsign", "faketime")
    def test_uki_nonsense(self):
        self.refuses_all("uki", image="passwd", cpio="passwd")

    def zboot_parts(self):
        """Makes a fake of the kernel's program that unpacks an Image."""
        folder = f"{self.folder}/kernel/zboot"
        write(f"{folder}/zboot.lds", "SECTIONS { .text : { *(.text) *(.gzdata) } }\n")
        write(f"{folder}/lib.a", "!<arch>\n")
        subprocess.run(["aarch64-linux-gnu-as", "-o", f"{folder}/zboot-header.o"], input=".text\nnop\n", text=True,
                       check=True)

    def full_disk(self, script):
        """Checks that the script fails on a full disk, and does not change the old file."""
        os.mkdir(f"{self.folder}/disk")
        output = f"{self.folder}/disk/out"
        status, listing = run(*FULL, f"{self.folder}/disk", *self.commands(output)[script])
        self.assertNotEqual(status, 0, listing)
        self.assertEqual(listing.split("\n\n")[-1], "out 6\n", listing)
        # With enough space it works.
        self.assertEqual(run(*self.commands(output)[script])[0], 0)
        self.assertEqual(os.listdir(f"{self.folder}/disk"), ["out"])

    @unittest.skipUnless(MOUNTS, "cannot mount a small file system")
    def test_embed_full(self):
        self.full_disk("embed")

    @unittest.skipUnless(MOUNTS, "cannot mount a small file system")
    def test_zboot_full(self):
        self.zboot_parts()
        self.full_disk("zboot")

    @unittest.skipUnless(MOUNTS, "cannot mount a small file system")
    @tools("mkimage", "dtc")
    def test_fit_full(self):
        self.device_tree()
        self.full_disk("fit")

    @unittest.skipUnless(MOUNTS, "cannot mount a small file system")
    @STUB
    @tools("sbsign", "faketime")
    def test_uki_full(self):
        self.full_disk("uki")


class All(WithFolder):
    """Tests images/all with all other scripts replaced: when the old folder is replaced, and which key is used."""

    def setUp(self):
        super().setUp()
        self.path = self.checkout()
        for script in ("scripts/setup", "scripts/variables"):
            self.stub(f"{self.path}/{script}", "exit 0")
        made = {"initramfs/pack": 1, "images/embed": 3, "images/fit": 1, "images/disk": 2, "images/zboot": 3,
                "images/uki": 1}
        for script, argument in made.items():
            self.stub(f"{self.path}/{script}", f'echo {script} >"${{{argument}}}"')
        self.stub(f"{self.path}/images/manifest", "echo FIT key test key")
        for tool in ("qemu-system-aarch64", "dtc", "mkimage"):
            self.stub(f"{self.path}/bin/{tool}", f'touch {self.path}/build/virt.dtb; for word; do '
                      'case $word in *.dtb) touch "$word" ;; *dumpdtb=*) touch "${word#*dumpdtb=}" ;; esac; done')
        self.stub(f"{self.path}/bin/openssl", 'while [ $# -gt 0 ]; do case $1 in -out | -keyout) echo made >"$2" ;; '
                  "esac; shift; done")
        for name in ("Image", "System.map", "zboot/lib.a", "bcm2837-rpi-3-b.dtb", "config"):
            write(f"{self.path}/build/kernel/{name}", name)
        write(f"{self.path}/build/init", "init")
        write(f"{self.path}/build/dist/old", "old")
        write(f"{self.path}/build/dist/MANIFEST", "old")

    def make(self, **variables):
        """Runs images/all."""
        return run("images/all", "build/dist", "build/kernel", "build/kernel", "build/init", cwd=self.path,
                   PATH=f"{self.path}/bin:{os.environ['PATH']}", **variables)

    def left(self):
        """Returns the files of the output and beside it."""
        found = [name for name in os.listdir(f"{self.path}/build") if name.startswith("dist")]
        return found, os.path.exists(f"{self.path}/build/dist/old")

    def test_whole(self):
        status, output = self.make()
        self.assertEqual(status, 0, output)
        self.assertEqual(self.left(), (["dist"], False))
        self.assertIn("test key", output.splitlines()[-1])

    def test_what_is_not_of_it(self):
        os.remove(f"{self.path}/build/dist/MANIFEST")
        write(f"{self.path}/build/dist.new", "mine")
        write(f"{self.path}/build/dist.old", "mine")
        status, output = self.make()
        self.assertNotEqual(status, 0, output)
        self.assertIn("no MANIFEST", output)
        write(f"{self.path}/build/dist/MANIFEST", "old")
        self.assertEqual(self.make()[0], 0)
        self.assertEqual(set(self.left()[0]), {"dist", "dist.new", "dist.old"})

    def test_failure_keeps_the_old_one(self):
        for script in ("images/disk", "images/manifest", "images/zboot"):
            with self.subTest(script):
                kept = read(f"{self.path}/{script}")
                self.stub(f"{self.path}/{script}", "exit 1")
                self.assertNotEqual(self.make()[0], 0)
                self.assertEqual(self.left(), (["dist"], True))
                write(f"{self.path}/{script}", kept, 0o755)

    def test_keys_of_the_user(self):
        os.mkdir(f"{self.folder}/keys")
        for name in ("tablewalk.crt", "tablewalk.key"):
            status, output = self.make(KEYS=f"{self.folder}/keys")
            self.assertNotEqual(status, 0)
            self.assertIn(f"{self.folder}/keys/tablewalk", output)
            self.assertEqual(self.left(), (["dist"], True))
            write(f"{self.folder}/keys/{name}", "mine")
        self.assertEqual(self.make(KEYS=f"{self.folder}/keys")[0], 0)
        self.assertEqual(read(f"{self.folder}/keys/tablewalk.key"), b"mine")
        self.assertEqual(self.make(KEYS=f"{self.folder}/slip")[0], 1)
        self.assertFalse(os.path.exists(f"{self.folder}/slip"))

    def test_half_a_test_key(self):
        write(f"{self.path}/build/keys/tablewalk.crt", "left")
        self.assertNotEqual(self.make()[0], 0)
        self.assertEqual(os.listdir(f"{self.path}/build/keys"), ["tablewalk.crt"])


if __name__ == "__main__":
    unittest.main()
