"""The corridor: the one place that knows which part does what, and in which order.

Here everything is bytes: keys as they stand on the server, data as it is stored there, None for
"no such key". Values, contexts and types are the doors' business.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator, Sequence
from typing import Any, Final

from ._backoff import Backoff
from ._batcher import Batcher
from ._bounded import INDEX_SUFFIX, BoundedRemove, BoundedStore, BoundedTouch, Sweep
from ._commands import (
    CONTAINS,
    DISCARD,
    FORGET,
    PING,
    READ,
    READ_MANY,
    SCAN,
    STORE,
    TAKE,
    TIME_TO_LIVE,
    TOUCH,
    Entry,
    Verb,
)
from ._counters import Counters
from ._dialer import Dialer
from ._errors import CacheError, CacheUnsupported
from ._options import Options
from ._queue import CallQueue
from ._transport import Transport
from ._uri import Endpoint

__all__ = ["Engine"]

_SECOND: Final = 1000
_KEYS_A_CALL: Final = 256
_BYTES_A_CALL: Final = 256 * 1024
_SWEEP_KEYS: Final = 500
_SCAN_KEYS: Final = 1000
_GLOB: Final = str.maketrans({character: f"\\{character}" for character in "*?[]\\^-"})


class Engine:
    """An open cache, on the event loop that is running.

    Every awaitable ends by the deadline `command_timeout`, in an answer or a `CacheError`.

    Raises:
        CacheConfigError: BAD_OPTION, when a TLS file cannot be read.
    """

    def __init__(self, endpoint: Endpoint, options: Options, counters: Counters) -> None:
        self.loop = asyncio.get_running_loop()
        self.pid = os.getpid()
        self._counters = counters
        self._connect_timeout = options.connect_timeout / _SECOND
        self._command_timeout = options.command_timeout / _SECOND
        self._prefix = options.key_prefix
        self._bounded = options.max_size > 0
        self._index = options.key_prefix.encode() + INDEX_SUFFIX
        self._store: Verb = STORE
        self._take: Verb = TAKE
        self._discard: Verb = DISCARD
        self._forget: Verb = FORGET
        self._touch: Verb = TOUCH
        if self._bounded:
            self._store = BoundedStore(self._index, options.max_size)
            self._take = BoundedRemove(self._index, b"GETDEL")
            self._discard = BoundedRemove(self._index, b"UNLINK")
            self._forget = BoundedRemove(self._index, b"UNLINK", heeded=False)
            self._touch = BoundedTouch(self._index)
        self._sweep: Verb = Sweep(self._index)
        self._batcher = Batcher(
            counters,
            budget=self._command_timeout,
            retries=options.retries,
            waiting=CallQueue(options.max_waiting_calls, options.max_waiting_bytes),
            backoff=Backoff(self.loop.time, random.random),
        )
        self._transport = Transport(
            Dialer(endpoint, options),
            max_connections=options.max_connections,
            counters=counters,
            backoff=Backoff(self.loop.time, random.random),
            ready=self._batcher.ready,
            unreachable=self._batcher.unreachable,
        )
        self._batcher.connect_to(self._transport)

    def __repr__(self) -> str:
        return f"<Engine {self._batcher!r} {self._transport!r}>"

    async def connect(self) -> None:
        """Connect, log in and ping: one attempt, within `connect_timeout`."""
        await self._batcher.ask(PING, (), 0, budget=self._connect_timeout, retries=0)

    def abandon(self) -> None:
        """Drop every connection though the event loop is closed."""
        self._transport.abandon()

    async def close(self) -> None:
        """End every call and drop every connection. Whoever is cancelled here leaves nothing."""
        self._batcher.close()
        await self._transport.close()

    def read(self, key: bytes) -> asyncio.Future[bytes | None]:
        """The data of one key."""
        return self._batcher.ask(READ, key, len(key) + 16)

    async def read_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The data of each key, in their order."""
        chunks = await self._gather(READ_MANY, _chunks(keys))
        return [data for chunk in chunks for data in chunk]

    def store(self, key: bytes, data: bytes, life: int) -> asyncio.Future[None]:
        """Store one entry for so many milliseconds."""
        return self._batcher.ask(self._store, ((key, data, life),), len(key) + len(data) + 48)

    async def store_many(self, entries: Sequence[Entry]) -> None:
        """Store all entries; when it fails, some may have been stored."""
        await self._gather(self._store, _chunks(entries))

    async def take(self, key: bytes) -> bytes | None:
        """Remove one key: what it held."""
        data: bytes | None = await self._batcher.ask(self._take, (key,), len(key) + 32)
        if data is not None:
            self._counters.removals += 1
        return data

    async def discard(self, keys: Sequence[bytes]) -> int:
        """Remove keys: how many there were."""
        removed: int = sum(await self._gather(self._discard, _chunks(keys)))
        self._counters.removals += removed
        return removed

    async def forget(self, keys: Sequence[bytes]) -> None:
        """Remove keys, whether they were there or not."""
        self._counters.removals += sum(await self._gather(self._forget, _chunks(keys)))

    async def contains(self, key: bytes) -> bool:
        """Whether the key is there."""
        return bool(await self._batcher.ask(CONTAINS, (key,), len(key) + 16))

    async def touch(self, key: bytes, life: int) -> bool:
        """Give the key a new life, in milliseconds; whether it was there."""
        return bool(await self._batcher.ask(self._touch, (key, life), len(key) + 32))

    async def time_to_live(self, key: bytes) -> int | None:
        """Milliseconds that the key has left; None when it is not there or never expires."""
        left: int = await self._batcher.ask(TIME_TO_LIVE, (key,), len(key) + 16)
        return left if left >= 0 else None

    async def ping(self) -> None:
        """One round trip that does nothing."""
        await self._batcher.ask(PING, (), 16)

    async def clear(self) -> int:
        """Remove this cache's keys and no others, within the deadline; how many there were.

        Raises:
            CacheUnsupported: nothing tells which keys are this cache's.
        """
        if not (self._prefix or self._bounded):
            problem = "clear needs options.key_prefix or options.max_size to know its keys by"
            raise CacheUnsupported("UNSUPPORTED", problem)
        deadline = self.loop.time() + self._command_timeout
        removed = await (
            self._clear_prefix(deadline) if self._prefix else self._clear_index(deadline)
        )
        self._counters.removals += removed
        return removed

    async def _clear_prefix(self, deadline: float) -> int:
        pattern = self._prefix.translate(_GLOB).encode() + b"*"
        removed, cursor = 0, b"0"
        while True:
            scan = (cursor, b"MATCH", pattern, b"COUNT", _SCAN_KEYS)
            cursor, keys = await self._ask_by(deadline, SCAN, scan)
            # Without the index, or with it gone while others store, the bound would not hold.
            values = tuple(key for key in keys if not key.endswith(INDEX_SUFFIX))
            if values:
                removed += await self._ask_by(deadline, self._discard, values)
            if cursor == b"0":
                return removed

    async def _clear_index(self, deadline: float) -> int:
        removed, left = 0, 1
        while left:
            gone, left = await self._ask_by(deadline, self._sweep, _SWEEP_KEYS)
            removed += gone
        return removed

    async def _ask_by(self, deadline: float, verb: Verb, argument: Any) -> Any:
        return await self._batcher.ask(verb, argument, 64, budget=deadline - self.loop.time())

    async def _gather(self, verb: Verb, chunks: Iterator[tuple[Sequence[Any], int]]) -> list[Any]:
        """Ask for all chunks at once. Waits for the last, then raises the first error there was."""
        asked: list[asyncio.Future[Any]] = []
        try:
            for chunk, size in chunks:
                asked.append(self._batcher.ask(verb, chunk, size, keys=len(chunk)))
        except CacheError:
            for future in asked:
                future.cancel()
            raise
        if len(asked) == 1:
            return [await asked[0]]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers


def _chunks(items: Sequence[Any]) -> Iterator[tuple[Sequence[Any], int]]:
    """Parts that are few enough, and small enough, to be one call each, with their sizes."""
    chunk: list[Any] = []
    size = 0
    for item in items:
        more = len(item) + 16 if isinstance(item, bytes) else len(item[0]) + len(item[1]) + 48
        if chunk and (len(chunk) == _KEYS_A_CALL or size + more > _BYTES_A_CALL):
            yield chunk, size
            chunk, size = [], 0
        chunk.append(item)
        size += more
    if chunk:
        yield chunk, size
