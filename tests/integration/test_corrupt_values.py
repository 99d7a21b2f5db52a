"""Damaged, forged or foreign values are a miss at worst, and no code is executed."""

from __future__ import annotations

import functools
import hmac
import itertools
import json
import pickle
import random
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from harness.apis import configured
from harness.figures import report
from harness.run_length import scaled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from async_redis_cache import AsyncRedisCache
    from harness import Client, Server

pytestmark = pytest.mark.depends_on()

VALUES = scaled(10_000, 100_000)
KEY = "sixteen letters."
BOMB_BYTES = 100_000_000
WAYS: dict[str, dict[str, Any]] = {
    "json": {},
    "json, compressed": {"compression": "zlib", "compression_threshold": 0},
    "json, signed": {"signing_key": KEY},
    "msgpack": {"serializer": "msgpack"},
    "msgpack, both": {
        "serializer": "msgpack",
        "compression": "zlib",
        "compression_threshold": 0,
        "signing_key": KEY,
    },
    "pickle": {"serializer": "pickle", "signing_key": KEY},
}
GENUINE = {"name": "Ann", "numbers": list(range(20)), "text": "abc" * 20}
FOREIGN = [
    b"",
    b"{",
    b'{"a": ',
    b"\xff\xfe",
    b"null",
    b"[1, 2",
    b"1" * 5_000,
    b"[" * 5_000,
    b'{"a":' * 5_000,
    b"\x91" * 5_000,
    b"\xdd\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xffabc",
    b"\xc1",
    b"\xc1\x01",
    b"\xc1\x01\xff\xff",
    b"\xc1\x01\x00\x00",
    b"\xc1\x02\x00\x01\x90payload",
    b"\xc1\x01\x00\x01\x90",
    b"\xc1\x01\x00\x01\xc0{}",
    b"\xc1\x01\x00\x06\x93\xa4zstd\x05{}",
    b"\xc1\x01\x00\x07\x93\xa4zlib\xff\xc4\x00x",
    b"\xc1\x01\x00\x0f\x93\xa4zlib\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xc4\x00x",
    pickle.dumps(GENUINE),
    json.dumps(GENUINE).encode(),
    msgspec.msgpack.encode(GENUINE),
    zlib.compress(b"{}"),
]

executed: list[str] = []


def execute() -> None:
    """The code that must not be."""
    executed.append("executed")


