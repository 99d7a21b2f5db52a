"""Figures that are read off a run, shown by `pytest -s` or `-rP`."""

from __future__ import annotations

import sys


def report(scenario: int, figures: str) -> None:
    """Say what was measured for a scenario of RELIABILITY."""
    sys.stdout.write(f"scenario {scenario}: {figures}\n")
