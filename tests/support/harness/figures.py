"""Figures that are read off a run: `pytest -s` or `-rP` shows them, and so does the weather table."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Figure(NamedTuple):
    """What was measured for a scenario of RELIABILITY."""

    scenario: int
    text: str
    badness: float
    """Of the runs of a test the one with the highest stands in the table."""
    proof: bool
    """Measured with the protection removed, so that the test can be seen to fail."""


class Judging:
    """Whether this session measures times, as `pytest --faults` does on a machine that does nothing else."""

    times = False


said: list[Figure] = []
"""What the tests have said since somebody last took it."""


def counts(numbers: Mapping[str, int]) -> str:
    """How many of each, the most first, as people write it."""
    ordered = sorted(numbers.items(), key=lambda item: -item[1])
    return ", ".join(f"{number:,} {name}" for name, number in ordered)


def beside_limit(seconds: float) -> str:
    """When the last of all calls has ended, where D is the moment when it had to."""
    side = "after" if seconds >= 0 else "before"
    return f"{abs(seconds) * 1000:.1f} ms {side} D at the latest"


def in_time(seconds: float, promise: float) -> bool:
    """Whether something took no longer than is promised, where this session measures times.

    In any other session a verdict in seconds would be one on the machine: there the figures are only
    reported, and what is judged is order: what came before what, and before which timer.
    """
    return seconds <= promise or not Judging.times


def report(scenario: int, figures: str, badness: float = 0.0, *, proof: bool = False) -> None:
    """Say what was measured for a scenario of RELIABILITY."""
    sys.stdout.write(f"scenario {scenario}: {figures}\n")
    said.append(Figure(scenario, figures, badness, proof))
