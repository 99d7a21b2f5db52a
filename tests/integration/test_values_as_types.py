"""`retrieve(..., type=...)` returns a validated object or a miss, and refuses unsupported types."""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Literal,
    NewType,
    NotRequired,
    Protocol,
    TypedDict,
    TypeVar,
)

import msgspec
import pydantic
import pytest

from async_redis_cache import AsyncRedisCache, CacheInputError
from harness.apis import configured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from harness import Server

T = TypeVar("T")
UserId = NewType("UserId", int)


@dataclass
class Address:
    """Part of the others."""

    street: str
    number: int = 1


@dataclass
class User:
    """A dataclass with everything in it."""

    name: str
    address: Address
    born: dt.date
    tags: list[str] = field(default_factory=list[str])


class UserDict(TypedDict):
    """The same as a TypedDict."""

    name: str
    address: Address
    nick: NotRequired[str]


class UserStruct(msgspec.Struct):
    """The same as a Struct."""

    name: str
    id: uuid.UUID
    age: Annotated[int, msgspec.Meta(ge=0)] = 0


class UserModel(pydantic.BaseModel):
    """The same as a pydantic model."""

    name: str
    made: dt.datetime
    age: int = pydantic.Field(default=0, ge=0)


class Page(pydantic.BaseModel, Generic[T]):
    """A generic model."""

    items: list[T]


class Cat(msgspec.Struct, tag=True):
    """One of a union."""

    lives: int


class Dog(msgspec.Struct, tag=True):
    """The other of a union."""

    name: str


class Opaque:
    """Nobody knows how to make it of plain data."""


class Shape(Protocol):
    """No class that anything could be made of."""

    area: float


@dataclass
class Broken:
    """Its annotation names nothing."""

    a: Missing  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable]


@dataclass
class HoldsOpaque:
    """One field that nobody can make."""

    a: int
    b: list[Opaque] | None = None


@dataclass
class Node:
    """A type that names itself."""

    value: int
    next: Node | None = None


ANN = User("Ann", Address("Main"), dt.date(1990, 2, 28), ["a"])
MADE = dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC)
TYPED: list[tuple[Any, Any, Any]] = [
    (ANN, User, ANN),
    (UserStruct("Ann", uuid.UUID(int=5), 3), UserStruct, UserStruct("Ann", uuid.UUID(int=5), 3)),
    (UserModel(name="Ann", made=MADE), UserModel, UserModel(name="Ann", made=MADE)),
    ([ANN, ANN], list[User], [ANN, ANN]),
    ([UserModel(name="Ann", made=MADE)], list[UserModel], [UserModel(name="Ann", made=MADE)]),
    (UserModel(name="Ann", made=MADE), UserModel | None, UserModel(name="Ann", made=MADE)),
    (
        {"a": UserModel(name="A", made=MADE)},
        dict[str, UserModel],
        {"a": UserModel(name="A", made=MADE)},
    ),
    (Page[int](items=[1, 2]), Page[int], Page[int](items=[1, 2])),
    (
        UserModel(name="Ann", made=MADE),
        UserModel | dict[str, int],
        UserModel(name="Ann", made=MADE),
    ),
    (Cat(9), Cat | Dog, Cat(9)),
    (Dog("Rex"), Cat | Dog, Dog("Rex")),
    ((1, "a"), tuple[int, str], (1, "a")),
    ({1, 2}, set[int], {1, 2}),
    ({1: 2}, dict[int, int], {1: 2}),
    (MADE, dt.datetime, MADE),
    (uuid.UUID(int=5), uuid.UUID, uuid.UUID(int=5)),
    (5, int | str, 5),
    ("five", int | str, "five"),
    ("a", Literal["a", "b"], "a"),
    (5, UserId, 5),
    (5, Annotated[int, msgspec.Meta(ge=0)], 5),
    ({"a": 1}, dict, {"a": 1}),
    ({"a": 1}, Any, {"a": 1}),
    (Node(1, Node(2)), Node, Node(1, Node(2))),
]
# What is in the value, and as what it is asked for: it is none of that.
MISFITS: list[tuple[Any, Any]] = [
    ({"name": "Ann"}, User),
    ({"name": 5, "address": {"street": "Main"}}, UserDict),
    ({"name": "Ann", "id": "no uuid"}, UserStruct),
    ({"name": "Ann", "id": str(uuid.UUID(int=5)), "age": -3}, UserStruct),
    ({"name": "Ann", "made": "yesterday"}, UserModel),
    ({"name": "Ann", "made": MADE, "age": -1}, UserModel),
    ([{"name": "Ann", "made": "yesterday"}], list[UserModel]),
    ([1, "a"], list[int]),
    ("text", int),
    ("5", int),
    (1.5, int),
    (True, int),
    (5, str),
    ("c", Literal["a", "b"]),
    (-5, Annotated[int, msgspec.Meta(ge=0)]),
    ({"type": "Cow"}, Cat | Dog),
    ([1], dict),
]
# A serializer that gives objects of any class may give one of these.
CLASSES: list[Any] = [Opaque, HoldsOpaque, type, Exception]
UNSUPPORTED: list[Any] = [
    *CLASSES,
    list[Opaque],
    Opaque | None,
    Broken,
    Shape,
    "User",
    5,
    lambda: None,
    [int],
]


