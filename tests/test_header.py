"""Compares what crates/uapi copies by hand from the kernel with the kernel series.

The values are those in the Rust source; check_types.rs proves to the Rust compiler that its sizes and offsets are
those of the structs. Here a C compiler compares them with the header from `make headers`.

usage: make headers && python3 -B -m unittest tests/test_header.py
"""

import glob
import re
import subprocess
import unittest

HEADER = "build/include/linux/remap_page_table.h"
# What the module adds.
MODULE = "kernel/module/ioctl.h"
COMPILER = ("aarch64-linux-gnu-gcc", "-fsyntax-only", "-Wall", "-Werror", "-Ibuild/include", "-I.", "-xc", "-")


def read(path):
    """Returns the text of a file."""
    with open(path, encoding="utf-8") as file:
        return file.read()


def series(version):
    """Returns the text of the patches for a kernel version."""
    return "".join(read(path) for path in sorted(glob.glob(f"kernel/patches/{version}/*.patch")))


def constants():
    """Returns the constants in Rust and their values, which are literals."""
    text = read("crates/uapi/src/remap.rs") + read("crates/uapi/src/track.rs")
    found = re.findall(r"pub const (EXPOSE_PGTBL_\w+): \w+ = (.*);", text)
    return {name: int(value.replace("_", ""), 0) for name, value in found}


def structs():
    """Yields the structs in Rust by their name in C: size, alignment, and the offset of each member."""
    text = read("crates/uapi/src/check_types.rs")
    for name, size, align, members in re.findall(
            r"check_struct!\((ExposePgtbl\w+), size (\d+), align (\d+), \{(.*?)\}\)", text, re.DOTALL):
        offsets = {member: int(offset) for member, offset in re.findall(r"(\w+): (\d+)", members)}
        yield re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(), (int(size), int(align), offsets)


class Header(unittest.TestCase):
    """Has one test for each kind of copy."""

    def compile(self, assertions):
        """Compiles C assertions behind the header."""
        self.assertTrue(assertions)
        lines = [f'_Static_assert({left} == {right}, "Rust has {right}");' for left, right in assertions]
        source = "\n".join(["#include <stddef.h>", f'#include "{MODULE}"', *lines, ""])
        result = subprocess.run(COMPILER, input=source, stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_constants_are_those_of_the_header(self):
        rust = constants()
        names = set(re.findall(r"^#define (EXPOSE_PGTBL_\w+)", read(HEADER), re.MULTILINE))
        self.compile([(name, rust.get(name, "nothing")) for name in sorted(names)])
        # The tests below have these.
        elsewhere = {name for name in rust if re.search(r"_MOST$|_BIT_TRACK_", name)}
        self.assertEqual(set(rust) - elsewhere, names)

    def test_constants_are_those_of_the_later_series(self):
        rust = constants()
        found = re.findall(r"^\+#define (EXPOSE_PGTBL_\w+)\s+(0x[0-9a-f]+|\d+)U?\b", series("6.12"), re.MULTILINE)
        self.assertGreater(len(found), 10)
        self.assertEqual({name: int(value, 0) for name, value in found}, {name: rust.get(name) for name, _ in found})

    def test_constants_of_the_module_are_those_of_its_header(self):
        text = read("crates/uapi/src/remap_device.rs")
        rust = {name: value.replace("_", "") for name, value in
                re.findall(r"const (\w+): u32 = (\w+);", text)}
        names = {"OPEN": "REMAP_PAGE_TABLE_OPEN", "CALL": "REMAP_PAGE_TABLE_CALL",
                 "EXPOSE_PGTBL_PATH5_SIZE": "sizeof(struct expose_pgtbl_path5)"}
        self.compile([(names.get(name, name), value) for name, value in rust.items()])
        defined = set(re.findall(r"^#define (EXPOSE_PGTBL_\w+)", read(MODULE), re.MULTILINE))
        self.assertEqual(defined, set(rust) - set(names))

    def test_structs_are_those_of_the_header(self):
        rust = dict(structs())
        both = read(HEADER) + read(MODULE)
        bodies = dict(re.findall(r"^struct (\w+) \{\n(.*?)^\};", both, re.MULTILINE | re.DOTALL))
        self.assertEqual(set(rust), set(bodies))
        for name, (size, align, offsets) in rust.items():
            with self.subTest(name):
                self.assertEqual(re.findall(r"(\w+)(?:\[\d+\])?;", bodies[name]), list(offsets))
                self.compile([(f"sizeof(struct {name})", size), (f"_Alignof(struct {name})", align)] +
                             [(f"offsetof(struct {name}, {member})", offset) for member, offset in offsets.items()])

    def test_most_is_what_the_header_says(self):
        rust = constants()
        for struct in ("range", "track"):
            comment = re.search(rf"/\*\*\n \* struct expose_pgtbl_{struct} -.*?\*/", read(HEADER), re.DOTALL).group()
            most = re.search(r"A[\s*]+call[\s*]+(?:deals with|fills) (\d+) at most", comment).group(1)
            self.assertEqual(rust[f"EXPOSE_PGTBL_{struct.upper()}_MOST"], int(most), struct)

    def test_marks_are_the_bits_that_the_kernel_sets(self):
        bits = dict(re.findall(r"^\+#define PTE_(TRACK_\w)\s+\(_AT\(pteval_t, 1\) << (\d+)\)", series("6.1"),
                               re.MULTILINE))
        rust = {name.removeprefix("EXPOSE_PGTBL_BIT_"): str(value) for name, value in constants().items()
                if "_BIT_TRACK_" in name}
        self.assertEqual(rust, bits)

    def test_numbers_of_the_call_are_those_of_the_series(self):
        rust = re.search(r"pub const NUMBERS: .* = \[(.*)\];", read("crates/uapi/src/number.rs")).group(1)
        # The selftests have a copy for old headers.
        numbers = [set(re.findall(r"^\+#\s*define __NR_remap_page_table (\d+)", series(version), re.MULTILINE))
                   for version in ("6.1", "6.12")]
        self.assertEqual([{number} for number in rust.split(", ")], numbers)
