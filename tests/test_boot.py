"""What tests/boot leaves behind, with a stand-in for QEMU."""

import os
import select
import signal
import subprocess
import tempfile
import unittest

# Says its number, and waits to be ended.
EMULATOR = """\
#!/bin/sh
echo $$ >"$FOLDER/pid"
echo "Booting Linux on physical CPU"
exec sleep 600
"""


class Boot(unittest.TestCase):
    """A boot that is ended from outside takes the emulator with it."""

    def test_no_emulator_outlives_it(self):
        for end in (signal.SIGTERM, signal.SIGKILL):
            with tempfile.TemporaryDirectory() as folder:
                emulator = f"{folder}/qemu-system-aarch64"
                with open(emulator, "w", encoding="ascii") as file:
                    file.write(EMULATOR)
                os.chmod(emulator, 0o755)
                os.mkfifo(f"{folder}/pid")
                environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "FOLDER": folder,
                               "TIMEOUT": "60"}
                with subprocess.Popen(["tests/boot", "test-boot", "/dev/null", ""], env=environment,
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as boot:
                    with open(f"{folder}/pid", encoding="ascii") as file:
                        emulator = os.pidfd_open(int(file.read()))
                    boot.send_signal(end)
                try:
                    # Readable once it has ended.
                    self.assertTrue(self.ends(emulator), end)
                finally:
                    if not self.ends(emulator, 0):
                        signal.pidfd_send_signal(emulator, signal.SIGKILL)
                    os.close(emulator)

    @staticmethod
    def ends(process, seconds=20):
        """Whether a process ends within that time."""
        return bool(select.select([process], [], [], seconds)[0])


if __name__ == "__main__":
    unittest.main()
