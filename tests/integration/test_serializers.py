"""Serializers other than JSON, including custom ones."""

from __future__ import annotations

import datetime as dt
import json
import math
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheConfigError, CacheInputError, RedisCache
from harness.apis import configured

if TYPE_CHECKING:
    from harness import Client, Server

pytestmark = pytest.mark.depends_on()

KEY = "sixteen letters."
MOMENT = dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC)
AS_MSGPACK: list[tuple[Any, Any]] = [
    (b"\xff\x00", b"\xff\x00"),
    (bytearray(b"x"), b"x"),
    (memoryview(b"x"), b"x"),
    ([b"x", {"a": (b"y",)}], [b"x", {"a": [b"y"]}]),
    (math.inf, math.inf),
    ({math.inf: 1}, {math.inf: 1}),
    ({1: "a", "1": "b"}, {1: "a", "1": "b"}),
    ({b"key": 1}, {b"key": 1}),
    ({(1, 2): 3}, {(1, 2): 3}),
    ({1.5: 1, None: 2, True: 3}, {1.5: 1, None: 2, True: 3}),
    ((1, 2), [1, 2]),
    (MOMENT, MOMENT),
    (2**64 - 1, 2**64 - 1),
    (-(2**63), -(2**63)),
]
NOT_RAW: list[Any] = [1, 1.5, [], {}, ["text"], True, "\ud800", object()]


