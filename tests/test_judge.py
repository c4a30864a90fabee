"""Tests that the judge accepts a good log and finds each kind of problem."""

import os
import tempfile
import time
import unittest

from tests.judge import MESSAGES, complaints, is_trouble, parse

# The folder to which `make kernel` copies the kernel's own parser.
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

# Messages that were seen from kernels 5.10 to 6.12 without any other sign of trouble.
SAID = """\
Internal error: synchronous external abort: 96000010 [#1] SMP
mm/pgtable-generic.c:54: bad pmd 0000000041234003.
mm/pgtable-generic.c:40: bad pgd 0000000041234003.
mm/memory.c:320: bad pte e80000480d4f53.
get_swap_device: Bad swap file entry 3800000000000000
swap_dup: Bad swap offset entry 3ffffffff
page dumped because: kasan: bad access detected
Memory failure: 0x44c3b: recovery action for dirty LRU page: Recovered
SError Interrupt on CPU0, code 0x00000000bf000002 -- SError
Bad mode in Error handler detected on CPU0, code 0xbf000002 -- SError
Unhandled fault at 0xffff800008000000
Insufficient stack space to handle exception!
Out of memory: Killed process 95 (stress) total-vm:1048576kB, anon-rss:921600kB, file-rss:0kB
stress invoked oom-killer: gfp_mask=0x100cca(GFP_HIGHUSER_MOVABLE), order=0, oom_score_adj=0
stress: page allocation failure: order:4, mode:0x40dc0(GFP_KERNEL|__GFP_COMP|__GFP_ZERO)
BUG kmalloc-64 (Not tainted): Right Redzone overwritten
BUG: KFENCE: use-after-free read in test+0x10/0x20
Watchdog detected hard LOCKUP on cpu 1
INFO: rcu_sched self-detected stall on CPU
rcu_preempt kthread starved for 2500 jiffies! g-1203 f0x0 RCU_GP_WAIT_FQS(5) ->state=0x0 ->cpu=0
rcu: rcu_sched kthread timer wakeup didn't happen for 2500 jiffies! g-1203 f0x0 RCU_GP_WAIT_FQS(5) ->state=0x402
INFO: trying to register non-static key.
INFO: lockdep is turned off.
WARNING: possible irq lock inversion dependency detected
bad: scheduling from the idle thread!
note: uffd[30] exited with preempt_count 1
note: uffd[30] exited with irqs disabled
sched: RT throttling activated
irq 17: nobody cared (try booting with the "irqpoll" option)
CPU: 1 PID: 30 Comm: uffd Tainted: G    B              6.1.0 #1
kmemleak: Cannot allocate a kmemleak_object structure
watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [uffd:30]
huh, entered softirq 3 NET_RX 00000000c8a5a2c5 with preempt_count 00000100, exited with 00000101?
NOHZ tick-stop error: local softirq work is pending, handler #08!!!
CRED: Invalid credentials
zram: Decompression failed! err=-22, page=14
I/O error, dev zram0, sector 16 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2
Buffer I/O error on dev zram0, logical block 2, async page read
EXT4-fs error (device vda): ext4_lookup:1855: inode #2: comm ls: iget: checksum invalid
EXT2-fs (ram0): error: ext2_lookup: deleted inode referenced: 12
VFS: Busy inodes after unmount of vda (ext4)
handlers:
issue in uffd
Allocated by task 30:
bad pte
""".splitlines()

# A short report of the OOM killer.
KILLED = """\
[    1.0] stress invoked oom-killer: gfp_mask=0x100cca(GFP_HIGHUSER_MOVABLE), order=0, oom_score_adj=0
[    1.0] CPU: 0 PID: 30 Comm: stress Not tainted 6.1.0 #1
[    1.0] Call trace:
[    1.0] Mem-Info:
[    1.0] Out of memory: Killed process 30 (stress) total-vm:1048576kB, anon-rss:921600kB
"""


