#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Runs a benchmark in a guest and prints its figures as tables, with processor time seen from outside.

    figures.py RUNNER... SCENARIO ARG...

The scenario's lines are passed on, but for those that begin with @: `row NAME` is measured from here
on; `begin JOB SWITCHES` and `end JOB SWITCHES` enclose a job's work and count the guest's context
switches; `done JOB KIB IOPS MS` is what it achieved; `note TEXT` is printed after the tables. A row
comes again in each round. What a processor does is charged to nobody in a guest on a busy machine,
so it is the emulator's processor time that counts.
"""
import os
import statistics
import subprocess
import sys

TICK = os.sysconf("SC_CLK_TCK")


def processor_time(root):
    """Seconds used so far by the process and all that descend from it, the ended ones included."""
    parents, used = {}, {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                words = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(pid)] = int(words[1])
        used[int(pid)] = sum(map(int, words[11:15]))
    total = 0
    for pid, ticks in used.items():
        while pid not in (0, root):
            pid = parents.get(pid, 0)
        total += ticks if pid == root else 0
    return total / TICK


class Figures:
    """By job and row: one entry for each round."""

    def __init__(self):
        self.jobs, self.notes, self.row, self.open = {}, [], "", {}

    def take(self, line, root):
        word, rest = line.split(maxsplit=1)
        if word == "row":
            self.row = rest
        elif word == "note":
            self.notes.append(rest)
        elif word == "begin":
            job, switches = rest.split()
            self.open[job] = [processor_time(root), int(switches)]
        elif word == "end":
            job, switches = rest.split()
            before = self.open[job]
            self.open[job] = [processor_time(root) - before[0], int(switches) - before[1]]
        elif word == "done":
            job, *numbers = rest.split()
            kib, iops, ms = map(float, numbers)
            seconds, switches = self.open.pop(job)
            requests = iops * ms / 1000
            self.jobs.setdefault(job, {}).setdefault(self.row, []).append({
                "MB/s": kib * 1024 / 1e3 / ms,
                "IOPS": iops,
                "s/GiB": seconds / kib * 2**20,
                "us/IO": seconds / requests * 1e6,
                "switches/IO": switches / requests,
            })


def print_table(title, rows, columns, bases):
    """Medians of the columns, and for each base and column the median ratio to it, round by round."""
    print(f"\n{title:<28}" + "".join(f"{name:>12}" for name in columns) +
          "".join(f"{f'x {base}':>{8 * len(columns) + 2}}" for base in bases))
    for name, rounds in rows.items():
        cells = [f"{statistics.median(r[c] for r in rounds):12.1f}" for c in columns]
        for base in bases:
            pairs = list(zip(rounds, rows[base]))
            cells += ["  "] + [f"{statistics.median(a[c] / b[c] for a, b in pairs):8.2f}" for c in columns]
        print(f"{name:<28}" + "".join(cells))


def main():
    figures = Figures()
    with subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True) as guest:
        for line in guest.stdout:
            if line.startswith("@ "):
                figures.take(line[2:].strip(), guest.pid)
            else:
                print(line, end="", flush=True)
    titles = {"read": "sequential read 128K", "write": "sequential write 128K", "random": "random read 4K"}
    for job, rows in figures.jobs.items():
        columns = ["IOPS", "us/IO", "switches/IO"] if job == "random" else ["MB/s", "s/GiB", "switches/IO"]
        bases = [base for base in ("plain", "reference, proxy") if base in rows]
        print_table(titles.get(job, job), rows, columns, bases)
    print("", *figures.notes, sep="\n")
    return guest.returncode


sys.exit(main())
