"""Removing all keys of one cache, and no others."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from ._batcher import Batcher
from ._bounded import Sweep
from ._commands import SCAN
from ._verbs import Verb

__all__ = ["clear_index", "clear_prefix"]

_SWEEP_KEYS: Final = 500
_SCAN_KEYS: Final = 1000
_GLOB: Final = str.maketrans({character: f"\\{character}" for character in "*?[]\\^-"})


async def clear_prefix(batcher: Batcher, budget: float, prefix: str, discard: Verb) -> int:
    """Remove the keys that begin with a prefix; how many there were.

    Args:
        batcher: who asks the server.
        budget: seconds that it may take in all.
        prefix: not empty.
        discard: how keys are removed.
    """
    deadline = asyncio.get_running_loop().time() + budget
    pattern = prefix.translate(_GLOB).encode() + b"*"
    removed, cursor = 0, b"0"
    while True:
        scan = (cursor, b"MATCH", pattern, b"COUNT", _SCAN_KEYS)
        cursor, keys = await _ask_by(deadline, batcher, SCAN, scan)
        # Without the index, or with it gone while others store, the bound would not hold; and loads
        # under way have to know which tags were invalidated. No key of a user holds a NUL.
        values = tuple(key for key in keys if b"\0" not in key)
        if values:
            removed += await _ask_by(deadline, batcher, discard, values)
        if cursor == b"0":
            return removed


async def clear_index(batcher: Batcher, budget: float, index: bytes) -> int:
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
        gone, left = await _ask_by(deadline, batcher, sweep, _SWEEP_KEYS)
        removed += gone
    return removed


async def _ask_by(deadline: float, batcher: Batcher, verb: Verb, argument: Any) -> Any:
    left = deadline - asyncio.get_running_loop().time()
    return await batcher.ask(verb, argument, 64, budget=left)