class Judge(unittest.TestCase):
    """One test for each kind of trouble."""

    def assert_complains(self, log, about, exit_status=0):
        """Checks that there is exactly one complaint, and that it contains `about`."""
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

    def test_what_kernels_say_alone(self):
        for message in SAID:
            for place in ("KTAP version 1\n1..2", "ok 2 two", "tablewalk: PASS"):
                log = GOOD.replace(place, f"[    1.000000] {message}\n{place}", 1)
                self.assert_complains(log, "kernel: ")
            # With the CPU or thread, and after the beginning of a program's line.
            self.assertTrue(is_trouble(f"[    1.000000][   T12] {message}"), message)
            self.assertTrue(is_trouble(f"  ok 1 a te[    1.000000] {message}"), message)

    def test_every_message_of_the_list_is_found(self):
        self.assertGreater(len(MESSAGES), 400)
        for message in MESSAGES:
            self.assertTrue(is_trouble("[    1.000000] x: " + "12".join(message.all)), message.all)

    def test_what_is_no_trouble(self):
        for line in (
            "[    0.000000] Booting Linux on physical CPU 0x0000000000 [0x410fd083]",
            "[    0.000000] Memory: 1006128K/1048576K available (3072K kernel code)",
            "[    0.000000] rcu: Hierarchical RCU implementation.",
            "[    0.000000] SLUB: HWalign=64, Order=0-3, MinObjects=0, CPUs=2, Nodes=1",
            "[    2.000000] random: crng init done",
            "[    3.000000] reboot: Power down",
            "[    3.000000] Injecting memory failure for pfn 0x44c3b at process virtual address 0x7f8e3b5000",
            # Short messages have to be the whole line.
            "[    1.000000] gpio: flags: 0x1", "[    1.000000] mmc0: no handlers: using polling",
            "[    1.000000] x: a known issue in firmware", "[    1.000000] opened by task 30: fine",
            "[    1.000000] pci: last test exit", "[    1.000000] no stack backtrace: off", "handlers: none",
            "# pt nonsense: exit status 2", "  # a bad pte is told", "init: LED: EIO (Input/output error)",
        ):
            self.assertFalse(is_trouble(line), line)

    def test_a_message_that_is_broken_in_two(self):
        for first, second in (("[    1.0] Kernel pa", "nic - not syncing: x"),
                              ("[    1.0] Internal er", "ror: synchronous external abort: 96000010 [#1] SMP"),
                              ("[    1.0] INFO: rcu_sched self-det", "ected stall on CPU")):
            self.assert_complains(GOOD.replace("ok 2", f"{first}\n{second}\nok 2"), first + second)

    def test_nothing_but_a_newline_ends_a_line(self):
        for character in "\r\v\f\x1c\x85\u2028":
            log = GOOD.replace("tablewalk: PASS\n", f"x{character}tablewalk: PASS\n")
            self.assert_complains(log, "no verdict")
        self.assertEqual(complaints(GOOD.replace("\n", "\r\n")), [])

    def test_a_known_race_hides_nothing(self):
        race = "BUG: KCSAN: data-race in capable / get_task_mm"
        log = GOOD.replace("ok 2", f"[    1.0] Kernel panic - not syncing: {race}\nok 2")
        self.assert_complains(log, "Kernel panic")

    def test_so_many_are_killed_for_their_memory(self):
        report = KILLED + "ok 2 two"
        log = GOOD.replace("ok 2 two", report)
        self.assertEqual(len(complaints(log)), 3)
        self.assertEqual(complaints(log, may_kill=1), [])
        twice = GOOD.replace("ok 2 two", KILLED + report)
        self.assertEqual(len(complaints(twice, may_kill=1)), 3)
        # A report without an end hides nothing.
        cut = log.replace("Killed process", "Killed")
        self.assertTrue(complaints(cut, may_kill=1))

    def test_a_report_of_a_kill_hides_nothing_else(self):
        for line in ("BUG: KASAN: use-after-free in x", "Kernel panic - not syncing: Killed process 1 (init)",
                     "Internal error: Oops: 96000004 [#1] SMP", "WARNING: CPU: 0 PID: 1 at mm/memory.c:1",
                     "Out of memory and no killable processes...", "CPU: 0 PID: 1 Comm: x Tainted: G    B   6.1.0",
                     "Kernel panic - not syncing: x invoked oom-killer: y"):
            for place in ("[    1.0] CPU", "[    1.0] Mem-Info", "[    1.0] Out of"):
                log = GOOD.replace("ok 2 two", KILLED.replace(place, f"[    1.0] {line}\n{place}") + "ok 2 two")
                found = complaints(log, may_kill=1)
                self.assertIn(f"kernel: [    1.0] {line}", found, place)

    def test_the_judge_is_not_slow(self):
        unfilled = ["1..1"] * 20000 + ["ok 1 x"] * 20000
        totals = ["1..1"] * 20000 + ["# Totals: pass:2 fail:0 skip:0"] * 20000
        nested = [f"{' ' * depth}1..1" for depth in range(1000)] + ["# Totals: pass:2"] * 20000 + \
            [f"{' ' * depth}ok 1 x\n{' ' * depth}# Totals: pass:1" for depth in reversed(range(1000))]
        for lines in (unfilled, totals, nested, ["[    1.0] " + "rcu:" * 200000], ["rcu:" * 200000] * 2):
            before = time.process_time()
            complaints("\n".join(lines))
            self.assertLess(time.process_time() - before, 5, lines[0][:20])

    def test_a_fault_without_memory_is_trouble_but_where_allocations_fail_on_purpose(self):
        line = "[    1.0] Huh VM_FAULT_OOM leaked out to the #PF handler. Retrying PF\n"
        log = GOOD.replace("ok 2 two", f"{line}ok 2 two")
        self.assert_complains(log, "VM_FAULT_OOM")
        self.assertEqual(complaints(log.replace("ok 2 two", "ok 2 hostile")), [])

    def test_memory_errors_are_those_that_a_program_injects(self):
        line = "[    1.0] Memory failure: 0x44c3b: recovery action for dirty LRU page: Recovered\n"
        self.assert_complains(GOOD.replace("ok 2 two", f"{line}ok 2 two"), "Memory failure")
        log = GOOD.replace("ok 2 two", f"{line}ok 2 moved")
        self.assertEqual(complaints(log), [])
        self.assert_complains(log.replace("Recovered", "Failed"), "Memory failure")

    def test_only_known_races_of_linux_are_passed_over(self):
        for race, known in [
            ("capable / get_task_mm", True),
            ("capable / get_task_mm_more", False),
            ("find_table / get_task_mm", False),
            ("do_sys_poll / pollwake", True),
            ("do_nanosleep.constprop.0 / hrtimer_wakeup", True),
            ("pid_revalidate / pid_revalidate", True),
            ("may_open / pid_revalidate", True),
            ("capable / prepare_signal", True),
            ("__handle_mm_fault / __set_pte_at.constprop.0", True),
            ("__handle_mm_fault / track_table", False),
            ("pid_revalidate / find_table", False),
        ]:
            line = f"[    1.000000] BUG: KCSAN: data-race in {race}\n" \
                "[    1.000001] write to 0xffff000001137b90 of 4 bytes by task 49 on cpu 1:\n" \
                "[    1.000002] read (marked) to 0xffff000001137b90 of 4 bytes by interrupt on cpu 0:"
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
        log = GOOD.replace("ok 1 one", "not ok 1 one").replace("# Totals: pass:1 fail:0 skip:1",
                                                                "# Totals: pass:0 fail:1 skip:1")
        self.assert_complains(log, "not ok 1 one")
        log = GOOD.replace("  ok 1 a", "  not ok 1 a").replace("pass:1 fail:0 skip:0", "pass:0 fail:1 skip:0")
        self.assert_complains(log, "not ok 1 a test")

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
        self.assertIn("init says FAIL", complaints(GOOD + "tablewalk: FAIL\n"))
        self.assertIn("2 verdicts", complaints(GOOD + "tablewalk: PASS\n"))
        # The words of a program are not the verdict of init.
        self.assert_complains(GOOD.replace("tablewalk: P", "  tablewalk: P"), "no verdict")

    def test_the_verdict_is_the_last_line_of_the_only_boot(self):
        self.assert_complains(GOOD + "  what now\n", "after the verdict: what now")
        late = GOOD.replace("ok 2 two # SKIP no reason\n", "") + "ok 2 two # SKIP no reason\n"
        self.assertIn("after the verdict: ok 2 two # SKIP no reason", complaints(late))
        end = "init: semihosting: killed by signal 4\n[    3.000000] reboot: Power down\n"
        self.assertEqual(complaints(GOOD + end), [])
        boot = "[    0.000000] Booting Linux on physical CPU 0x0000000000 [0x410fd083]\n"
        self.assertEqual(complaints(boot + GOOD), [])
        self.assertIn("2 boots", complaints(boot + GOOD + boot))
        self.assertIn("2 boots", complaints(boot + boot + GOOD))

    def test_totals(self):
        for wrong in ("pass:1 fail:2 skip:0", "pass:2 fail:0 skip:0", "pass:1 fail:0 skip:0 error:1"):
            log = GOOD.replace("pass:1 fail:0 skip:0", wrong)
            self.assert_complains(log, f"totals that are not those of the results: # Totals: {wrong}")
        self.assertEqual(complaints(GOOD.replace("fail:0 skip:0", "fail:0 xfail:0 xpass:0 skip:0 error:0")), [])

    def test_bail_out(self):
        self.assert_complains(GOOD.replace("ok 2", "Bail out! no memory\nok 2"), "Bail out! no memory")
        self.assert_complains(GOOD.replace("  ok 1", "  Bail out!\n  ok 1"), "Bail out!")

    def test_plans_of_millions_are_not_waited_for(self):
        for number in ("5000000", "9" * 5000):
            log = GOOD.replace("1..1\n", f"1..{number}\n")
            self.assert_complains(log, "a plan of more than 100000 tests")
        many = GOOD.replace("1..1\n", "1..1\n" + "  1..90000\n" * 2)
        self.assert_complains(many, "plans of more than 100000 tests")

    def test_exit_status(self):
        self.assert_complains(GOOD, "exit status is 124", exit_status=124)


@unittest.skipUnless(os.path.isdir(KUNIT), "the kernel's KTAP parser comes with `make kernel`")
class Parser(unittest.TestCase):
    """Tests that the kernel's parser behaves as expected."""

    def content(self, log):
        """Returns whether the parser accepts the log."""
        with tempfile.NamedTemporaryFile("w", suffix=".log") as file:
            file.write(log)
            file.flush()
            return parse(KUNIT, file.name)[1]

    def test_good_log_passes(self):
        self.assertTrue(self.content(GOOD))
        self.assertTrue(self.content(GOOD.replace("\n  ", "\n")))

    def test_failure(self):
        # The parser takes the result of a program from the program's tests; complaints() does not.
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