@pytest.fixture(params=["json", "msgpack", "pickle", "custom"])
def serializer(request: pytest.FixtureRequest) -> str:
    """A type can be asked for whatever the serializer."""
    chosen: str = request.param
    return chosen


class Plain:
    """A serializer of a user's own, which gives plain data."""

    def dumps(self, value: Any) -> bytes:
        """Encode."""
        return msgspec.json.encode(value, enc_hook=lambda model: model.model_dump(mode="json"))

    def loads(self, data: bytes) -> Any:
        """Decode."""
        return msgspec.json.decode(data)


@pytest.fixture
async def cache(any_server: Server, serializer: str) -> AsyncIterator[AsyncRedisCache]:
    """An open cache with that serializer."""
    prefix = f"types-{serializer}:"
    if serializer == "custom":
        cache = AsyncRedisCache.from_url(any_server.url, serializer=Plain(), key_prefix=prefix)
    else:
        cache = configured(
            any_server.url,
            serializer=serializer,
            signing_key="sixteen letters.",
            key_prefix=prefix,
        )
    async with cache:
        yield cache
        await cache.clear(None)


async def test_a_value_as_its_type(cache: AsyncRedisCache, serializer: str) -> None:
    """Dataclasses, TypedDicts, Structs, models, and what is built of them, come back as such."""
    for value, kind, expected in TYPED:
        if serializer == "pickle" and not isinstance(kind, type):
            continue  # It gives the very objects; only plain data is made into others.
        await cache.store(None, "key", value)
        retrieve: Any = cache.retrieve
        found = await retrieve(None, "key", type=kind)
        assert found == expected
        assert type(found) is type(expected)


async def test_typed_dict(cache: AsyncRedisCache) -> None:
    """A TypedDict is a dict whose values are of their types."""
    value = {"name": "Ann", "address": {"street": "Main", "number": 2}}
    await cache.store(None, "key", value)
    found = await cache.retrieve(None, "key", type=UserDict)
    assert found == {"name": "Ann", "address": Address("Main", 2)}


async def test_object_is_whatever_is_stored(cache: AsyncRedisCache) -> None:
    """The annotation of a function that returns values of any type."""
    value = {"name": "Ann", "numbers": [1, None]}
    await cache.store(None, "key", value)
    for kind in (object, dict[str, object]):
        retrieve: Any = cache.retrieve
        assert await retrieve(None, "key", type=kind) == value


async def test_value_of_another_type_is_a_miss(cache: AsyncRedisCache, serializer: str) -> None:
    """A value that does not validate is a miss, counted as unreadable, and stays where it is."""
    for number, (value, kind) in enumerate(MISFITS, 1):
        if serializer in {"pickle", "custom"} and isinstance(value, bool):
            value = "something else"  # noqa: PLW2901  the very object is of its type
        await cache.store(None, "key", value)
        assert await cache.retrieve(None, "key", type=kind) is None
        assert cache.stats().unreadable == number
        assert cache.stats().misses == number
        assert await cache.contains(None, "key") is True


async def test_unsupported_types_are_refused(cache: AsyncRedisCache, serializer: str) -> None:
    """A type of which nothing can be made is BAD_TYPE at once, whatever is stored."""
    trips = cache.stats().round_trips
    gives_objects = serializer in {"pickle", "custom"}
    for kind in UNSUPPORTED:
        if gives_objects and kind in CLASSES:
            continue
        with pytest.raises(CacheInputError) as caught:
            await cache.retrieve("t", "key", type=kind)
        assert (caught.value.code, caught.value.trace_id) == ("BAD_TYPE", "t")
        assert caught.value.__cause__ is caught.value.__context__ is None
        with pytest.raises(CacheInputError) as caught:
            await cache.retrieve_many("t", ["key"], type=kind)
        assert caught.value.code == "BAD_TYPE"
    assert cache.stats().round_trips == trips


class Mixed(enum.Enum):
    """Its values are neither all text nor all int."""

    ONE = 1
    TWO = "two"


async def test_refusal_of_a_type_gives_the_reason(any_server: Server) -> None:
    """The message says which part of the type cannot be validated, and why."""
    async with AsyncRedisCache.from_url(any_server.url) as cache:
        with pytest.raises(CacheInputError, match=r"all str or all int values - type .*Mixed"):
            await cache.retrieve(None, "key", type=Mixed)


async def test_the_very_object(cache: AsyncRedisCache, serializer: str) -> None:
    """A serializer that returns objects of any class accepts them as type."""
    if serializer == "pickle":
        await cache.store(None, "key", ValueError("a"))
        assert isinstance(await cache.retrieve(None, "key", type=Exception), ValueError)
        assert await cache.retrieve(None, "key", type=Opaque) is None
