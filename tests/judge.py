#!/usr/bin/env python3
"""Judges the console log of a boot.

A boot passes if the kernel's own parser accepts its KTAP, there is a plan with at least one test, all planned
tests have a result and none failed; the kernel printed no message that means trouble; the last line is init's
verdict, and that is PASS; and the emulator exited with status 0, where its status is known.
"""

import argparse
import collections
import heapq
import itertools
import os
import re
import subprocess
import sys

# Messages of a kernel in trouble, anywhere in a line. kernel-messages.txt has the messages of its sources, which
# tests/kernel-messages extracts. These are parts that many of them have in common, and messages of other
# levels.
TROUBLE = re.compile(
    r"BUG:|BUG at|BUG \S+ \(|WARNING:|Bad page|Bad rss-counter|Oops|Kernel panic|Unable to handle kernel"
    r"|KASAN:|KCSAN:|UBSAN:|KFENCE:|kmemleak: [0-9]+ new|kmemleak: Cannot|INFO: task"
    r"|self-detected stall|possible recursive locking|possible circular locking|inconsistent lock state"
    r"|suspicious RCU usage|Call trace:|held lock freed|scheduling while atomic|refcount_t:"
    r"|list_(add|del) corruption|cut here|Internal error:|SError|Bad mode in|Unhandled fault at|Tainted:"
    r"|invoked oom-killer|Out of memory|page allocation failure"
)
# The time stamp of a line of the kernel, with the thread or CPU that printed it.
STAMP = r"\[ *[0-9]+\.[0-9]+\](?:\[ *[TC][0-9]+\])? "
STAMPED = re.compile(STAMP)
# Races of Linux 6.1 without the series, in code that the series does not change; KCSAN names the two functions
# that access the memory. Each was seen, and is in one flag or one word, which is written as a whole:
# - a poll is woken while it checks whether it was woken (pwq->triggered);
# - a task notes that it used a capability (PF_SUPERPRIV) while another checks whether it is a kernel
#   thread (PF_KTHREAD), as /proc/PID/mem and kill do;
# - an interrupt reports the same quiescent state as the code that it interrupts;
# - two files are opened with the same credentials, of which each notes that they are in use
#   (get_cred(), cred->non_rcu = 0);
# - a timer clears the pointer to the task that sleeps, which looks whether it is cleared;
# - a timer that is being run is cancelled by a task on another CPU, which looks again if it was (base->running);
# - /proc writes owner and mode of a file again, the same as before, while it is opened;
# - a fault reads an entry without the lock while UFFDIO_COPY writes it, and compares it under the lock.
KNOWN_RACES = re.compile(
    r"BUG: KCSAN: data-race in (do_sys_poll / pollwake|capable / (get_task_mm|prepare_signal)"
    r"|rcu_momentary_eqs / rcu_report_qs_rdp|__alloc_file / __alloc_file"
    r"|do_nanosleep(\.constprop\.0)? / hrtimer_wakeup|__hrtimer_run_queues / hrtimer_active"
    r"|(do_dentry_open|may_open|pid_revalidate) / pid_revalidate"
    r"|__handle_mm_fault / __set_pte_at(\.constprop\.0)?|task_dump_owner / task_dump_owner)"
)
# A later line of a report of KCSAN, whose first line counts: the words are also those of a report of KASAN.
RACING = re.compile(r"(racing )?[a-z-]+( \([a-z, ]+\))? to 0x[0-9a-f]+ of [0-9]+ bytes by (task [0-9]+|interrupt)"
                    r" on cpu [0-9]+:")
# A page that was being moved when its process was killed: see crates/pager.
LOST_PAGE = re.compile(r"BUG: Bad rss-counter state mm:\S+ type:MM_ANONPAGES val:[0-9]+")
# The kernel's message about a memory error that a program has injected, and from which it recovered.
INJECTED = re.compile(r"Memory failure: 0x[0-9a-f]+: recovery action for .*: Recovered")
INJECTING = re.compile(r"^ok [0-9]+ (moved|kinds)\b", re.MULTILINE)
# The kernel's message about a page fault that it repeats, while a program makes allocations fail.
FAILED = re.compile(r"Huh VM_FAULT_OOM leaked out to the #PF handler\. Retrying PF")
FAILING = re.compile(r"^ok [0-9]+ hostile\b", re.MULTILINE)
# The report of the OOM killer, and those of its lines that would be trouble elsewhere.
OOM_BEGINS, OOM_ENDS = re.compile(r"invoked oom-killer"), re.compile(r"Killed process [0-9]+ ")
OOM_LINE = re.compile(
    r"[^:]* invoked oom-killer: .*|Call trace:|(Node [0-9]+ )?active_anon:.*|lowmem_reserve\[\]:.*"
    r"|[0-9]+ total pagecache pages|(Memory cgroup out|Out) of memory( \(\w+\))?: Killed process [0-9]+ \(.*")
