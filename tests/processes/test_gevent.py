"""A program that gevent has patched: greenlets share a RedisCache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness import Server

pytestmark = pytest.mark.depends_on()

PROGRAM = Path(__file__).parents[1] / "support/programs/gevent_patched.py"


def test_greenlets_share_a_cache(server: Server) -> None:
    """A hundred greenlets read, and share one load; asyncio runs once the cache is closed; a second loop is refused.

    Where uvloop is installed, the private loop is still one of asyncio, which lets greenlets run.
    """
    pytest.importorskip("gevent")
    done = subprocess.run(
        [sys.executable, str(PROGRAM), server.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.split() == ["loaded", "value", "1", "value", "UNSUPPORTED"]
