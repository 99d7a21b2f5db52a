"""Changes that did not reach the server: to be made good before anything is read again.

A removal fails since the server is away, and its caller has done all he could: the value that must not
be given any more is still there when the server is back. So the key is remembered, and removed before
this process reads or changes anything else. It may have been the store that failed: then its old value
goes as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

__all__ = ["Debts"]

_MOST: Final = 10_000
"""Keys that are remembered; beyond it the oldest are not any more."""


class Debts:
    """Keys whose values may be old.

    Args:
        forget: removes keys.
    """

    def __init__(self, forget: Callable[[Sequence[bytes]], Awaitable[Any]]) -> None:
        self._forget = forget
        self._keys: dict[bytes, None] = {}
        self._paying: asyncio.Task[None] | None = None

    def __bool__(self) -> bool:
        return bool(self._keys)

    def add(self, keys: Sequence[bytes]) -> None:
        """A change of these keys has failed."""
        self._keys.update(dict.fromkeys(keys))
        for _ in range(len(self._keys) - _MOST):
            del self._keys[next(iter(self._keys))]

    async def pay(self) -> None:
        """Make all of them good. Many who wait share one attempt.

        Raises:
            CacheError: the server is still away.
        """
        if self._paying is None or self._paying.done():
            self._paying = asyncio.get_running_loop().create_task(self._pay())
            self._paying.add_done_callback(_heed)
        await asyncio.shield(self._paying)

    def stop(self) -> None:
        """Forget them: the cache is closed."""
        self._keys.clear()
        if self._paying is not None:
            self._paying.cancel()

    async def stopped(self) -> None:
        """Wait until nothing is left of an attempt."""
        if self._paying is not None:
            await asyncio.wait((self._paying,))

    async def _pay(self) -> None:
        keys = list(self._keys)
        await self._forget(keys)
        for key in keys:
            self._keys.pop(key, None)


def _heed(paying: asyncio.Task[None]) -> None:
    if not paying.cancelled():
        paying.exception()
