"""Run seeds of the simulation one after the other until one breaks a promise."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final, NamedTuple

from harness.run_length import scaled
from harness.simulated_world import replay

__all__ = ["SEEDS", "Broken", "first_broken"]

_ONE: Final = os.environ.get("ARC_SEED")
SEEDS: Final = range(int(_ONE), int(_ONE) + 1) if _ONE else range(scaled(100, 10_000))
"""What a run of the tests tries: a few, all in the long form, or the one that is to be replayed."""


class Broken(NamedTuple):
    """A seed, and what it has shown."""

    seed: int
    problem: str


def first_broken(seeds: Iterable[int]) -> Broken | None:
    """The first seed that breaks a promise."""
    for seed in seeds:
        try:
            replay(seed)
        except Exception as error:  # noqa: BLE001  whatever it is, it is not to be
            return Broken(seed, f"{type(error).__name__}: {error}")
    return None
