"""A near cache with a clock of the test, without a server."""

from __future__ import annotations

from async_redis_cache._common.stats import CacheStats
from async_redis_cache._engine.near_cache import NearCache

FOR_EVER = -1
"""What PTTL says of a value that never expires."""
ROOM = 10_000


class Near:
    """A near cache that is trusted, its clock and its counters."""

    def __init__(
        self, *, max_size: int = 100, max_bytes: int = ROOM * 100, longest: float = 60
    ) -> None:
        self.now = 1_000.0
        self.counters = CacheStats()
        self.cache = NearCache(
            self.counters,
            max_size=max_size,
            max_bytes=max_bytes,
            max_ttl=longest,
            clock=lambda: self.now,
        )
        self.cache.connected_until(self.now + 1_000_000)

    def keep(self, key: bytes, data: bytes = b"data", left: int = FOR_EVER) -> None:
        """Ask for a key and get this answer, in no time; again where the first asking is not kept."""
        self.cache.fill(self.cache.begin_fill(key) or self.cache.begin_fill(key), data, left)

    def get(self, key: bytes) -> bytes | None:
        """What is given right after the loop has had its turn."""
        self.cache.pushes_processed()
        return self.cache.get(key)

    def held(self, *keys: bytes) -> list[bytes]:
        """Those of the keys that are given."""
        return [key for key in keys if self.get(key) is not None]
