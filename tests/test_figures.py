"""Tests of tests/figures.py."""

import unittest

from tests.figures import compare

LOG = [
    "  PATH                                            562  0.650\n",
    "  map one of     10 tables, by address           2018  2.300\n",
    "  written               1024     8.02     7.44    15.86    69.79\n",
]


class Figures(unittest.TestCase):
    def good(self, *figures):
        return compare(LOG, figures)[1]

    def test_a_figure_may_be_twice_the_committed_one(self):
        self.assertTrue(self.good("281 1 PATH"))
        self.assertFalse(self.good("280 1 PATH"))
        self.assertTrue(self.good("600 1 PATH", "2000 1 map one of 10 tables, by address"))
        self.assertFalse(self.good("600 1 PATH", "1000 1 map one of 10 tables, by address"))

    def test_the_column_is_counted_behind_the_row(self):
        self.assertTrue(self.good("7.5 2 written 1024"))
        self.assertFalse(self.good("7.5 3 written 1024"))

    def test_a_figure_that_is_missing_is_an_error(self):
        self.assertFalse(self.good("600 1 PATHS"))
        self.assertFalse(self.good("600 3 PATH"))
        self.assertIn("missing", "".join(compare(LOG, ["600 1 PATHS"])[0]))

    def test_no_figures_are_an_error(self):
        self.assertFalse(self.good("# nothing"))


if __name__ == "__main__":
    unittest.main()
