"""Figures measured by tests; `pytest -s` and `-rP` show them, and the table of `pytest --faults`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Figure(NamedTuple):
    """A figure of a fault-injection scenario."""

    scenario: int
    text: str
    badness: float
    """The table shows the run of a test with the highest badness."""
    proof: bool
    """Measured with the protection removed, to prove that the test can fail."""


class Judging:
    """Whether this session judges times, as `pytest --faults` does on an otherwise idle machine."""

    times = False


said: list[Figure] = []
"""The figures that were reported and not collected yet."""


def counts(numbers: Mapping[str, int]) -> str:
    """Format counts in descending order."""
    ordered = sorted(numbers.items(), key=lambda item: -item[1])
    return ", ".join(f"{number:,} {name}" for name, number in ordered)


def beside_limit(seconds: float) -> str:
    """Format the latest end of a call in relation to D, its deadline."""
    side = "after" if seconds >= 0 else "before"
    return f"{abs(seconds) * 1000:.1f} ms {side} D at the latest"


def in_time(seconds: float, promise: float) -> bool:
    """Whether a duration is within its limit; always true unless this session judges times.

    On a busy machine, a verdict in seconds would be one on the machine: such sessions report the figures, and
    judge the order of events and timers instead.
    """
    return seconds <= promise or not Judging.times


def report(scenario: int, figures: str, badness: float = 0.0, *, proof: bool = False) -> None:
    """Report a figure of a fault-injection scenario."""
    sys.stdout.write(f"scenario {scenario}: {figures}\n")
    said.append(Figure(scenario, figures, badness, proof))
