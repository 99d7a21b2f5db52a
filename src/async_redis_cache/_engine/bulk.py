"""Calls about many keys: cut into parts that are few enough, and small enough, to be one call each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from async_redis_cache._common.errors import CacheError, CacheServerError
from async_redis_cache._common.failures import TOO_LARGE
from async_redis_cache._protocol.command import Command, Executor

__all__ = ["execute_in_parts", "read_in_parts", "send_all"]

_BYTES_A_CALL: Final = 256 * 1024


async def execute_in_parts(
    batcher: Executor, verb: Command, items: Sequence[Any], *, budget: float | None = None
) -> list[Any]:
    """The answers to all parts, asked for at once.

    Waits for the last, then raises the first error there was.

    Args:
        batcher: who is asked.
        verb: whose argument is a sequence of items.
        items: keys, or entries.
        budget: seconds that it may take, where that is not the budget of every call.
    """
    parts = list(_parts(items, batcher.max_keys_per_request))
    if len(parts) == 1:
        # Most have one part, and nothing to give up.
        part, size = parts[0]
        return [await batcher.execute(verb, part, size, keys=len(part), budget=budget)]
    asked = send_all(
        batcher.execute(verb, part, size, keys=len(part), budget=budget) for part, size in parts
    )
    answers = await asyncio.gather(*asked, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


async def read_in_parts(
    asker: Executor,
    command: Command,
    keys: Sequence[bytes],
    *,
    budget: float,
    absent: Any,
    oversized: Callable[[], None],
) -> list[Any]:
    """The answer for each key, in their order, within so many seconds.

    Where the reply is too large, the keys are read in halves, until one key is left that has too much. A reply
    is given up at its bound, so that costs twice the bytes of one at most.

    Args:
        asker: sends the requests.
        command: reads several keys.
        keys: to read.
        budget: seconds.
        absent: the answer for a key whose value is too large, where others are read with it.
        oversized: called for each of these.

    Raises:
        CacheServerError: REPLY_TOO_LARGE, for the only key.
    """
    if len(keys) == 1:
        # There is nothing to halve, and no deadline to keep: a value with one tag is read so.
        return list((await execute_in_parts(asker, command, keys, budget=budget))[0])
    loop = asyncio.get_running_loop()
    deadline = loop.time() + budget
    try:
        parts = await execute_in_parts(asker, command, keys, budget=budget)
    except CacheServerError as error:
        if error.code != TOO_LARGE.code:
            raise
    else:
        return [answer for part in parts for answer in part]
    answers: list[Any] = []
    middle = len(keys) // 2
    for half in (keys[:middle], keys[middle:]):
        try:
            answers += await read_in_parts(
                asker,
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
            answers.append(absent)
    return answers


def send_all(requests: Iterable[asyncio.Future[Any]]) -> list[asyncio.Future[Any]]:
    """The futures of several requests; where one is refused, those before it are given up.

    Left to themselves, they would fail with an error that nothing retrieves.

    Raises:
        CacheError: a request was refused at once, as where the queue is full.
    """
    sent: list[asyncio.Future[Any]] = []
    try:
        sent.extend(requests)
    except CacheError:
        for future in sent:
            future.cancel()
        raise
    return sent


def _parts(items: Sequence[Any], most: int) -> Iterator[tuple[Sequence[Any], int]]:
    """Parts that are few enough, and small enough, to be one call each, with their sizes."""
    part: list[Any] = []
    size = 0
    for item in items:
        more = len(item) + 16 if isinstance(item, bytes) else len(item[0]) + len(item[1]) + 48
        if part and (len(part) == most or size + more > _BYTES_A_CALL):
            yield part, size
            part, size = [], 0
        part.append(item)
        size += more
    if part:
        yield part, size
