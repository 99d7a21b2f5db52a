"""A service under injected faults uses no more resources over time."""

from __future__ import annotations

import logging

import pytest

from harness import StartServer
from harness.figures import report
from harness.run_length import scaled
from harness.soak import Soak

pytestmark = pytest.mark.depends_on()

SECONDS, ROUNDS = scaled((5.0, 3), (300.0, 15))
# From the end of the first round, when everything has been used once, to that of the last.
MOST_GROWN_BYTES = 20_000_000
MOST_GROWN_BLOCKS = 20_000


@pytest.mark.timeout(120)
def test_no_resource_leaks_under_faults(
    private_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """32. A soak with random faults: descriptors, tasks, threads and memory return to their initial level."""
    # pytest keeps each record until the test is over.
    monkeypatch.setattr(logging.getLogger("async_redis_cache"), "disabled", True)
    found = Soak(private_server(), seed=32, interval=0.25).run(SECONDS, ROUNDS)
    start, first, last = found.at_rest[0], found.at_rest[1], found.at_rest[-1]
    grown = last.resident - first.resident
    blocks = last.blocks - first.blocks
    report(
        32,
        f"{last.seconds:.0f} s, {found.codes.total()} calls, {found.faults.total()} faults, "
        f"{len(found.wrong)} wrong; at rest {start.descriptors} descriptors before and "
        f"{last.descriptors} after, {start.threads} and {last.threads} threads, {last.tasks} tasks; "
        f"{grown / 1e6:.1f} MB and {blocks} of {last.blocks} blocks of memory "
        f"more than after the first of {ROUNDS} rounds",
        grown,
    )
    assert found.wrong == []
    assert {taken.tasks for taken in found.at_rest} == {0}
    assert {taken.threads for taken in found.at_rest} == {start.threads}
    assert {taken.descriptors for taken in found.at_rest} == {start.descriptors}
    assert grown < MOST_GROWN_BYTES
    assert blocks < MOST_GROWN_BLOCKS
    assert found.codes["OK"] > sum(found.codes.values()) / 2
