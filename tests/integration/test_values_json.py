"""The default serializer: what it converts, as documented, and what it refuses."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import math
import uuid
from collections import OrderedDict, defaultdict, deque
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs
import msgspec
import pydantic
import pytest

from async_redis_cache import AsyncRedisCache, CacheInputError
from harness.apis import configured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from harness import Client, Server

pytestmark = pytest.mark.depends_on()


class Colour(enum.Enum):
    """A value that is text."""

    RED = "red"


class Level(enum.IntEnum):
    """A value that is a number."""

    HIGH = 3


class Point(NamedTuple):
    """A tuple with names."""

    x: int
    y: int


@dataclasses.dataclass
class Owner:
    """A dataclass with another one in it."""

    name: str
    pet: Any = None


@attrs.define
class Pet:
    """An attrs class."""

    name: str
    weight: float = 1.0


class Toy(msgspec.Struct):
    """A Struct."""

    name: str
    price: Any = 0


class Order(pydantic.BaseModel):
    """A pydantic model."""

    number: int
    total: float = 0.0
    made: dt.date = dt.date(2024, 2, 29)


class Alone:
    """A class that says nothing of its form."""


UTC = dt.UTC
CONVERSIONS: list[tuple[Any, Any]] = [
    ((1, (2, 3)), [1, [2, 3]]),
    ({1}, [1]),
    (frozenset({"a"}), ["a"]),
    (Point(1, 2), [1, 2]),
    (dt.datetime(2024, 2, 29, 12, 30, tzinfo=UTC), "2024-02-29T12:30:00Z"),
    (dt.datetime(2024, 2, 29, 12, 30, 1, 5), "2024-02-29T12:30:01.000005"),  # noqa: DTZ001
    (dt.date(2024, 2, 29), "2024-02-29"),
    (dt.time(12, 30), "12:30:00"),
    (dt.timedelta(seconds=90), "PT90S"),
    (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    (decimal.Decimal("1.10"), "1.10"),
    (Colour.RED, "red"),
    (Level.HIGH, 3),
    (Owner("Ann", ["Rex"]), {"name": "Ann", "pet": ["Rex"]}),
    (Pet("Rex"), {"name": "Rex", "weight": 1.0}),
    (Toy("ball"), {"name": "ball", "price": 0}),
    (Order(number=5), {"number": 5, "total": 0.0, "made": "2024-02-29"}),
    ([Order(number=5)], [{"number": 5, "total": 0.0, "made": "2024-02-29"}]),
    ({1: "a", 2: "b"}, {"1": "a", "2": "b"}),
    ({Colour.RED: 1}, {"red": 1}),
    ({uuid.UUID(int=5): 1}, {"00000000-0000-0000-0000-000000000005": 1}),
    ({dt.date(2024, 2, 29): 1}, {"2024-02-29": 1}),
    (defaultdict(int, a=1), {"a": 1}),
    (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    (2**70, 2**70),
    (-(2**70), -(2**70)),
    (1e308, 1e308),
    (5e-324, 5e-324),
]

_recursive: list[Any] = []
_recursive.append(_recursive)
_deep: list[Any] = []
for _ in range(100_000):
    _deep = [_deep]
BYTES: list[Any] = [
    b"x",
    bytearray(b"x"),
    memoryview(b"x"),
    [b"x"],
    {"a": {"b": [1, (2, b"x")]}},
    {b"key": 1},
    Owner("Ann", b"x"),
    Toy("ball", b"x"),
    Pet("Rex", b"x"),  # type: ignore[arg-type]
    {"a": {b"x"}},
]
NOT_FINITE: list[Any] = [
    math.nan,
    math.inf,
    -math.inf,
    [1.0, math.nan],
    {"a": {"b": (math.inf,)}},
    {math.nan: 1},
    {math.inf: 1},
    Owner("Ann", math.nan),
    Toy("ball", [math.inf]),
    Pet("Rex", math.nan),
    Order(number=1, total=math.nan),
    [Owner("Ann", [Order(number=1, total=math.inf)])],
]
COLLISIONS: list[Any] = [{1: "a", "1": "b"}, {"x": {Level.HIGH: 1, "3": 2}}, {2: 1, "2": 1}]
FORMLESS: list[Any] = [
    object(),
    Alone(),
    1j,
    print,
    Alone,
    range(3),
    deque([1]),
    MappingProxyType({}),
    {"a": Alone()},
    {(1, 2): 3},
    {None: 1},
    "\ud800",
    {"\udfff": 1},
    ["ok", "\ud800"],
    _recursive,
    _deep,
    iter([1]),
    ValueError("secret"),
]


@pytest.fixture
async def cache(any_server: Server) -> AsyncIterator[AsyncRedisCache]:
    """An open cache; what is tested here happens before the server is reached."""
    async with configured(any_server.url, key_prefix="json:") as opened:
        yield opened
        await opened.clear(None)


async def test_documented_conversions(cache: AsyncRedisCache) -> None:
    """What JSON has no type for is stored as its nearest relative, and comes back as that."""
    for value, plain in CONVERSIONS:
        assert await cache.store(None, "key", value) is value
        found = await cache.retrieve(None, "key")
        assert (type(found), found) == (type(plain), plain)


async def test_bytes_are_refused(cache: AsyncRedisCache) -> None:
    """Bytes anywhere in a value: the error names the serializer that takes them."""
    await _refuses(cache, BYTES, "msgpack")


async def test_non_finite_numbers_raise(cache: AsyncRedisCache) -> None:
    """NaN and infinities anywhere in a value, which JSON would make null, are refused likewise."""
    await _refuses(cache, NOT_FINITE, "msgpack")


async def test_keys_that_would_collide_are_refused(cache: AsyncRedisCache) -> None:
    """Two keys that would become the same text are refused, not merged."""
    await _refuses(cache, COLLISIONS, "msgpack")


async def test_unsupported_types_raise(cache: AsyncRedisCache) -> None:
    """Anything else is an error that names a type and quotes nothing, whatever it holds."""
    await _refuses(cache, FORMLESS, "")


async def _refuses(cache: AsyncRedisCache, values: list[Any], advice: str) -> None:
    trips = cache.stats().round_trips
    for value in values:
        with pytest.raises(CacheInputError) as caught:
            await cache.store("t", "key", value)
        assert (caught.value.code, caught.value.trace_id) == ("NOT_SERIALIZABLE", "t")
        assert advice in str(caught.value)
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is caught.value.__context__ is None
    assert cache.stats().round_trips == trips


async def test_plain_json_on_the_server(server: Server, raw: Client) -> None:
    """A value without metadata is JSON under the bare key, with PX: any program can read it."""
    async with configured(server.url) as cache:
        value = {"name": "Žofie", "tags": [1, 2.5, None, True], "nested": {"a": "\x00"}}
        await cache.store(None, "key:1", value, 30_000)
        stored = raw.get("key:1")
        assert stored is not None
        assert msgspec.json.decode(stored) == value
        assert stored == msgspec.json.encode(value)
        assert 20_000 < raw.pttl("key:1") <= 30_000
        await cache.store(None, "text", "ABC")
        assert raw.get("text") == b'"ABC"'


async def test_what_another_program_stored_is_read(server: Server, raw: Client) -> None:
    """JSON of any origin, spaces and escapes included, is a value; removal returns it too."""
    async with configured(server.url, key_prefix="node:") as cache:
        raw.set("node:key", b' { "a" : [1, 2.0e0, "\\u017E\\/"],\r\n"b": null } ')
        raw.set("node:number", "12")
        raw.set("node:null", "null")
        expected: dict[str, Any] = {"a": [1, 2.0, "ž/"], "b": None}
        assert await cache.retrieve(None, "key") == expected
        assert await cache.retrieve(None, "number") == 12
        # Without an expiry, the value counts as one that was stored for ever.
        assert await cache.time_to_live(None, "key") == dt.timedelta(days=36_500) / dt.timedelta(
            milliseconds=1
        )
        assert await cache.retrieve(None, "null") is None
        assert cache.stats().unreadable == 0
        assert await cache.remove(None, "key") == expected
        assert raw.exists("node:key") == 0
        # Touched, it gets an expiry, as every value of this cache has one.
        assert await cache.touch(None, "number", 5_000) is True
        assert 0 < raw.pttl("node:number") <= 5_000
