"""Figures that are read off a run: `pytest -s` or `-rP` shows them, and so does the weather table."""

from __future__ import annotations

import sys
from typing import NamedTuple


class Figure(NamedTuple):
    """What was measured for a scenario of RELIABILITY."""

    scenario: int
    text: str
    badness: float
    """Of the runs of a test the one with the highest stands in the table."""
    proof: bool
    """Measured with the protection removed, so that the test can be seen to fail."""


said: list[Figure] = []
"""What the tests have said since somebody last took it."""


def report(scenario: int, figures: str, badness: float = 0.0, *, proof: bool = False) -> None:
    """Say what was measured for a scenario of RELIABILITY."""
    sys.stdout.write(f"scenario {scenario}: {figures}\n")
    said.append(Figure(scenario, figures, badness, proof))
