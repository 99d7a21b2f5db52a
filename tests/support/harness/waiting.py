"""Waiting for what cannot be awaited, without a fixed sleep."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POLL_SECONDS = 0.005
PATIENCE_SECONDS = 60.0
"""After which what is waited for will never come, however slow the machine is."""


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Return as soon as `condition()` holds; fail when it does not within `seconds`."""
    for pause in _looks(condition, seconds):
        time.sleep(pause)


async def await_until(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """The same for a test that is asynchronous: its loop goes on meanwhile."""
    for pause in _looks(condition, seconds):
        await asyncio.sleep(pause)


def _looks(condition: Callable[[], object], seconds: float) -> Iterator[float]:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"still not so after {seconds} s")
        yield POLL_SECONDS
