"""`python -m tests.benchmarks.policies`: which eviction policy suits the near cache.

Costs are processor time of the thread, so that what else the machine does counts little.
"""

import argparse
import gc
import math
import statistics
import sys
import tracemalloc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from time import thread_time_ns

from rich import box
from rich.console import Console
from rich.table import Table

from .evictions import Policy, every_policy
from .traces import TRACES, Step, key_of, zipf

CAPACITIES = (1_000, 10_000)
REQUESTS = 300_000
ROUNDS = 11
ENTRIES = 10_000
HITS = 50_000
DATA_BYTES = 100
NOW, EXPIRES = 1.0, math.inf

Make = Callable[[int], Policy]


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a cache that holds `ENTRIES` entries.

    Attributes:
        hit: nanoseconds of a hit.
        insert: nanoseconds of an insert that evicts, when half of the entries had been asked for.
        worst: microseconds of a single insert, when all of them had been asked for.
        memory: bytes per entry, its key and its data included.
    """

    hit: float
    insert: float
    worst: float
    memory: float


def hit_ratio(policy: Policy, steps: Iterable[Step]) -> float:
    """The share of reads that find their key; one that does not, puts it in."""
    reads = misses = 0
    for is_read, key in steps:
        if not is_read:
            policy.remove(key)
            continue
        reads += 1
        if policy.get(key, NOW) is None:
            misses += 1
            policy.put(key, b"", EXPIRES)
    return 1 - misses / reads


def hit_ratios(policies: Mapping[str, Make], requests: int) -> dict[str, list[float]]:
    """For each trace and capacity, one ratio per policy."""
    rows: dict[str, list[float]] = {}
    for name, trace in TRACES.items():
        steps = list(islice(trace(), requests))
        for capacity in CAPACITIES:
            rows[f"{name}; {capacity:,} entries"] = [
                hit_ratio(make(capacity), steps) for make in policies.values()
            ]
    return rows


def costs(policies: Mapping[str, Make], rounds: int) -> dict[str, Cost]:
    """Medians over the rounds, in each of which every policy has its turn."""
    samples: dict[str, list[tuple[float, float, float]]] = {name: [] for name in policies}
    for _ in range(rounds):
        for name, make in policies.items():
            samples[name].append((_hit(make), _insert(make), _worst_insert(make)))
    measured: dict[str, Cost] = {}
    for name, of_one in samples.items():
        hit, insert, worst = map(statistics.median, zip(*of_one, strict=True))
        measured[name] = Cost(hit, insert, worst, _memory(policies[name]))
    return measured


def _filled(make: Make) -> Policy:
    policy = make(ENTRIES)
    # In no order that a hit could profit from.
    for number in Random(9).sample(range(ENTRIES), ENTRIES):
        policy.put(key_of(number), bytes(DATA_BYTES), EXPIRES)
    gc.collect()
    return policy


def _hit(make: Make) -> float:
    policy = _filled(make)
    asked = [key_of(number) for number in islice(zipf(0.9, 10, ENTRIES), HITS)]
    # A policy may have refused a few entries; what is timed finds its key.
    keys = [key for key in asked if policy.get(key, NOW) is not None]
    get = policy.get
    started = thread_time_ns()
    for key in keys:
        get(key, NOW)
    return (thread_time_ns() - started) / len(keys)


def _insert(make: Make) -> float:
    policy = _filled(make)
    for number in range(0, ENTRIES, 2):
        policy.get(key_of(number), NOW)
    new = [(key_of(ENTRIES + number), bytes(DATA_BYTES)) for number in range(ENTRIES)]
    put = policy.put
    started = thread_time_ns()
    for key, data in new:
        put(key, data, EXPIRES)
    return (thread_time_ns() - started) / len(new)


def _worst_insert(make: Make) -> float:
    policy = _filled(make)
    for number in range(ENTRIES):
        policy.get(key_of(number), NOW)
    key, data = key_of(ENTRIES), bytes(DATA_BYTES)
    started = thread_time_ns()
    policy.put(key, data, EXPIRES)
    return (thread_time_ns() - started) / 1000


def _memory(make: Make) -> float:
    """What Python allocated; a library's memory outside of Python is not seen."""
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        policy = _filled(make)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return (after - before) / len(policy)


def tables(
    ratios: Mapping[str, Sequence[float]], measured: Mapping[str, Cost]
) -> list[list[list[str]]]:
    """Two tables of rows, the first of each its header."""
    found = [["hit ratio", *measured]]
    found += [[name, *(f"{ratio:.1%}" for ratio in row)] for name, row in ratios.items()]
    cost = [["policy", "hit, ns", "insert, ns", "worst insert, µs", "bytes per entry"]]
    cost += [
        [name, f"{of.hit:.0f}", f"{of.insert:.0f}", f"{of.worst:.0f}", f"{of.memory:.0f}"]
        for name, of in measured.items()
    ]
    return [found, cost]


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" + "|---:" * (len(rows[0]) - 1) + "|", *body])


def _as_table(rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="dim")
    for column, title in enumerate(rows[0]):
        table.add_column(title, justify="right" if column else "left")
    for row in rows[1:]:
        table.add_row(*row)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.policies")
    parser.add_argument("--markdown", action="store_true", help="tables for a page")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="steps of each trace")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds that time the calls")
    options = parser.parse_args()
    policies = every_policy()
    measured = costs(policies, options.rounds)
    shown = tables(hit_ratios(policies, options.requests), measured)
    if options.markdown:
        sys.stdout.write("\n\n".join(map(as_markdown, shown)) + "\n")
        return
    console = Console(width=None if sys.stdout.isatty() else 150)
    for rows in shown:
        console.print(_as_table(rows))


if __name__ == "__main__":
    main()
