"""Tests kernel/check-config on configurations that lack options."""

import gzip
import importlib.machinery
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOOL = os.path.join(ROOT, "kernel", "check-config")
loader = importlib.machinery.SourceFileLoader("check_config", TOOL)
check_config = importlib.util.module_from_spec(importlib.util.spec_from_loader("check_config", loader))
loader.exec_module(check_config)


def fragment(name):
    """Returns the text of a fragment."""
    with open(os.path.join(ROOT, "kernel", "config", f"{name}.config"), encoding="utf-8") as file:
        return file.read()


def run(*arguments):
    """Runs the tool; returns its exit status and output."""
    done = subprocess.run([sys.executable, "-B", TOOL, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


class CheckConfig(unittest.TestCase):
    """Each test checks one or more files, one at a time."""

    def check(self, content):
        """Runs the tool on a file with that content."""
        if isinstance(content, str):
            content = content.encode()
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            return run(file.name)

    def setUp(self):
        self.needs = fragment("needs")

    def test_what_is_needed_is_enough(self):
        status, said = self.check(self.needs)
        self.assertEqual(status, 0, said)
        self.assertRegex(said, "^check-config: .*: of [0-9]{2} options 0 in the way, 0 to think about$")

    def test_compressed_as_the_kernel_does(self):
        self.assertEqual(self.check(gzip.compress(self.needs.encode()))[0], 0)
        status, said = self.check(gzip.compress(b"CONFIG_ARM64=y\n"))
        self.assertEqual(status, 1)
        self.assertIn("CONFIG_PROC_FS is not set", said)

    def test_each_option_is_missed_with_its_reason(self):
        options = check_config.parse(self.needs)
        self.assertGreater(len(options), 15)
        for option, (value, reason) in options.items():
            with self.subTest(option):
                self.assertGreater(len(reason), 20)
                # Missing, as a module, and the opposite; the last line of an option counts.
                for line in [f"# {option} is not set", f"{option}=m"] if value == "y" else [f"{option}=y"]:
                    advice = reason.startswith("Advice: ")
                    status, said = self.check(f"{self.needs}{line}\n")
                    self.assertEqual(status, 0 if advice else 1, said)
                    first, *rest = said.splitlines()
                    asked = "should be" if advice else "has to be"
                    self.assertRegex(first, f"^{option} is (not set|m|y), {asked} (y|off)$")
                    why = " ".join(line.strip() for line in rest[:-1])
                    self.assertEqual(why, reason.removeprefix("Advice: "))
                    count = "0 in the way, 1 to think about" if advice else "1 in the way, 0 to think about"
                    self.assertTrue(rest[-1].endswith(count), rest[-1])

    def test_an_option_that_is_not_mentioned_is_missing(self):
        without = re.sub(r"CONFIG_FUTEX=y\n", "", self.needs)
        self.assertRegex(self.check(without)[1], "CONFIG_FUTEX is not set, has to be y\n    Threads")

    def test_no_configuration(self):
        for content in (b"", b"hello\n", b"# CONFIG_A is not set\n", b"\xff\xfe", b"\x1f\x8bnonsense", b"\x1f\x8b"):
            with self.subTest(content):
                status, said = self.check(content)
                self.assertEqual(status, 2, said)
                self.assertRegex(said, "^check-config: /.*: .+")

    def test_no_file(self):
        self.assertEqual(run("/nonexistent/.config"),
                         (2, "check-config: /nonexistent/.config: No such file or directory\n"))
        self.assertEqual(run("/")[0], 2)
        for arguments in ((), ("a", "b"), ("--help",)):
            self.assertEqual(run(*arguments)[0], 2)

    def test_our_own_kernels_have_it(self):
        """The options come from base.config, and from the architecture."""
        ours = {"CONFIG_ARM64": ("y",), **check_config.parse(fragment("base"))}
        for option, (value, _) in check_config.parse(self.needs).items():
            self.assertEqual(ours.get(option, ("n",))[0], value, option)


if __name__ == "__main__":
    unittest.main()
