"""What works, and what is refused, where Python lacks what it lacks on Windows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness import Server

pytestmark = pytest.mark.depends_on()

PROGRAM = Path(__file__).parents[1] / "support/programs/like_windows.py"


@pytest.mark.parametrize("loop", ["selector", "proactor"])
def test_cache_works_without_poll_fork_and_unix_sockets(server: Server, loop: str) -> None:
    """Both APIs work on both loops that Windows has; `unix://` and `embedded://` are refused when they are opened."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM), server.url, loop],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    needs = "needs Unix sockets, which Python lacks on this platform: use redis:// and a host"
    assert done.stdout.splitlines() == [
        *("value", "loaded", "value", "loaded"),
        f"BAD_URI unix:// {needs}",
        f"BAD_URI embedded:// {needs}, or fake:// in tests",
        "value",
    ]