VERDICT = re.compile(r"tablewalk: (PASS|FAIL|SKIP)")
PLAN = re.compile(r"( *)1\.\.([0-9]+)")
RESULT = re.compile(r"( *)(not )?ok [0-9]+(.*)")
TOTALS = re.compile(r"( *)# Totals: (.*)")
# The largest plan that is accepted: the parser makes an object of each test.
MOST = 100000


# A message of fewer letters may be a part of any other message: it has to be the whole line.
FEW = 16
# The name of a subsystem or function before a message: pr_fmt().
PREFIX = re.compile(r"\s*([\w.-]+: )?")


class Message:
    """A format of printk(): the texts between its placeholders, in this order."""

    def __init__(self, text):
        self.ends = text.endswith("\\n")
        text = text.removesuffix("\\n").replace("%%", "%")
        self.all = re.split(r"%[-+ #0-9.*]*(?:hh|h|ll|l|z|j|t|L)*(?:p[A-Za-z]*|[a-zA-Z])", text)
        self.begins = self.all[0]
        self.pieces = [piece for piece in self.all if piece]
        # Few lines contain the longest piece, so it is checked first.
        self.rarest = max(self.pieces, key=len)
        self.is_short = len(re.findall("[A-Za-z]", "".join(self.pieces))) < FEW

    def is_in(self, line, start=0):
        """Returns whether the line contains the message after `start`; a short message has to be all of the rest."""
        if self.rarest not in line:
            return False
        if self.is_short:
            return self.is_all_of(line, start) or self.is_all_of(line, PREFIX.match(line, start).end())
        for piece in self.pieces:
            start = line.find(piece, start)
            if start < 0:
                return False
            start += len(piece)
        return True

    def is_all_of(self, line, start):
        """Returns whether the line from `start` on is this message and nothing else."""
        line = line[start:].strip()
        first, *others = self.all
        if not others:
            return line == first if self.ends else line.startswith(first)
        *middle, last = others
        if not line.startswith(first) or self.ends and not line.endswith(last):
            return False
        end = len(line) - len(last) if self.ends else len(line)
        start = len(first)
        for piece in middle if self.ends else others:
            start = line.find(piece, start, end)
            if start < 0:
                return False
            start += len(piece)
        return start <= end

    def begins_in(self, line):
        """Returns whether the line begins with the message, or with the name of a subsystem or function and it."""
        if not self.begins or not self.is_in(line):
            return False
        return PREFIX.fullmatch(line[:line.find(self.begins)]) is not None


def read_messages(path):
    """Reads a list of messages."""
    with open(path, encoding="utf-8") as file:
        return [Message(line.rstrip("\n").split("\t")[1]) for line in file]


MESSAGES = read_messages(f"{os.path.dirname(os.path.abspath(__file__))}/kernel-messages.txt")
# Beginnings of lines of init and programs.
OURS = re.compile(r"[ #{]|ok |not ok |KTAP |TAP |1\.\.|init: |tablewalk: |judge: |$")


def is_trouble(line):
    """Returns whether this line means that the kernel is in trouble."""
    if TROUBLE.search(line) or "stall" in line.partition("rcu:")[2]:
        return True
    if stamp := STAMPED.search(line):
        # The time stamp may follow the beginning of a line of another program.
        return any(message.is_in(line, stamp.end()) for message in MESSAGES)
    return not OURS.match(line) and any(message.begins_in(line) for message in MESSAGES)


def split(log):
    """Returns the lines of a log: only a newline ends a line."""
    return [line.rstrip("\r") for line in log.split("\n")]


