"""The page that compares caches of HTTP responses: its rows, and what it says about this library."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest

from code_blocks import ROOT
from harness import Server, StartProxy
from harness.response_observations import OBSERVATIONS, observe
from harness.response_services import SERVICES
from http_peers_page import OURS, table

VERSIONS, CELLS = table()


def test_each_row_is_an_observation_of_each_cache() -> None:
    """The rows are the observations, in their order, and the columns are the services."""
    assert list(CELLS) == [(row, cache) for row in OBSERVATIONS for cache in SERVICES]


def test_releases_are_those_that_are_installed() -> None:
    """The releases in the head of the table are those of the dependency group."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    required = (one.split("==") for one in groups["response-peers"])
    pinned = {package.partition("[")[0]: release for package, release in required}
    assert pinned == {cache: VERSIONS[cache] for cache in VERSIONS if cache != OURS}


@pytest.mark.parametrize("row", OBSERVATIONS)
async def test_this_library_does_what_the_page_says(
    row: str, server: Server, proxy: StartProxy
) -> None:
    """Each cell of this library is what is observed over HTTP."""
    assert await observe(row, OURS, proxy(server)) == CELLS[row, OURS]


def test_speeds_are_those_of_the_figures() -> None:
    """The table of speeds is what the command generates from the figures."""
    check = [sys.executable, str(ROOT / "docs" / "http_peers_speed.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
