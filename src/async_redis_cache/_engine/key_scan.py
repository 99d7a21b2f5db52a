"""A scan of the servers for the keys with a prefix, page by page."""

from __future__ import annotations

from typing import Final

from async_redis_cache._protocol.commands import SCAN

from .clearing import Servers, pattern_of

__all__ = ["KeyScan"]

_PAGE_KEYS: Final = 1000


class KeyScan:
    """The position of a scan, which one caller at a time continues."""

    def __init__(self) -> None:
        self._server = 0
        self._cursor = b"0"

    async def next_page(self, servers: Servers, prefix: bytes, budget: float) -> list[bytes] | None:
        """Return the next keys; None after the last.

        Args:
            servers: all are scanned.
            prefix: of the keys.
            budget: seconds for this page.

        Raises:
            CacheError: the server did not reply.
        """
        executors = servers.executors
        if self._server >= len(executors):
            return None
        scan = (self._cursor, b"MATCH", pattern_of(prefix), b"COUNT", _PAGE_KEYS)
        self._cursor, keys = await executors[self._server].execute(SCAN, scan, 64, budget=budget)
        if self._cursor == b"0":
            self._server += 1
        # The keys of the cache itself, such as those of tags, contain a NUL.
        return [key for key in keys if b"\0" not in key]