class Alone:
    """A class that says nothing of its form."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Alone)

    __hash__ = None  # type: ignore[assignment]


class Gives:
    """A serializer that always gives the same."""

    def __init__(self, given: Any) -> None:
        self.given = given

    def dumps(self, value: Any) -> Any:
        """Encode."""
        return self.given

    def loads(self, data: bytes) -> Any:
        """Decode."""
        return data


class Bring:
    """A serializer made of any two functions."""

    def __init__(self, dumps: Callable[[Any], Any], loads: Callable[[bytes], Any]) -> None:
        self.dumps = dumps
        self.loads = loads


def _fail(value: Any) -> Any:
    raise ValueError(f"cannot take {value!r}")


async def test_msgpack_takes_what_json_refuses(server: Server) -> None:
    """Bytes, what is not finite, and keys of any type come back as they were."""
    async with configured(server.url, serializer="msgpack") as cache:
        for value, expected in AS_MSGPACK:
            await cache.store(None, "key", value)
            found = await cache.retrieve(None, "key")
            assert (type(found), found) == (type(expected), expected)
        await cache.store(None, "key", math.nan)
        assert math.isnan(await cache.retrieve(None, "key"))
        for value in (2**64, object(), 1j, "\ud800"):
            with pytest.raises(CacheInputError) as caught:
                await cache.store(None, "key", value)
            assert caught.value.code == "NOT_SERIALIZABLE"
            assert caught.value.__context__ is None


async def test_raw_is_bytes_out(server: Server, raw: Client) -> None:
    """Raw stores bytes as they are and text as UTF-8, gives bytes, and takes nothing else."""
    async with configured(server.url, serializer="raw") as cache:
        for value, stored in (
            (b"", b""),
            (b"\x00\xff", b"\x00\xff"),
            ("žluť", "žluť".encode()),
            (bytearray(b"a"), b"a"),
            (memoryview(b"abc")[::2], b"ac"),
        ):
            await cache.store(None, "key", value)
            assert raw.get("key") == stored
            assert await cache.retrieve(None, "key") == stored
        assert await cache.retrieve_many(None, ["key"], type=bytes) == {"key": b"ac"}
        assert await cache.remove(None, "key") == b"ac"
        for wrong in NOT_RAW:
            with pytest.raises(CacheInputError) as caught:
                await cache.store(None, "key", wrong)
            assert caught.value.code == "NOT_SERIALIZABLE"
            assert caught.value.__context__ is None


async def test_pickle_gives_the_object(server: Server) -> None:
    """Anything that can be pickled comes back as the same type; everything else is refused."""
    async with configured(server.url, serializer="pickle", signing_key=KEY) as cache:
        for value in (Alone(), {1, 2}, (1, b"x"), 2**100, [Alone()], ValueError, 1j):
            await cache.store(None, "key", value)
            found = await cache.retrieve(None, "key")
            assert (type(found), found) == (type(value), value)
        with pytest.raises(CacheInputError) as caught:
            await cache.store(None, "key", lambda: "secret")
        assert caught.value.code == "NOT_SERIALIZABLE"


@pytest.mark.parametrize("make", [AsyncRedisCache.from_url, RedisCache.from_url])
def test_pickle_needs_a_key(make: Callable[..., object]) -> None:
    """Without a signing key, or with a short one, pickle is refused when it is configured."""
    for options in ({}, {"signing_key": ""}, {"signing_key": "hunter2"}):
        with pytest.raises(CacheConfigError) as caught:
            make("redis://localhost", serializer="pickle", **options)
        assert caught.value.code == "BAD_OPTION"
        assert "signing_key" in str(caught.value)
        assert "hunter2" not in str(caught.value)


async def test_a_serializer_by_name(server: Server) -> None:
    """`from_url(serializer=...)` takes the name of one as well as an object."""
    async with AsyncRedisCache.from_url(server.url, serializer="msgpack") as cache:
        await cache.store(None, "key", b"\xff")
        assert await cache.retrieve(None, "key") == b"\xff"
    with pytest.raises(CacheConfigError) as caught:
        AsyncRedisCache.from_url(server.url, serializer="yaml")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert "json" in str(caught.value)


async def test_a_module_is_a_serializer(server: Server, raw: Client) -> None:
    """Any object with `dumps` and `loads` fits, text or bytes; on both APIs."""
    async with AsyncRedisCache.from_url(server.url, serializer=json) as cache:
        await cache.store(None, "key", {"ž": (1, math.inf)})
        assert raw.get("key") == b'{"\\u017e": [1, Infinity]}'
        assert await cache.retrieve(None, "key") == {"ž": [1, math.inf]}
        assert await cache.retrieve_many(None, ["key"], type=dict) == {"key": {"ž": [1, math.inf]}}
        assert await cache.remove(None, "key") == {"ž": [1, math.inf]}
        with pytest.raises(CacheInputError) as caught:
            await cache.store(None, "key", {"secret": object()})
        assert "secret" not in str(caught.value)
    opened = RedisCache(serializer=json)
    opened.configure(configuration(server.url))
    with opened:
        opened.store(None, "key", math.inf)
        assert opened.retrieve(None, "key") == math.inf


def configuration(url: str) -> Any:
    """A configuration with nothing but the address."""
    from pip_services4_components.config import ConfigParams

    return ConfigParams.from_tuples("connection.uri", url)


async def test_what_a_serializer_gives_must_be_bytes(server: Server, raw: Client) -> None:
    """Bytes of any kind, or text; anything else is refused, and never quoted."""
    for given, stored in ((b"a", b"a"), ("ž", "ž".encode()), (bytearray(b"b"), b"b")):
        async with AsyncRedisCache.from_url(server.url, serializer=Gives(given)) as cache:
            await cache.store(None, "key", 1)
            assert raw.get("key") == stored
            assert await cache.retrieve(None, "key") == stored
    for wrong in (None, 5, ["secret"], {"secret": 1}, "secret\ud800", Alone()):
        async with AsyncRedisCache.from_url(server.url, serializer=Gives(wrong)) as cache:
            with pytest.raises(CacheInputError) as caught:
                await cache.store("t", "key", 1)
            assert (caught.value.code, caught.value.trace_id) == ("NOT_SERIALIZABLE", "t")
            assert "secret" not in str(caught.value)
            assert caught.value.__cause__ is caught.value.__context__ is None


async def test_a_serializer_that_fails(server: Server) -> None:
    """An error of `dumps` is NOT_SERIALIZABLE without its text; an error of `loads` is a miss."""
    brought = Bring(_fail, _fail)
    async with AsyncRedisCache.from_url(server.url, serializer=brought, key_prefix="p:") as cache:
        with pytest.raises(CacheInputError) as caught:
            await cache.store(None, "key", "secret")
        assert (caught.value.code, caught.value.__context__) == ("NOT_SERIALIZABLE", None)
        assert "secret" not in repr(caught.value)
        brought.dumps = pickle.dumps
        await cache.store(None, "key", 1)
        assert await cache.retrieve(None, "key") is None
        assert await cache.retrieve_many(None, ["key"]) == {}
        assert (cache.stats().unreadable, cache.stats().misses) == (2, 2)
        assert await cache.remove(None, "key") is None
        assert await cache.contains(None, "key") is False
