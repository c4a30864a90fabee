"""Compares the JSON members that ptview reads with docs/json.md; tests/pt.py compares that with the output of pt.

usage: python3 -B -m unittest tests/test_json.py
"""

import re
import unittest


def documented():
    """Returns the members of each type of object: those that are always there, and the optional ones."""
    found, kind = {}, None
    with open("docs/json.md", encoding="utf-8") as page:
        for line in page:
            if line.startswith("#"):
                kind = line.lstrip("#").strip().strip("`")
            elif match := re.match(r"\| `(\w+)`( \?)? \|", line):
                found.setdefault(kind, ({}, {}))[bool(match.group(2))][match.group(1)] = line
    return found


def read():
    """Yields the members that ptview reads, by the struct in its record.rs, and whether each is optional."""
    with open("tools/ptview/src/record.rs", encoding="utf-8") as file:
        text = file.read()
    for name, body in re.findall(r"pub\(crate\) struct (\w+) \{\n(.*?)\n\}", text, re.DOTALL):
        attribute = ""
        for line in body.splitlines():
            if line.strip().startswith("#["):
                attribute = line
            elif match := re.match(r" *pub\(crate\) (\w+): (.*),", line):
                field, kind = match.groups()
                renamed = re.search(r'rename = "(\w+)"', attribute)
                optional = kind.startswith("Option") or "default" in attribute
                yield name.lower(), renamed.group(1) if renamed else field, "flatten" in attribute, optional
                attribute = ""


class Members(unittest.TestCase):
    """Checks each member that ptview reads."""

    def test_members(self):
        types, seen = documented(), set()
        types["said"] = types["attributes"]
        for kind, member, flattened, optional in read():
            if flattened:
                continue
            with self.subTest(kind, member=member):
                # The attributes are in a separate table, for all types that have them.
                always, maybe = (set(own) | set(more) for own, more in zip(types[kind], types["attributes"]))
                self.assertIn(member, always | maybe)
                self.assertTrue(optional or member in always, "may be missing, and ptview cannot do without")
                seen.add(kind)
        self.assertLessEqual({"header", "end", "table", "entry", "range", "change", "round", "run", "said"}, seen)


if __name__ == "__main__":
    unittest.main()
