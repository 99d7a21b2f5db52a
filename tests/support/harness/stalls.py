"""Tests with short lives on a machine that may stall for longer than them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from async_redis_cache import CacheError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def outlasting_stalls(attempt: Callable[[float], Awaitable[None]], *lives: float) -> None:
    """Make an attempt with each of these lives in turn, in seconds, until one succeeds.

    The first is short, for a fast test; a stall that outlasts it fails the attempt. No stall outlasts the last one:
    what fails with it fails the test.
    """
    for life in lives[:-1]:
        with suppress(AssertionError, CacheError):
            await attempt(life)
            return
    await attempt(lives[-1])