def complaints(log, exit_status=0, may_lose=0, may_kill=0):
    """Returns all problems of the log except those of the KTAP parser. Up to `may_lose` processes may have been
    killed while they moved a page, and up to `may_kill` by the OOM killer."""
    found = []
    if exit_status != 0:
        found.append(f"the emulator's exit status is {exit_status}")
    found += [f"kernel: {line.strip()}" for line in trouble(log, may_lose, may_kill)]
    lines = split(log)
    found += [line.strip() for line in lines if re.match(" *(not ok|Bail out!)", line)]
    found += count(lines) or contradictions(lines)
    found += judge_end(lines)
    return found


def trouble(log, may_lose=0, may_kill=0):
    """Returns the lines that mean that the kernel is in trouble."""
    lines = without_kills(split(log), may_kill)
    found = [line.rstrip() for line in lines if is_trouble(line)]
    found = [line for line in found if not says_only(KNOWN_RACES, line) and not says_only(RACING, line)]
    if INJECTING.search(log):
        found = [line for line in found if not says_only(INJECTED, line)]
    if FAILING.search(log):
        found = [line for line in found if not says_only(FAILED, line)]
    lost = [line for line in found if says_only(LOST_PAGE, line)]
    if len(lost) <= may_lose:
        found = [line for line in found if line not in lost]
    return found + [line for line in broken(lines) if is_trouble(line)]


def broken(lines):
    """Yields lines of the kernel that were broken in two, joined again, if neither half is trouble by itself."""
    for first, second in itertools.pairwise(lines):
        if STAMPED.search(first) and not STAMPED.match(second) and not is_trouble(first + " "):
            if second and not is_trouble(second) and is_trouble(first + second):
                yield first + second


def without_kills(lines, may_kill):
    """Returns the lines without up to `may_kill` reports of the OOM killer. Other trouble between those lines is
    kept."""
    kept, report, others = [], None, []
    for line in lines:
        if report is None and may_kill > 0 and OOM_BEGINS.search(line):
            report = []
            may_kill -= 1
        if report is None:
            kept.append(line)
            continue
        report.append(line)
        if not STAMPED.match(line) or is_trouble(line) and not says_only(OOM_LINE, line):
            others.append(line)
        if OOM_ENDS.search(line):
            kept += others
            report, others = None, []
    # A report without an end is kept.
    return kept + (report or [])


def says_only(what, line):
    """Returns whether the kernel says this and nothing else: a panic may end with the same words."""
    return bool(what.fullmatch(STAMPED.sub("", line.strip(), count=1)))


def known_races(log):
    """Returns how often the kernel reported a known race of Linux itself."""
    return sum(says_only(KNOWN_RACES, line) for line in split(log))


def count(lines):
    """Returns the problems of the plans. Results of a selftest need not be indented, so the number of all results
    is compared with the sum of all plans, init's and those of its programs."""
    plans = [match for line in lines if (match := PLAN.fullmatch(line))]
    if not any(match.group(1) == "" for match in plans):
        return ["no plan"]
    # Compare the text first: converting thousands of digits takes long.
    numbers = [match.group(2).lstrip("0") for match in plans]
    if any(len(number) > len(str(MOST)) for number in numbers):
        return [f"a plan of more than {MOST} tests"]
    if "" in numbers:
        return ["an empty plan"]
    planned = sum(map(int, numbers))
    if planned > MOST:
        return [f"plans of more than {MOST} tests"]
    results = sum(bool(RESULT.match(line)) for line in lines)
    return [] if results == planned else [f"{results} results, {planned} planned"]


class Plan:
    """A plan, and how many of its tests passed, failed and were skipped."""

    def __init__(self, number, indent, planned):
        self.number, self.indent, self.planned = number, indent, planned
        self.counts = {"pass": 0, "fail": 0, "skip": 0}
        # Whether totals have ended the plan.
        self.over = False

    def key(self):
        """Returns the indent and the totals that the plan should have."""
        return self.indent, *self.counts.values()

    def __lt__(self, other):
        """Puts the last plan first in a heap."""
        return self.number > other.number


