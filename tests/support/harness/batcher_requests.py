"""Requests to a batcher on fake connections."""

from __future__ import annotations

import asyncio
from typing import Any

from async_redis_cache._protocol.commands import GET, SET
from harness.fake_connection import Wires
from harness.virtual_time import turns

STORE_BYTES = 48
"""What a store takes beside its data."""


def read(wires: Wires, key: bytes) -> asyncio.Future[Any]:
    return wires.batcher.execute(GET, key, len(key) + 16)


def store(wires: Wires, key: bytes, data: bytes = b"1") -> asyncio.Future[Any]:
    return wires.batcher.execute(SET, ((key, data, 1000),), len(data) + STORE_BYTES)


async def busy(wires: Wires) -> asyncio.Future[Any]:
    """Take the only wire, so that whatever is asked next has to wait."""
    future = read(wires, b"busy")
    await turns()
    assert wires.wire.commands == [(b"MGET", b"busy")]
    return future
