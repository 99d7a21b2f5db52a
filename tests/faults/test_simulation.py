"""Processes, a server and injected faults in one event loop, whose every choice is the seed's.

Callers store, remove, invalidate, read and load, one key and many; meanwhile caches are closed, opened again
and replaced, and processes are killed.

`ARC_SEED=17 pytest tests/faults/test_simulation.py` replays a seed; `ARC_LONG=1` runs 10,000 of them.
"""

from __future__ import annotations

import pytest

from harness.simulated import SEEDS, first_broken
from harness.simulated_world import replay


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(4))
def test_promises_hold_for_every_seed(part: int) -> None:
    """Calls end in time with a true result; superseded loads are not stored; nothing is left over.

    That holds for who is closed in mid-run too, and for those who wait for a process that was killed.
    """
    broken = first_broken(SEEDS[part::4])
    assert broken is None, (
        f"ARC_SEED={broken.seed} pytest tests/faults/test_simulation.py: {broken}"
    )


def test_run_is_determined_by_its_seed() -> None:
    """What a seed does, it does again: the same calls at the same moments, with the same outcomes."""
    seed = SEEDS[0]
    assert replay(seed) == replay(seed)