def contradictions(lines):
    """Returns totals that do not agree with the results since a plan of the same indent. Results belong to the last
    such plan that is not complete."""
    plans, found = [], []
    # The plans that may be incomplete, by indent; and all plans, by their totals. Entries that are out of date are
    # dropped when they are met, so that each line takes about the same time.
    lacking, by_key = collections.defaultdict(list), collections.defaultdict(list)
    for number, line in enumerate(lines):
        plan = None
        if match := PLAN.fullmatch(line):
            plan = Plan(number, match.group(1), int(match.group(2)))
            plans.append(plan)
            lacking[plan.indent].append(plan)
        elif match := RESULT.match(line):
            stack = lacking[match.group(1)]
            while stack and (stack[-1].over or sum(stack[-1].counts.values()) >= stack[-1].planned):
                stack.pop()
            if stack:
                plan = stack[-1]
                plan.counts["fail" if match.group(2) else "skip" if "# SKIP" in match.group(3) else "pass"] += 1
        elif match := TOTALS.fullmatch(line):
            told = re.findall(r"([a-z]+):([0-9]+)", match.group(2))
            told = {name: int(number[:9]) for name, number in told if number.strip("0")}
            key = match.group(1), *(told.pop(kind, 0) for kind in ("pass", "fail", "skip"))
            heap = by_key[key]
            while heap and (heap[0].over or heap[0].key() != key):
                heapq.heappop(heap)
            if told or not heap:
                found.append(f"totals that are not those of the results: {line.strip()}")
                continue
            while not heap[0].over:
                plans.pop().over = True
        if plan:
            heapq.heappush(by_key[plan.key()], plan)
    return found


def judge_end(lines):
    """Yields the problems of the end. The verdict has to be the last line of the only boot, except for lines of the
    kernel, init and the emulator about the end itself."""
    boots = sum("Booting Linux on physical CPU" in line for line in lines)
    if boots > 1:
        yield f"{boots} boots"
    verdicts = [number for number, line in enumerate(lines) if VERDICT.fullmatch(line)]
    if not verdicts:
        yield "no verdict from init"
        return
    if len(verdicts) > 1:
        yield f"{len(verdicts)} verdicts"
    word = VERDICT.fullmatch(lines[verdicts[-1]]).group(1)
    if word != "PASS":
        yield f"init says {word}"
    for line in lines[verdicts[-1] + 1:]:
        if line and not STAMPED.match(line) and not line.startswith(("init: ", "qemu-system-")):
            yield f"after the verdict: {line.strip()}"


def parse(kunit, path):
    """Runs the kernel's KTAP parser on the log; returns its summary, and whether it accepts the log."""
    try:
        done = subprocess.run(
            [sys.executable, f"{kunit}/kunit.py", "parse", os.path.abspath(path)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=60,
        )
    except subprocess.TimeoutExpired:
        return "it takes more than a minute", False
    lines = [re.sub(r"^\[[0-9:]+\] ", "", line) for line in done.stdout.splitlines()]
    summary = next((line for line in lines if line.startswith("Testing complete.")), "")
    match = re.match(r"Testing complete\. Ran ([0-9]+) tests: (.*)", summary)
    content = done.returncode == 0 and match and int(match.group(1)) > 0
    bad = match and re.search(r"failed|crashed|errors", match.group(2))
    return summary or "\n".join(lines[-5:]), bool(content and not bad)


def main():
    """Prints the problems, or one line if there are none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exit-status", type=int, default=0)
    parser.add_argument("--may-lose", type=int, default=0, metavar="N",
                        help="processes that may have been killed while they moved a page")
    parser.add_argument("--may-kill", type=int, default=0, metavar="N",
                        help="processes that the OOM killer may have killed")
    parser.add_argument("--kunit", help="folder of the kernel's kunit.py, to parse with it too")
    parser.add_argument("--trouble", action="store_true", help="check only the messages of the kernel")
    parser.add_argument("log")
    arguments = parser.parse_args()
    with open(arguments.log, encoding="utf-8", errors="replace", newline="\n") as file:
        log = file.read()
    if arguments.trouble:
        found = trouble(log, arguments.may_lose, arguments.may_kill)
        print(*(found or ["the kernel did not complain"]), sep="\n")
        return 1 if found else 0
    found = complaints(log, arguments.exit_status, arguments.may_lose, arguments.may_kill)
    if races := known_races(log):
        print(f"judge: {races} known data races of Linux itself")
    summary = "Not parsed by the kernel's KTAP parser."
    # A log with a wrong number of results is not parsed: that may take forever.
    if arguments.kunit and not count(split(log)):
        summary, content = parse(arguments.kunit, arguments.log)
        if not content:
            found.append(f"KTAP parser: {summary}")
    for complaint in found:
        print(f"judge: {complaint}")
    if not found:
        print(f"judge: passed. {summary}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
