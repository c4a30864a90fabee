"""The constants and structs of crates/uapi are those of the header of both kernel series.

The header is the home of the numbers; a C compiler says what they are.
"""

import pathlib
import re
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCE = ROOT / "crates/uapi/src"
HEADER = "include/uapi/linux/remap_page_table.h"
COMPILER = "aarch64-linux-gnu-gcc"


def header(series):
    """The lines that the series adds to its header, a new file. A later patch adds to it."""
    text = "".join(patch.read_text() for patch in sorted((ROOT / "kernel/patches" / series).glob("*.patch")))
    with tempfile.TemporaryDirectory() as folder:
        parts = re.split(r"^(?=diff --git |From [0-9a-f]{40} )", text, flags=re.MULTILINE)
        patches = [part for part in parts if part.startswith(f"diff --git a/{HEADER} b/{HEADER}\n")]
        subprocess.run(["patch", "--quiet", "--strip=1", f"--directory={folder}"], input="".join(patches), text=True,
                       check=True)
        return (pathlib.Path(folder) / HEADER).read_text()


def constants_of_rust():
    """The constants with the kernel's names: name and value."""
    text = "".join((SOURCE / name).read_text() for name in ("remap.rs", "track.rs"))
    found = re.findall(r"^pub const (EXPOSE_PGTBL_\w+): \w+ = ([0-9a-fx_]+);$", text, re.MULTILINE)
    return {name: int(value.replace("_", ""), 0) for name, value in found}


def structs_of_rust():
    """Name, size and offsets of each struct, as check_types.rs has the Rust compiler check them."""
    text = (SOURCE / "check_types.rs").read_text()
    for name, size, fields in re.findall(r"check_struct!\((ExposePgtbl\w+), size (\d+), align \d+, \{([^}]*)\}", text):
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
        yield name, size, re.findall(r"(\w+): (\d+)", fields)


class Header(unittest.TestCase):
    def compile(self, text, lines):
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "header.h").write_text(text)
            program = "\n".join(["#include <stddef.h>", '#include "header.h"', *lines]) + "\n"
            done = subprocess.run([COMPILER, "-fsyntax-only", "-I", folder, "-x", "c", "-"], input=program, text=True,
                                  capture_output=True)
            self.assertEqual((done.returncode, done.stderr), (0, ""))

    def check(self, series, without):
        text = header(series)
        names = set(re.findall(r"^#define\s+(EXPOSE_PGTBL_\w+)\s", text, re.MULTILINE))
        ours = constants_of_rust()
        self.assertEqual(names - set(ours), set(), "a constant of the header that Rust lacks")
        self.assertGreater(len(names), 10)
        lines = [f'_Static_assert({name} == {ours[name]}, "{name}");' for name in names]
        structs = set()
        for name, size, fields in structs_of_rust():
            if name in without:
                continue
            structs.add(name)
            lines.append(f'_Static_assert(sizeof(struct {name}) == {size}, "{name}");')
            lines += [f'_Static_assert(offsetof(struct {name}, {field}) == {offset}, "{name}.{field}");'
                      for field, offset in fields]
        self.assertEqual(structs, set(re.findall(r"^struct (\w+) \{", text, re.MULTILINE)))
        self.compile(text, lines)

    def test_6_1(self):
        self.check("6.1", set())

    def test_6_12(self):
        self.check("6.12", {"expose_pgtbl_run", "expose_pgtbl_track"})


if __name__ == "__main__":
    unittest.main()
