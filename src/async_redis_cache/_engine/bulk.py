"""Requests about many keys, split into parts of limited number and size."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from async_redis_cache._common.errors import CacheError, CacheServerError
from async_redis_cache._common.failures import TOO_LARGE
from async_redis_cache._protocol.command import Command, Executor

__all__ = ["execute_in_parts", "read_in_parts", "send_all"]

_PART_BYTES: Final = 256 * 1024


async def execute_in_parts(
    executor: Executor, command: Command, items: Sequence[Any], *, budget: float | None = None
) -> list[Any]:
    """Send a command in parts, all at once, and return the result of each part.

    Waits for all parts, then raises the first error.

    Args:
        executor: sends the requests.
        command: takes a sequence of items.
        items: keys, or entries.
        budget: seconds; None for `command_timeout`.
    """
    parts = list(_parts(items, executor.max_keys_per_request))
    if len(parts) == 1:
        # The usual case, which needs no gathering.
        part, size = parts[0]
        return [await executor.execute(command, part, size, keys=len(part), budget=budget)]
    requests = send_all(
        executor.execute(command, part, size, keys=len(part), budget=budget) for part, size in parts
    )
    results = await asyncio.gather(*requests, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


async def read_in_parts(
    executor: Executor,
    command: Command,
    keys: Sequence[bytes],
    *,
    budget: float,
    absent: Any,
    oversized: Callable[[], None],
) -> list[Any]:
    """Return the result for each key, in the order of the keys.

    If a reply is too large, the keys are read in halves, until the key with the too large value is alone. Reading a
    reply stops at its limit, so this costs at most twice the bytes of one reply.

    Args:
        executor: sends the requests.
        command: reads several keys.
        keys: to read.
        budget: seconds.
        absent: the result for a key whose value is too large, where it is read together with others.
        oversized: called for each of these.

    Raises:
        CacheServerError: REPLY_TOO_LARGE, where there is one key only.
    """
    if len(keys) == 1:
        # Nothing to halve, and no deadline to compute: this path reads the tag of a value with one tag.
        return list((await execute_in_parts(executor, command, keys, budget=budget))[0])
    loop = asyncio.get_running_loop()
    deadline = loop.time() + budget
    try:
        parts = await execute_in_parts(executor, command, keys, budget=budget)
    except CacheServerError as error:
        if error.code != TOO_LARGE.code:
            raise
    else:
        return [result for part in parts for result in part]
    results: list[Any] = []
    middle = len(keys) // 2
    for half in (keys[:middle], keys[middle:]):
        try:
            results += await read_in_parts(
                executor,
                command,
                half,
                budget=deadline - loop.time(),
                absent=absent,
                oversized=oversized,
            )
        except CacheServerError as error:
            if error.code != TOO_LARGE.code:
                raise
            oversized()
            results.append(absent)
    return results


def send_all(requests: Iterable[asyncio.Future[Any]]) -> list[asyncio.Future[Any]]:
    """Return the futures of several requests; if one is refused at once, cancel those before it.

    Otherwise these could fail with an exception that is never retrieved.

    Raises:
        CacheError: a request was refused at once, for example because the queue is full.
    """
    sent: list[asyncio.Future[Any]] = []
    try:
        sent.extend(requests)
    except CacheError:
        for future in sent:
            future.cancel()
        raise
    return sent


def _parts(items: Sequence[Any], max_items: int) -> Iterator[tuple[Sequence[Any], int]]:
    """Split items into parts for one request each; yield each part with its size in bytes."""
    part: list[Any] = []
    size = 0
    for item in items:
        item_bytes = len(item) + 16 if isinstance(item, bytes) else len(item[0]) + len(item[1]) + 48
        if part and (len(part) == max_items or size + item_bytes > _PART_BYTES):
            yield part, size
            part, size = [], 0
        part.append(item)
        size += item_bytes
    if part:
        yield part, size
