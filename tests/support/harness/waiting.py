"""Wait for conditions that cannot be awaited, without fixed sleeps."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POLL_SECONDS = 0.005
PATIENCE_SECONDS = 60.0
"""Long enough for any machine: after that, the condition will never hold."""


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until `condition()` holds; raise AssertionError after `seconds`."""
    for pause in _looks(condition, seconds):
        time.sleep(pause)


async def await_until(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """`wait_until` for asynchronous tests: the loop runs meanwhile."""
    for pause in _looks(condition, seconds):
        await asyncio.sleep(pause)


def _looks(condition: Callable[[], object], seconds: float) -> Iterator[float]:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"still not so after {seconds} s")
        yield POLL_SECONDS
