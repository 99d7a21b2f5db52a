"""A reader can follow a hit: it passes few modules, and changes seldom from one to another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import walks

if TYPE_CHECKING:
    from harness import Server

pytestmark = pytest.mark.depends_on()


async def test_hit_passes_few_modules(server: Server) -> None:
    """`retrieve` of a stored value, from the call to the socket and back."""
    walk = await walks.plain_hit(server.url)
    assert len(walk.modules) <= 14, walk
    assert walk.changes <= 28, walk


@pytest.mark.parametrize(("after_gap", "modules", "changes"), [(False, 6, 8), (True, 9, 14)])
async def test_near_hit_passes_few_modules(
    server: Server, after_gap: bool, modules: int, changes: int
) -> None:
    """`retrieve` of a local entry; after a blocked loop, the invalidation channel is checked too."""
    walk = await walks.near_hit(server.url, after_gap=after_gap)
    assert len(walk.modules) <= modules, walk
    assert walk.changes <= changes, walk


async def test_walk_of_a_cold_load_ends_in_a_publication(server: Server) -> None:
    """`retrieve_or_load` of a missing key: the read, the lease, the loader and the publication."""
    walk = await walks.cold_load(server.url)
    assert ("_api.load_request", "call_loader") in walk.steps
    assert ("_engine.load_lease", "publish") in walk.steps
