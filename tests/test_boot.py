"""Tests that no emulator is left behind, with a script in place of QEMU."""

import os
import select
import shutil
import signal
import subprocess
import tempfile
import unittest

# Reports its process ID, and waits to be ended.
EMULATOR = """\
#!/bin/sh
echo $$ >"FOLDER/pid"
echo "Booting Linux on physical CPU"
exec sleep 600
"""


# A fake kernel source that builds at once, with one of the kernel's own tests.
KERNEL = """\
VERSION = 6
PATCHLEVEL = 1
mrproper headers: ;
%: ; mkdir -p $(O)/arch/arm64/boot && touch $(O)/arch/arm64/boot/Image && \\
	echo CONFIG_REMAP_PAGE_TABLE=y >$(O)/.config
"""
SELFTESTS = "all: ; mkdir -p $(OUTPUT) && cp /bin/true $(OUTPUT)/hugepage-shm\n"


class Boot(unittest.TestCase):
    """When a script that boots is ended from outside, its emulator ends too."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.emulator = EMULATOR.replace("FOLDER", self.folder)
        self.write("bin/qemu-system-aarch64", self.emulator)
        os.mkfifo(f"{self.folder}/pid")

    def write(self, path, text="#!/bin/sh\n"):
        """Writes an executable file."""
        path = f"{self.folder}/{path}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        os.chmod(path, 0o755)

    def checkout(self):
        """Copies the scripts, with a kernel series that only adds an empty file; returns the path."""
        for folder in ("scripts", "kernel", "images", "initramfs", "tests"):
            shutil.copytree(folder, f"{self.folder}/checkout/{folder}")
        shutil.rmtree(f"{self.folder}/checkout/kernel/patches/6.1")
        self.write("checkout/kernel/patches/6.1/0001-x.patch", "--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+x\n")
        return f"{self.folder}/checkout"

    def check(self, *command, cwd=".", **variables):
        """Checks that the emulator of a command ends with it."""
        environment = {**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}", "TIMEOUT": "60", **variables}
        for end in (signal.SIGTERM, signal.SIGKILL):
            with subprocess.Popen(command, env=environment, cwd=cwd, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as boot:
                emulator = os.pidfd_open(self.read_pid(boot))
                boot.send_signal(end)
                try:
                    # The descriptor is readable after the process has ended.
                    self.assertTrue(self.ends(emulator), end)
                finally:
                    if not self.ends(emulator, 0):
                        signal.pidfd_send_signal(emulator, signal.SIGKILL)
                    os.close(emulator)

    def read_pid(self, process):
        """Waits until the emulator runs; returns its process ID."""
        fifo = os.open(f"{self.folder}/pid", os.O_RDONLY | os.O_NONBLOCK)
        try:
            while process.poll() is None:
                # A writer that is there already need not have written.
                if select.select([fifo], [], [], 0.2)[0] and (text := os.read(fifo, 100)):
                    return int(text)
        finally:
            os.close(fifo)
        return self.fail(f"it ended with {process.returncode}, and started no emulator")

    def test_boot(self):
        self.write("Image", "MZ" + 54 * " " + "ARMd")
        self.check("tests/boot", "test-boot", f"{self.folder}/Image", "")

    def test_boards(self):
        checkout = self.checkout()
        # For a device tree the emulator exits at once; fdtput and others are stubs.
        self.write("bin/qemu-system-aarch64", self.emulator.replace("\n", "\ncase \"$*\" in *dumpdtb*) exit 0 ;; esac\n", 1))
        for tool in ("mcopy", "fdtput", "fdtoverlay", "dtc", "openssl"):
            self.write(f"bin/{tool}")
        for script in ("uki", "disk", "fit"):
            self.write(f"checkout/images/{script}")
        for name in ("virt.img", "virt-signed.img", "raspi3-sd.img"):
            self.write(f"dist/{name}")
        self.write("kernel/Image")
        self.write("bin/cp", '#!/bin/bash\necho x >"${@: -1}"\n')
        for row in ("virt", "fit-unsigned"):
            self.check("tests/boards", f"{self.folder}/dist", f"{self.folder}/kernel", cwd=checkout, ROWS=row)

    def test_neighbours(self):
        self.write("linux/Makefile", KERNEL)
        self.write("linux/tools/testing/selftests/vm/Makefile", SELFTESTS)
        self.write("linux/tools/testing/selftests/vm/userfaultfd.c")
        self.check("kernel/neighbours", "/bin/true", cwd=self.checkout(), KERNEL_SRC=f"{self.folder}/linux",
                   TABLEWALK_CACHE=f"{self.folder}/cache")

    def test_all_that_boots_does_it_so(self):
        found = subprocess.run(["grep", "-rlE", "--exclude=*.py", r"^\s*([^#]*timeout .*)?qemu-system-aarch64 ",
                                "tests", "kernel", "scripts", "images"],
                               stdout=subprocess.PIPE, text=True, check=False).stdout.split()
        # images/all only makes a device tree, and boots nothing.
        self.assertEqual(sorted(found), ["images/all", "tests/qemu"])

    def test_no_boot_rom_is_needed(self):
        # Each network card wants a file of a package that is only recommended.
        for name in ("images/all", "tests/boot", "tests/boards", "kernel/neighbours", "tests/init.py"):
            with open(name, encoding="utf-8") as script:
                text = script.read().replace('", "', " ")
            with self.subTest(name):
                self.assertRegex(text, r"-nic none")

    @staticmethod
    def ends(process, seconds=20):
        """Returns whether a process ends within that time."""
        return bool(select.select([process], [], [], seconds)[0])


if __name__ == "__main__":
    unittest.main()
