#!/usr/bin/env python3
"""Judges the console log of a boot.

Passed is a boot whose KTAP the kernel's own parser accepts, with a plan and at least one test, all
planned tests there and none failed; in which the kernel printed nothing that means trouble; whose
last word from init is PASS; and, where it is known, whose emulator exited with status 0.
"""

import argparse
import os
import re
import subprocess
import sys

# What a kernel in trouble prints. Lines of init and of programs begin with a space, `#` or a word of
# KTAP; those of the kernel with its time stamp.
TROUBLE = re.compile(
    r"BUG:|BUG at|WARNING:|Bad page|Bad rss-counter|Oops|Kernel panic|Unable to handle kernel"
    r"|KASAN:|KCSAN:|UBSAN:|kmemleak: [0-9]+ new|INFO: task|rcu:.*stall|possible recursive locking"
    r"|possible circular locking|inconsistent lock state|suspicious RCU usage|Call trace:"
    r"|held lock freed|scheduling while atomic|refcount_t:|list_(add|del) corruption|cut here"
)
# Races of Linux 6.1 without the series, in code that it does not touch; KCSAN names the two functions
# that access the memory. Each was seen, and is one flag or one byte, which is written whole:
# - a poll is woken while it looks whether it was (pwq->triggered);
# - a task notes that it used a capability (PF_SUPERPRIV) while another asks whether it is a kernel
#   thread (PF_KTHREAD), as /proc/PID/mem does;
# - an interrupt reports the same quiescent state as the code that it interrupts;
# - two files are opened with the same credentials, of which each notes that they are in use
#   (get_cred(), cred->non_rcu = 0).
KNOWN_RACES = re.compile(
    r"BUG: KCSAN: data-race in (do_sys_poll / pollwake|capable / get_task_mm"
    r"|rcu_momentary_eqs / rcu_report_qs_rdp|__alloc_file / __alloc_file)$"
)
# A page between two places when its process was killed: see crates/pager.
LOST_PAGE = re.compile(r"BUG: Bad rss-counter state mm:\S+ type:MM_ANONPAGES val:[0-9]+$")
VERDICT = re.compile(r"^tablewalk: (PASS|FAIL|SKIP)$", re.MULTILINE)
PLAN = re.compile(r"^( *)1\.\.([0-9]+)$", re.MULTILINE)
RESULT = re.compile(r"^ *(not )?ok [0-9]+", re.MULTILINE)
NOT_OK = re.compile(r"^ *not ok .*$", re.MULTILINE)


def complaints(log, exit_status=0, may_lose=0):
    """Everything that is wrong with the log, but what the KTAP parser says. Up to `may_lose` processes
    may have been killed while they moved a page."""
    found = []
    if exit_status != 0:
        found.append(f"the emulator's exit status is {exit_status}")
    found += [f"kernel: {line.strip()}" for line in trouble(log, may_lose)]
    found += [line.strip() for line in NOT_OK.findall(log)]
    found += count(log)
    verdict = VERDICT.search(log)
    if not verdict:
        found.append("no verdict from init")
    elif verdict.group(1) != "PASS":
        found.append(f"init says {verdict.group(1)}")
    return found


def trouble(log, may_lose=0):
    """Lines of a kernel in trouble."""
    lines = [line.rstrip() for line in log.splitlines() if TROUBLE.search(line)]
    lines = [line for line in lines if not KNOWN_RACES.search(line)]
    lost = [line for line in lines if LOST_PAGE.search(line)]
    return lines if len(lost) > may_lose else [line for line in lines if line not in lost]


def known_races(log):
    """How often the kernel reported a race that is not the series'."""
    return sum(bool(KNOWN_RACES.search(line.rstrip())) for line in log.splitlines())


def count(log):
    """What is wrong with the plans. A selftest's results need not be indented, so the number of all
    results is compared with that of all plans: init's and those of its programs."""
    plans = PLAN.findall(log)
    if not any(indent == "" for indent, _ in plans):
        return ["no plan"]
    if any(int(planned) == 0 for _, planned in plans):
        return ["an empty plan"]
    results = len(RESULT.findall(log))
    planned = sum(int(planned) for _, planned in plans)
    return [] if results == planned else [f"{results} results, {planned} planned"]


def parse(kunit, path):
    """What the kernel's KTAP parser makes of the log: its summary, and whether it is content."""
    done = subprocess.run(
        [sys.executable, f"{kunit}/kunit.py", "parse", os.path.abspath(path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )
    lines = [re.sub(r"^\[[0-9:]+\] ", "", line) for line in done.stdout.splitlines()]
    summary = next((line for line in lines if line.startswith("Testing complete.")), "")
    match = re.match(r"Testing complete\. Ran ([0-9]+) tests: (.*)", summary)
    content = done.returncode == 0 and match and int(match.group(1)) > 0
    bad = match and re.search(r"failed|crashed|errors", match.group(2))
    return summary or "\n".join(lines[-5:]), bool(content and not bad)


def main():
    """Prints the complaints, or one line if there are none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exit-status", type=int, default=0)
    parser.add_argument("--may-lose", type=int, default=0, metavar="N",
                        help="processes that may have been killed while they moved a page")
    parser.add_argument("--kunit", help="folder of the kernel's kunit.py, to parse with it too")
    parser.add_argument("log")
    arguments = parser.parse_args()
    with open(arguments.log, encoding="utf-8", errors="replace") as file:
        log = file.read()
    found = complaints(log, arguments.exit_status, arguments.may_lose)
    if races := known_races(log):
        print(f"judge: {races} known data races of Linux itself")
    summary = "Not parsed by the kernel's KTAP parser."
    if arguments.kunit:
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
