"""The judge lets a good log pass and finds each thing that can be wrong with one."""

import os
import tempfile
import unittest

from tests.judge import complaints, parse

# Where `make kernel` puts the kernel's own parser.
KUNIT = "build/tools/testing/kunit"

GOOD = """\
[    0.100000] Run /init as init process
KTAP version 1
1..2
  KTAP version 1
  1..1
  ok 1 a test
  # Totals: pass:1 fail:0 skip:0
ok 1 one
ok 2 two # SKIP no reason
# Totals: pass:1 fail:0 skip:1
tablewalk: PASS
"""


class Judge(unittest.TestCase):
    """One test for each kind of trouble."""

    def assert_complains(self, log, about, exit_status=0):
        """There is exactly one complaint, and it is about that."""
        found = complaints(log, exit_status)
        self.assertEqual(len(found), 1, found)
        self.assertIn(about, found[0])

    def test_good_log_passes(self):
        self.assertEqual(complaints(GOOD), [])

    def test_kernel_trouble_is_found_wherever_it_stands(self):
        for line in (
            "[    1.0] BUG: Bad page map in process uffd  pte:e80000480d4f53",
            "[    1.0] BUG: Bad rss-counter state mm:(ptrval) type:MM_ANONPAGES val:1",
            "[    1.0] WARNING: CPU: 0 PID: 1 at mm/memory.c:1",
            "[    1.0] Unable to handle kernel NULL pointer dereference at virtual address 0",
            "[    1.0] Internal error: Oops: 96000004 [#1] SMP",
            "[    1.0] Kernel panic - not syncing: Attempted to kill init!",
            "[    1.0] BUG: KASAN: use-after-free in x",
            "[    1.0] WARNING: possible circular locking dependency detected",
            "[    1.0] rcu: INFO: rcu_sched detected stalls on CPUs/tasks:",
        ):
            for place in ("KTAP version 1\n1..2", "ok 2 two"):
                log = GOOD.replace(place, f"{line}\n{place}", 1)
                self.assert_complains(log, "kernel: ")

    def test_only_known_races_of_linux_are_passed_over(self):
        for race, known in [
            ("capable / get_task_mm", True),
            ("capable / get_task_mm_more", False),
            ("find_table / get_task_mm", False),
            ("do_sys_poll / pollwake", True),
        ]:
            line = f"[    1.000000] BUG: KCSAN: data-race in {race}"
            log = GOOD.replace("tablewalk: PASS", f"{line}\ntablewalk: PASS")
            self.assertEqual(complaints(log) == [], known, race)

    def test_so_many_lost_pages_are_passed_over_and_no_other_count(self):
        lost = "[    1.0] BUG: Bad rss-counter state mm:(ptrval) type:MM_ANONPAGES val:1\n"
        log = GOOD.replace("tablewalk: PASS", f"{lost}{lost}tablewalk: PASS")
        self.assertEqual(complaints(log, may_lose=2), [])
        self.assertEqual(len(complaints(log, may_lose=1)), 2)
        log = log.replace("MM_ANONPAGES", "MM_FILEPAGES", 1)
        self.assertEqual(len(complaints(log, may_lose=2)), 1)

    def test_failure_is_found_at_each_depth(self):
        self.assert_complains(GOOD.replace("ok 1 one", "not ok 1 one"), "not ok 1 one")
        self.assert_complains(GOOD.replace("  ok 1 a", "  not ok 1 a"), "not ok 1 a test")

    def test_missing_plan(self):
        self.assert_complains(GOOD.replace("1..2\n", "", 1), "no plan")

    def test_empty_plan(self):
        self.assert_complains("KTAP version 1\n1..0\ntablewalk: PASS\n", "an empty plan")

    def test_too_few_and_too_many_results(self):
        few = GOOD.replace("ok 2 two # SKIP no reason\n", "")
        self.assert_complains(few, "2 results, 3 planned")
        few = GOOD.replace("  ok 1 a test\n", "")
        self.assert_complains(few, "2 results, 3 planned")
        many = GOOD.replace("ok 2 two", "ok 2 two\nok 3 three")
        self.assert_complains(many, "4 results, 3 planned")

    def test_results_of_a_selftest_need_no_indent(self):
        flat = GOOD.replace("\n  ", "\n")
        self.assertEqual(complaints(flat), [])
        self.assert_complains(flat.replace("ok 1 a test\n", ""), "2 results, 3 planned")

    def test_verdict(self):
        self.assert_complains(GOOD.replace("tablewalk: PASS\n", ""), "no verdict")
        self.assert_complains(GOOD.replace("PASS", "FAIL"), "FAIL")
        self.assert_complains(GOOD.replace("PASS", "SKIP"), "SKIP")
        # Words of a program are not init's.
        self.assert_complains(GOOD.replace("tablewalk: P", "  tablewalk: P"), "no verdict")

    def test_exit_status(self):
        self.assert_complains(GOOD, "exit status is 124", exit_status=124)


@unittest.skipUnless(os.path.isdir(KUNIT), "the kernel's KTAP parser comes with `make kernel`")
class Parser(unittest.TestCase):
    """The kernel's parser says what we think it says."""

    def content(self, log):
        """Whether the parser is content with the log."""
        with tempfile.NamedTemporaryFile("w", suffix=".log") as file:
            file.write(log)
            file.flush()
            return parse(KUNIT, file.name)[1]

    def test_good_log_passes(self):
        self.assertTrue(self.content(GOOD))
        self.assertTrue(self.content(GOOD.replace("\n  ", "\n")))

    def test_failure(self):
        # The parser takes the result of a program from its tests; complaints() does not.
        self.assertFalse(self.content(GOOD.replace("  ok 1 a", "  not ok 1 a")))

    def test_missing_results(self):
        self.assertFalse(self.content(GOOD.replace("  ok 1 a test\n", "")))
        self.assertFalse(self.content(GOOD[:GOOD.index("  KTAP")]))

    def test_wrong_number(self):
        self.assertFalse(self.content(GOOD.replace("ok 2 two", "ok 3 two")))

    def test_no_ktap(self):
        self.assertFalse(self.content("[    0.1] Run /init as init process\n"))


if __name__ == "__main__":
    unittest.main()
