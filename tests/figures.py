#!/usr/bin/env python3
"""Compares what `bench` has measured with the figures of bench/figures.

usage: tests/figures.py LOG FIGURES

A line of FIGURES has a number of instructions, which number it is behind the name of its row, and that name, as
`bench` prints it. A figure that is more than twice the committed one, or that is missing, is an error. A regression of
some per cent is for whoever reads the output of `make bench`. The exit status is 0 if all are within their bounds.
"""

import re
import sys

MOST = 2
NUMBER = re.compile(r"^[0-9]+(\.[0-9]+)?$")


def expected(lines):
    """Yields the figure, its column and its row of each line that is not empty or a comment."""
    for line in lines:
        words = line.split()
        if words and not words[0].startswith("#"):
            yield float(words[0]), int(words[1]), words[2:]


def measured(lines, row, column):
    """Returns number `column`, from 1, of the first line that begins with the words of `row`, or None."""
    for line in lines:
        words = line.split()
        numbers = words[len(row) :]
        if words[: len(row)] == row and len(numbers) >= column and NUMBER.match(numbers[column - 1]):
            return float(numbers[column - 1])
    return None


def compare(lines, figures):
    """Returns the lines of a table, and whether all figures are within their bounds."""
    table, good = [], True
    for figure, column, row in expected(figures):
        now = measured(lines, row, column)
        within = now is not None and now <= MOST * figure
        good &= within
        shown = "missing" if now is None else f"{now:g}"
        table.append(f"{'ok' if within else 'FAIL':<5}{shown:>10}{figure:>10g}  {' '.join(row)}")
    if not table:
        return ["figures: there are none to compare with"], False
    return ["       measured committed", *table], good


def main():
    with open(sys.argv[1], encoding="utf-8", errors="replace") as log:
        lines = log.readlines()
    with open(sys.argv[2], encoding="utf-8") as figures:
        table, good = compare(lines, figures.readlines())
    print("\n".join(table))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