class Exploit:
    """Unpickled, it executes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return execute, ()


EXPLOITS = [pickle.dumps(Exploit(), protocol) for protocol in range(6)]


def _forged(stored: bytes) -> list[bytes]:
    """The exploits, each under the header of a genuine value."""
    header = stored[: 4 + int.from_bytes(stored[2:4], "big")]
    return [header + exploit for exploit in EXPLOITS]


def _damaged(stored: bytes, chance: random.Random) -> Iterator[bytes]:
    """Systematic damage first, then random damage, without end."""
    yield from (stored[:size] for size in range(len(stored)))
    yield from FOREIGN
    yield from EXPLOITS
    yield from _forged(stored)
    yield from (b"\xc1\x01\x00\x01\x90" + exploit for exploit in EXPLOITS)
    for bit in range(8 * len(stored)):
        flipped = bytearray(stored)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)
    while True:
        wild = bytearray(stored)
        for _ in range(chance.randint(1, 8)):
            wild[chance.randrange(len(wild))] = chance.randrange(256)
        start = chance.randrange(len(wild))
        yield bytes(wild) + chance.randbytes(chance.randint(0, 9))
        yield bytes(wild[start:]) + bytes(wild[:start])
        yield chance.randbytes(chance.randint(1, 200))


@pytest.fixture(params=WAYS)
async def cache(request: pytest.FixtureRequest, server: Server) -> AsyncIterator[AsyncRedisCache]:
    """An open cache, with each way to store."""
    options = {"key_prefix": "p:", "command_timeout": 20_000}
    async with configured(server.url, **WAYS[request.param], **options) as opened:
        yield opened


async def _stored(cache: AsyncRedisCache, raw: Client) -> bytes:
    await cache.store(None, "genuine", GENUINE)
    stored = raw.get("p:genuine")
    assert stored is not None
    return stored


async def test_damaged_values_are_misses(cache: AsyncRedisCache, raw: Client, request: Any) -> None:
    """28. Of thousands of damaged values none raises or executes code; all damaged signed values are detected.

    Without a signature a damaged value may be another value of the same format, and no more.
    """
    executed.clear()
    stored = await _stored(cache, raw)
    damaged = itertools.islice(_damaged(stored, random.Random(28)), VALUES)
    # The last is genuine, for another key.
    entries = {f"p:{number}": data for number, data in enumerate(damaged)} | {"p:copy": stored}
    raw.mset(entries)
    found = await cache.retrieve_many(None, [key[2:] for key in entries])
    stats = cache.stats()
    assert executed == []
    assert stats.hits == len(found)
    assert stats.misses == VALUES + 1 - len(found)
    # `node` has a type since pytest 9.2 only.
    if "signing_key" in WAYS[request.node.callspec.params["cache"]]:
        assert found == {}
        assert stats.unreadable == VALUES + 1
    assert await cache.retrieve(None, "genuine") == GENUINE
    report(28, f"{stats.unreadable} of {VALUES + 1} damaged values unreadable, none executed")


def _believe(_: bytes, __: bytes) -> bool:
    return True


@pytest.mark.parametrize("cache", ["pickle"], indirect=True)
async def test_without_the_signature_code_is_executed(
    cache: AsyncRedisCache, raw: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """28, the proof: without the verification of the signature, the exploits work."""
    monkeypatch.setattr(hmac, "compare_digest", _believe)
    executed.clear()
    for forged in _forged(await _stored(cache, raw)):
        raw.set("p:forged", forged)
        await cache.retrieve(None, "forged")
    assert len(executed) == len(EXPLOITS)
    executed.clear()


@pytest.mark.parametrize("cache", ["pickle"], indirect=True)
async def test_other_operations_execute_nothing_either(cache: AsyncRedisCache, raw: Client) -> None:
    """28. `remove`, and `retrieve` with a type, verify the signature too."""
    executed.clear()
    for number, exploit in enumerate(EXPLOITS):
        raw.set("p:a", exploit)
        raw.set("p:b", exploit)
        assert await cache.retrieve(None, "a", type=dict) is None
        assert await cache.retrieve_many(None, ["a"], type=list) == {}
        assert await cache.remove(None, "a") is None
        assert await cache.retrieve(None, "b") is None
        assert cache.stats().unreadable == 4 * (number + 1)
    assert executed == []


async def test_damaged_values_leave_one_by_one(cache: AsyncRedisCache, raw: Client) -> None:
    """An unreadable value can be replaced and removed like any other; removal gives None."""
    raw.set("p:key", b"\xc1damaged")
    assert await cache.retrieve(None, "key") is None
    assert await cache.contains(None, "key") is False
    assert raw.exists("p:key") == 1
    assert await cache.remove(None, "key") is None
    assert raw.exists("p:key") == 0
    raw.set("p:key", b"\xc1damaged")
    await cache.store(None, "key", GENUINE)
    assert await cache.retrieve(None, "key") == GENUINE


@functools.cache
def _bomb() -> bytes:
    return zlib.compress(b"\x00" * BOMB_BYTES, 9)


@pytest.mark.parametrize("promised", [10, 1_000, 200_000, 2**20, 2**40, 2**62])
async def test_a_compression_bomb_is_bounded(server: Server, raw: Client, promised: int) -> None:
    """28. A compressed payload is never expanded beyond the maximum size of a value."""
    header = msgspec.msgpack.encode(["zlib", promised, b""])
    raw.set("p:bomb", b"\xc1\x01" + len(header).to_bytes(2, "big") + header + _bomb())
    async with configured(server.url, key_prefix="p:", max_value_size=200_000) as cache:
        await cache.ping(None)
        tracemalloc.start()
        try:
            assert await cache.retrieve(None, "bomb") is None
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert cache.stats().unreadable == 1
        report(
            28,
            f"a compression bomb that announces {promised:,} bytes: peak {peak / 1e6:.1f} MB",
            peak,
        )
        assert peak < 3_000_000
