"""`clear`: removes all keys of one cache, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Protocol

from async_redis_cache._protocol.command import Command, Executor
from async_redis_cache._protocol.commands import SCAN
from async_redis_cache._protocol.size_limit import Sweep

from .bulk import execute_in_parts

__all__ = ["Servers", "clear_index", "clear_prefix", "pattern_of"]

_SWEEP_KEYS: Final = 500
_SCAN_KEYS: Final = 1000
_GLOB: Final = str.maketrans({character: f"\\{character}" for character in "*?[]\\^-"})


class Servers(Protocol):
    """The servers that hold the keys."""

    @property
    def executor(self) -> Executor:
        """Sends each request to the server that holds its key."""
        ...

    @property
    def executors(self) -> Sequence[Executor]:
        """One for each server."""
        ...

    async def moves(self, deadline: float) -> int:
        """Return how many times keys have moved from one server to another, after asking all servers.

        Raises:
            CacheError: a server did not reply by the deadline.
        """
        ...


async def clear_prefix(servers: Servers, budget: float, prefix: str, delete: Command) -> int:
    """Remove the keys that begin with a prefix; return how many existed.

    Args:
        servers: each is scanned for its keys.
        budget: seconds for everything.
        prefix: not empty.
        delete: removes keys, and returns how many existed.
    """
    deadline = asyncio.get_running_loop().time() + budget
    pattern = pattern_of(prefix.encode())
    removed, seen = 0, await servers.moves(deadline)
    while True:
        for server in servers.executors:
            removed += await _clear_server(server, servers.executor, deadline, pattern, delete)
        before, seen = seen, await servers.moves(deadline)
        if seen == before:
            return removed
        # Keys that moved from a server not yet scanned to one already scanned were missed: scan again.


def pattern_of(prefix: bytes) -> bytes:
    """Return the glob that matches the keys with a prefix and no others."""
    return prefix.decode().translate(_GLOB).encode() + b"*"


async def _clear_server(
    server: Executor, all_servers: Executor, deadline: float, pattern: bytes, delete: Command
) -> int:
    removed, cursor = 0, b""
    while cursor != b"0":
        scan = (cursor or b"0", b"MATCH", pattern, b"COUNT", _SCAN_KEYS)
        cursor, keys = await _execute_by(deadline, server, SCAN, scan)
        # Not the index, without which the bound would not hold while other callers store; nor the tags, from
        # which loads in flight see what was invalidated. No key of a user contains a NUL.
        values = [key for key in keys if b"\0" not in key]
        remaining = deadline - asyncio.get_running_loop().time()
        removed += sum(await execute_in_parts(all_servers, delete, values, budget=remaining))
    return removed


async def clear_index(executor: Executor, budget: float, index: bytes) -> int:
    """Remove the keys in the index of a bounded cache; return how many existed.

    Args:
        executor: sends the requests.
        budget: seconds for everything.
        index: the key of the index.
    """
    deadline = asyncio.get_running_loop().time() + budget
    sweep = Sweep(index)
    removed, left = 0, 1
    while left:
        count, left = await _execute_by(deadline, executor, sweep, _SWEEP_KEYS)
        removed += count
    return removed


async def _execute_by(deadline: float, executor: Executor, command: Command, argument: Any) -> Any:
    remaining = deadline - asyncio.get_running_loop().time()
    return await executor.execute(command, argument, 64, budget=remaining)
