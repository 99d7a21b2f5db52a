"""Several processes read and write the same keys, each with a near cache."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from bisect import bisect_right
from collections import defaultdict
from contextlib import ExitStack, closing
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from harness import Proxy, Server, StartProxy
from harness.figures import in_time, report
from harness.programs import PROGRAMS, SUPPORT, Program
from harness.run_length import scaled

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = pytest.mark.depends_on()

PROCESSES = scaled(4, 6)
SECONDS = scaled(2.5, 25.0)
KEYS = 60
LIMIT_SECONDS = 0.100
LEAST_CUTS = 1
"""A machine that stalls leaves time for few."""
REFILL_SECONDS = 0.7
NEVER = float("inf")


class Write(NamedTuple):
    """A change of a key: a value with a stamp, or none."""

    began: float
    acknowledged: float
    process: int


class History:
    """All writes of a key, by anybody."""

    def __init__(self) -> None:
        self.by_stamp: dict[int, Write] = {}
        self._writes: list[Write] = []
        self._sorted: dict[int | None, tuple[list[float], list[float]]] = {}

    def add(self, stamp: int | None, write: Write) -> None:
        self._writes.append(write)
        if stamp is not None:
            self.by_stamp[stamp] = write

    def outdated_at(self, stamp: int, process: int | None = None) -> float:
        """When the first write was acknowledged that began after the write of this value had ended.

        Of writes that overlap, nobody can tell which came last. With a process, only its own count.
        """
        begins, firsts = self._after(process)
        later = bisect_right(begins, self.by_stamp[stamp].acknowledged)
        return firsts[later] if later < len(firsts) else NEVER

    def _after(self, process: int | None) -> tuple[list[float], list[float]]:
        """When writes began, in order, and which acknowledgement came first from each on."""
        if process not in self._sorted:
            writes = sorted(one for one in self._writes if process in {None, one.process})
            firsts = list(accumulate((one.acknowledged for one in reversed(writes)), min))
            self._sorted[process] = [one.began for one in writes], firsts[::-1]
        return self._sorted[process]


class Verdict(NamedTuple):
    """How old the oldest value was that was given, in seconds since it was outdated."""

    oldest: float
    """By anybody, less the time that the machine ran something else than the reader."""
    oldest_at_all: float
    """The same with nothing excused."""
    own: list[str]
    """Reads that were older than what the same process had written and awaited."""


def judge(told: list[dict[str, Any]]) -> Verdict:
    """Compare the values that all processes read with those that all have written."""
    histories: defaultdict[str, History] = defaultdict(History)
    for process, one in enumerate(told):
        for key, stamp, began, acknowledged in one["writes"]:
            histories[key].add(stamp, Write(began, acknowledged, process))
    oldest = oldest_at_all = 0.0
    own: list[str] = []
    for process, one in enumerate(told):
        for key, stamp, began in one["reads"]:
            outdated = histories[key].outdated_at(stamp)
            if began > outdated:
                oldest_at_all = max(oldest_at_all, began - outdated)
                late = began - outdated - excuse(one["absences"], outdated, began)
                oldest = max(oldest, late)
            if began > histories[key].outdated_at(stamp, process):
                own.append(f"{key} of process {process}, at {began}")
    return Verdict(oldest, oldest_at_all, own)


def excuse(absences: Iterable[tuple[float, float]], start: float, end: float) -> float:
    """Seconds between two moments in which the reader was due and the machine ran another."""
    return sum(
        max(0.0, min(absence_end, end) - max(absence_end - seconds, start))
        for absence_end, seconds in absences
    )


class Cutter(threading.Thread):
    """Cuts links at random, one or all, until it is told to end.

    Towards the end only one at a time, or there could be nothing near to be looked at.
    """

    def __init__(self, server: Server, network: Proxy) -> None:
        super().__init__(name="cutter")
        self.cuts = 0
        self.ended = threading.Event()
        self._raw = server.client()
        self._network = network
        self._all_until = time.monotonic() + SECONDS - REFILL_SECONDS

    def run(self) -> None:
        with closing(self._raw):
            self._cut(Random(20))

    def _cut(self, chance: Random) -> None:
        while not self.ended.wait(chance.uniform(0.020, 0.400)):
            kind = chance.choice(["one", "one", "one", "fin", "rst"])
            if kind == "one" or time.monotonic() > self._all_until:
                links = [one for one in self._raw.client_list() if "B" in one["flags"]]
                if links:
                    self._raw.client_kill_filter(_id=chance.choice(links)["id"])
            else:
                self._network.cut("fin" if kind == "fin" else "rst")
            self.cuts += 1


def test_processes_that_read_and_write_at_once(
    server: Server, proxy: StartProxy, key_prefix: str
) -> None:
    """20. The channel is cut at random: no value served is outdated by more than 100 ms; 0 stale entries at the end.

    Older than: a write acknowledged by another process 100 ms before. What a process itself has
    written and awaited it always reads.
    """
    network = proxy(server)
    path = os.pathsep.join([str(SUPPORT), *filter(None, sys.path)])
    with ExitStack() as stack:
        programs: list[Program] = []
        for number in range(PROCESSES):
            settings: dict[str, object] = {
                "url": server.url,
                "link_port": network.port,
                "prefix": key_prefix,
                "number": number,
                "seconds": SECONDS,
                "keys": KEYS,
            }
            program = Program(
                [sys.executable, str(PROGRAMS / "near_consistency.py"), json.dumps(settings)],
                os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "error"},
            )
            stack.callback(program.close)
            programs.append(program)
        assert [json.loads(program.line()) for program in programs] == ["ready"] * PROCESSES
        cutter = Cutter(server, network)
        cutter.start()
        for program in programs:
            program.say("go")
        told = [json.loads(program.line()) for program in programs]
        cutter.ended.set()
        cutter.join()
        with server.client() as raw:
            raw.mset({f"{key_prefix}key{number}": "0" for number in range(KEYS)})
        for line, answer in (("hold all", "holds"), ("change one", "changed")):
            for program in programs:
                program.say(line)
            assert [json.loads(program.line()) for program in programs] == [answer] * PROCESSES
        for program in programs:
            program.say("all is written")
        rest = [json.loads(program.line()) for program in programs]
        ended = [program.wait() for program in programs]

    verdict = judge(told)
    stats = [one["stats"] for one in told]
    hits = sum(one["near_hits"] for one in stats)
    report(
        20,
        f"{sum(len(one['writes']) for one in told)} writes, {hits} near hits, "
        f"{sum(one['near_misses'] for one in stats)} misses, {cutter.cuts} cuts, "
        f"{sum(one['near_flushes'] for one in stats)} flushes; "
        f"the most outdated value served was outdated for {verdict.oldest * 1000:.1f} ms "
        f"({verdict.oldest_at_all * 1000:.1f} ms without deductions)",
        verdict.oldest,
    )
    assert [(end.code, end.errors) for end in ended] == [(0, "")] * PROCESSES
    assert [stale for _, stale in rest] == [[]] * PROCESSES
    assert all(entries for entries, _ in rest)
    assert verdict.own == []
    assert in_time(verdict.oldest, LIMIT_SECONDS)
    assert cutter.cuts >= LEAST_CUTS
    assert sum(one["near_flushes"] for one in stats) >= LEAST_CUTS
    # How many depends on how busy the machine is.
    assert hits > 0
