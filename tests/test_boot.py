"""What tests/boot leaves behind, with a stand-in for QEMU."""

import os
import select
import shutil
import signal
import subprocess
import tempfile
import unittest

# Says its number, and waits to be ended.
EMULATOR = """\
#!/bin/sh
echo $$ >"FOLDER/pid"
echo "Booting Linux on physical CPU"
exec sleep 600
"""


# The source of a kernel that is built at once, with one of its own tests.
KERNEL = """\
VERSION = 6
PATCHLEVEL = 1
mrproper headers: ;
%: ; mkdir -p $(O)/arch/arm64/boot && touch $(O)/arch/arm64/boot/Image && \\
	echo CONFIG_REMAP_PAGE_TABLE=y >$(O)/.config
"""
SELFTESTS = "all: ; mkdir -p $(OUTPUT) && cp /bin/true $(OUTPUT)/hugepage-shm\n"


class Boot(unittest.TestCase):
    """What boots, ended from outside, takes the emulator with it."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.emulator = EMULATOR.replace("FOLDER", self.folder)
        self.write("bin/qemu-system-aarch64", self.emulator)
        os.mkfifo(f"{self.folder}/pid")

    def write(self, path, text="#!/bin/sh\n"):
        """Writes a file that can be executed."""
        path = f"{self.folder}/{path}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        os.chmod(path, 0o755)

    def checkout(self):
        """A copy of the scripts, whose kernel has a series that changes nothing."""
        for folder in ("scripts", "kernel", "images", "initramfs", "tests"):
            shutil.copytree(folder, f"{self.folder}/checkout/{folder}")
        shutil.rmtree(f"{self.folder}/checkout/kernel/patches/6.1")
        self.write("checkout/kernel/patches/6.1/0001-x.patch", "--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+x\n")
        return f"{self.folder}/checkout"

    def check(self, *command, cwd=".", **variables):
        """The emulator that a command starts is gone with it."""
        environment = {**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}", "TIMEOUT": "60", **variables}
        for end in (signal.SIGTERM, signal.SIGKILL):
            with subprocess.Popen(command, env=environment, cwd=cwd, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as boot:
                emulator = os.pidfd_open(self.read_pid(boot))
                boot.send_signal(end)
                try:
                    # Readable once it has ended.
                    self.assertTrue(self.ends(emulator), end)
                finally:
                    if not self.ends(emulator, 0):
                        signal.pidfd_send_signal(emulator, signal.SIGKILL)
                    os.close(emulator)

    def read_pid(self, process):
        """The number of the emulator, once it runs."""
        fifo = os.open(f"{self.folder}/pid", os.O_RDONLY | os.O_NONBLOCK)
        try:
            while process.poll() is None:
                select.select([fifo], [], [], 0.2)
                if text := os.read(fifo, 100):
                    return int(text)
        finally:
            os.close(fifo)
        return self.fail(f"it ended with {process.returncode}, and started no emulator")

    def test_boot(self):
        self.write("Image", "MZ" + 54 * " " + "ARMd")
        self.check("tests/boot", "test-boot", f"{self.folder}/Image", "")

    def test_boards(self):
        checkout = self.checkout()
        # Device trees are made of something else.
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
        # It makes a device tree, and boots nothing.
        self.assertEqual(sorted(found), ["images/all", "tests/qemu"])

    @staticmethod
    def ends(process, seconds=20):
        """Whether a process ends within that time."""
        return bool(select.select([process], [], [], seconds)[0])


if __name__ == "__main__":
    unittest.main()
