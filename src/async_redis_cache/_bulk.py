"""Calls about many keys: cut into parts that are few enough, and small enough, to be one call each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Final

from ._errors import CacheError
from ._verbs import Asker, Verb

__all__ = ["ask_in_parts"]

_BYTES_A_CALL: Final = 256 * 1024


async def ask_in_parts(
    batcher: Asker, verb: Verb, items: Sequence[Any], *, budget: float | None = None
) -> list[Any]:
    """The answers to all parts, asked for at once.

    Waits for the last, then raises the first error there was.

    Args:
        batcher: who is asked.
        verb: whose argument is a sequence of items.
        items: keys, or entries.
        budget: seconds that it may take, where that is not the budget of every call.
    """
    asked: list[asyncio.Future[Any]] = []
    try:
        for part, size in _parts(items, batcher.keys_a_call):
            asked.append(batcher.ask(verb, part, size, keys=len(part), budget=budget))
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
