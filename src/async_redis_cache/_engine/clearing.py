"""Removing all keys of one cache, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Protocol

from async_redis_cache._protocol.command import Command, Executor
from async_redis_cache._protocol.commands import SCAN
from async_redis_cache._protocol.size_limit import Sweep

from .bulk import execute_in_parts

__all__ = ["clear_index", "clear_prefix"]

_SWEEP_KEYS: Final = 500
_SCAN_KEYS: Final = 1000
_GLOB: Final = str.maketrans({character: f"\\{character}" for character in "*?[]\\^-"})


class Servers(Protocol):
    """Those that have the keys."""

    @property
    def executor(self) -> Executor:
        """Who asks the right one."""
        ...

    @property
    def executors(self) -> Sequence[Executor]:
        """Who asks each."""
        ...

    async def moves(self, deadline: float) -> int:
        """How often keys were seen to have moved from one to another, now that all were asked.

        Raises:
            CacheError: that could not be found out by the deadline.
        """
        ...


async def clear_prefix(servers: Servers, budget: float, prefix: str, discard: Command) -> int:
    """Remove the keys that begin with a prefix; how many there were.

    Args:
        servers: each is scanned for the keys that it has.
        budget: seconds that it may take in all.
        prefix: not empty.
        discard: how keys are removed.
    """
    deadline = asyncio.get_running_loop().time() + budget
    pattern = prefix.translate(_GLOB).encode() + b"*"
    removed, seen = 0, await servers.moves(deadline)
    while True:
        for server in servers.executors:
            removed += await _clear_server(server, servers.executor, deadline, pattern, discard)
        before, seen = seen, await servers.moves(deadline)
        if seen == before:
            return removed
        # What has moved from a server that was yet to be scanned to one that had been was missed.


async def _clear_server(
    server: Executor, all_servers: Executor, deadline: float, pattern: bytes, discard: Command
) -> int:
    removed, cursor = 0, b""
    while cursor != b"0":
        scan = (cursor or b"0", b"MATCH", pattern, b"COUNT", _SCAN_KEYS)
        cursor, keys = await _execute_by(deadline, server, SCAN, scan)
        # Without the index, or with it gone while others store, the bound would not hold; and
        # loads under way have to know which tags were invalidated. No key of a user holds a NUL.
        values = [key for key in keys if b"\0" not in key]
        left = deadline - asyncio.get_running_loop().time()
        removed += sum(await execute_in_parts(all_servers, discard, values, budget=left))
    return removed


async def clear_index(batcher: Executor, budget: float, index: bytes) -> int:
    """Remove the keys in an index; how many there were.

    Args:
        batcher: who asks the server.
        budget: seconds that it may take in all.
        index: of a bounded cache.
    """
    deadline = asyncio.get_running_loop().time() + budget
    sweep = Sweep(index)
    removed, left = 0, 1
    while left:
        gone, left = await _execute_by(deadline, batcher, sweep, _SWEEP_KEYS)
        removed += gone
    return removed


async def _execute_by(deadline: float, batcher: Executor, verb: Command, argument: Any) -> Any:
    left = deadline - asyncio.get_running_loop().time()
    return await batcher.execute(verb, argument, 64, budget=left)
