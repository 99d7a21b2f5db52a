"""What `docs/explanation/http-peers.md` says about other caches of HTTP responses is what they do."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from harness import Server, StartProxy
from harness.response_observations import observe
from http_peers_page import OURS, table

# They call functions of other packages that are deprecated.
pytestmark = pytest.mark.filterwarnings("default")

VERSIONS, CELLS = table()
PEERS = {key: cell for key, cell in CELLS.items() if key[1] != OURS}


@pytest.mark.parametrize(("row", "cache"), PEERS)
async def test_cache_does_what_the_page_says(
    row: str, cache: str, server: Server, proxy: StartProxy
) -> None:
    """Each cell of the table is what is observed over HTTP."""
    assert await observe(row, cache, proxy(server)) == PEERS[row, cache]


@pytest.mark.parametrize("cache", [cache for cache in VERSIONS if cache != OURS])
def test_page_names_the_release_that_was_observed(cache: str) -> None:
    """The head of each column has the release that is installed."""
    assert version(cache) == VERSIONS[cache]
