"""`cached`: how the arguments of a call appear in its key."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import enum
import fractions
import functools
import ipaddress
import itertools
import math
import os
import pathlib
import re
import subprocess
import sys
import threading
import types
import typing
import uuid
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import attrs
import msgspec
import pydantic
import pytest

from async_redis_cache import AsyncRedisCache, cached

CACHE = AsyncRedisCache.from_url("redis://127.0.0.1:1")
T = TypeVar("T")


@cached(CACHE)
async def find(value: Any) -> int:
    return 1


@cached(CACHE)
async def spread(first: Any, /, second: Any = 2, *rest: Any, third: Any = 3, **more: Any) -> int:
    return 1


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Colour(enum.Enum):
    RED = "red"


class Shade(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    ONE = 1


class Word(enum.StrEnum):
    RED = "red"


class Open(enum.Enum):
    ONE = 1

    @classmethod
    def _missing_(cls, value: object) -> Open:
        """A member that is none of the class."""
        made = object.__new__(cls)
        vars(made).update(_name_=None, _value_=value)
        return made


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class User:
    number: int


@dataclass
class Guest:
    number: int


@dataclass(slots=True, frozen=True)
class Pair:
    left: Any
    right: Any = None


@attrs.define
class Row:
    number: int


class Frame(msgspec.Struct):
    number: int


class Model(pydantic.BaseModel):
    number: int
    more: str = "x"


class Loose(pydantic.BaseModel, extra="allow"):
    number: int
    _hidden: int = pydantic.PrivateAttr(default=0)


class Root(pydantic.RootModel[list[int]]):
    pass


class Zone(dt.tzinfo):
    def utcoffset(self, moment: dt.datetime | None, /) -> None:
        """It has none that is known."""

    def dst(self, moment: dt.datetime | None, /) -> None:
        """Likewise."""

    def tzname(self, moment: dt.datetime | None, /) -> None:
        """Likewise."""


class Empty:
    pass


class Longer(Pair):
    """Keeps what is no field."""

    __slots__ = ("more",)


class LongerRow(Row):
    __slots__ = ("more",)


@dataclass
class Queue(collections.deque[int]):
    number: int = 1


@dataclass
class Failure(Exception):
    number: int = 1


class Untold:
    __cache_key__ = "a"


class Told(type):
    def __cache_key__(cls) -> str:
        return cls.__name__


class OfTold(metaclass=Told):
    def __init__(self) -> None:
        self.number = 1


class First:
    """The first of two classes of one name."""


class Second:
    """Which another process finds by this name."""


First.__qualname__ = "Second"


@attrs.define
class Memory:
    number: int

    @functools.cached_property
    def double(self) -> int:
        return self.number * 2


class Generic(typing.Generic[T]):
    pass


@dataclass
class Box(typing.Generic[T]):
    item: Any


class Keyed:
    def __init__(self, number: int) -> None:
        self.number = number
        self.lock = threading.Lock()

    def __cache_key__(self) -> Any:
        return self.number


class Held:
    def __init__(self) -> None:
        self.number = 1


class Slotted:
    __slots__ = ("number",)


class Odd(dict[str, int]):
    __slots__ = ("number",)


def hidden(number: int) -> Loose:
    model = Loose(number=1)
    model._hidden = number
    return model


NAN, INF = math.nan, math.inf
UTC, PARIS = dt.UTC, zoneinfo.ZoneInfo("Europe/Paris")
MOMENT = dt.datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001  without a zone on purpose
ADDRESS = "2026-01-02"
UNIQUE = uuid.UUID(int=2**100)

DIFFERENT: list[Any] = [
    *(None, "null", "None", "", False, "false", True, "true", 1, 1.0, "1", "1.0", Whole(1)),
    *(0, 0.0, -0.0, NAN, INF, -INF, "nan", "NaN", 10**30, 10**5000, -(10**5000), 1e30, 1j),
    *(b"a", "a", bytearray(b"a"), Text("a"), "b'a'", "61", "\ud800", "\\ud800", "\x00", "é"),
    *(dt.date(2026, 1, 2), ADDRESS, MOMENT, str(MOMENT), MOMENT.isoformat(), MOMENT.time()),
    *(dt.datetime(2026, 1, 2), "2026-01-02T00:00:00"),  # noqa: DTZ001
    *(MOMENT.replace(tzinfo=UTC), MOMENT.replace(tzinfo=PARIS), MOMENT.replace(fold=1)),
    *(MOMENT.replace(tzinfo=dt.timezone(dt.timedelta(hours=1))), MOMENT.replace(microsecond=1)),
    *(MOMENT.replace(tzinfo=dt.timezone(dt.timedelta(hours=1), "CET")),),
    *(dt.timedelta(1), dt.timedelta(seconds=1), 86400, "P1D"),
    *(UNIQUE, str(UNIQUE), UNIQUE.bytes, UNIQUE.int),
    *(decimal.Decimal("1.5"), 1.5, "1.5", decimal.Decimal("1.50"), fractions.Fraction(3, 2)),
    *(Colour.RED, Shade.RED, Word.RED, "red", Level.ONE, Right.READ, Right.READ | Right.WRITE),
    *([], (), {}, set(), frozenset(), [1, 2], (1, 2), {1, 2}, frozenset({1, 2}), [2, 1], "[1,2]"),
    *([[1], 2], [1, [2]], [(1,)], [[1]], [None], [""], ["a,b"], ["a", "b"], [1, "a"], ["1", "a"]),
    *({"1": 2}, {1: 2}, {True: 2}, {1.0: 2}, {"a": 1, "b": 2}, {("a", 1): 2}, {"a": {"b": 2}}),
    *(collections.OrderedDict(a=1, b=2), collections.OrderedDict(b=2, a=1)),
    *(
        collections.Counter(a=1),
        {"a": 1},
        range(2),
        range(0, 2, 2),
        slice(1),
        slice(1, None, 2),
        ...,
    ),
    *(
        Point(1, 2),
        User(1),
        Guest(1),
        User(2),
        {"number": 1},
        Row(1),
        Frame(1),
        Pair(1),
        Pair(1, 1),
    ),
    *(Pair(User(1)), Pair(Guest(1)), Pair([1]), Pair((1,)), Pair(b"a"), Pair("a")),
    *(Model(number=1), Model(number=2), Model(number=1, more="y"), Loose(number=1)),
    *(Loose.model_validate({"number": 1, "a": 1}), hidden(1), Root([1]), Root([2])),
    *(Keyed(1), Keyed(2), Empty, User, Guest, int, str),
    *(pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("a"), pathlib.Path("a")),
    *(ipaddress.ip_address("::1"), ipaddress.ip_address("127.0.0.1"), "127.0.0.1"),
    *(Open.ONE, Open(2), Open(3), Open("ONE"), OfTold, PARIS, UTC, dt.timezone(dt.timedelta(1e-5))),
    *(collections.deque([1]), collections.deque([1], 2), types.MappingProxyType({"a": 1})),
    *(collections.defaultdict(int), collections.defaultdict(list), collections.defaultdict()),
    *(list[int], list[str], dict[str, int], int | None, Literal["int"], Literal[1], Literal[True]),
    *(Annotated[int, 1], Annotated[int, 2], Callable[[int], str], Callable[[str], int], Generic),
    *(Generic[int], Generic[str], T, Box(1), Box[int](1), Box[str](1)),
    *(ipaddress.ip_network("127.0.0.1"), re.compile("a"), re.compile("a", re.IGNORECASE)),
]


def test_different_arguments_have_different_keys() -> None:
    """Whatever JSON, `==` or `str` would take for the same."""
    keys: dict[str, Any] = {}
    for value in DIFFERENT:
        key = find.key(value)
        assert key not in keys, (value, keys[key])
        keys[key] = value
        assert key.isprintable()
        assert 0 < len(key.encode()) <= 512


def test_nested_arguments_have_different_keys() -> None:
    """As deep as they are: in lists, and as values of dicts."""
    wraps: list[Callable[[Any], Any]] = [lambda one: [one], lambda one: {"key": one}, Pair]
    for wrap in wraps:
        assert len({find.key(wrap(value)) for value in DIFFERENT}) == len(DIFFERENT)


def remembered() -> Memory:
    memory = Memory(1)
    assert memory.double == 2
    return memory


EQUAL: list[tuple[Any, Any]] = [
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({1: 1, "a": 2}, {"a": 2, 1: 1}),
    (set("abcdefgh"), set("hgfedcba")),
    (frozenset({"a", 1}), frozenset({1, "a"})),
    (Model(number=1), Model(number=1, more="x")),
    (User(1), User(1)),
    (Keyed(1), Keyed(1)),
    (dt.timedelta(seconds=60), dt.timedelta(minutes=1)),
    (pathlib.Path("a/b"), pathlib.Path("a") / "b"),
    (typing.Union[int, None], None | int),  # noqa: UP007
    (typing.List[int], list[int]),  # noqa: UP006
    (collections.defaultdict(int, a=1, b=2), collections.defaultdict(int, b=2, a=1)),
    (Memory(1), remembered()),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equal_arguments_have_one_key(one: Any, other: Any) -> None:
    """The order of dicts and sets, and how a value was made, make no difference."""
    assert find.key(one) == find.key(other)


def test_keys_are_the_same_in_each_process() -> None:
    """Sets too, whose order is another in each, and classes without a repr of their own."""
    program = (
        "import test_cached_arguments as m\n"
        "print([m.find.key(v) for v in m.DIFFERENT].__repr__().encode().hex())"
    )
    paths = os.pathsep.join([*sys.path, str(pathlib.Path(__file__).parent)])
    keys = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(keys) == 1


def circle() -> list[Any]:
    values: list[Any] = []
    values.append(values)
    return values


def classes() -> tuple[type, type]:
    def make() -> type:
        class Made:
            pass

        return Made

    return make(), make()


REFUSED: list[Any] = [
    *(Held(), Empty(), object()),
    *(lambda: 1, print, len, threading.Lock(), itertools.count(), iter([1]), (n for n in [1])),
    *(memoryview(b"a"), ValueError("a"), types.SimpleNamespace(a=1), {"a": First}),
    *(Longer(1), LongerRow(1), Queue(), Failure(), Untold(), OfTold(), First, First()),
    *(pydantic.SecretStr("a"), sys, circle(), [Held()], {"a": Held()}, {Level: Held()}),
    *(functools.partial(int), Slotted(), Odd()),
    *(MOMENT.replace(tzinfo=Zone()),),
]


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__name__)
def test_argument_without_a_text_of_its_own_is_refused(value: Any) -> None:
    """Its state cannot be seen, or it would be a secret: the argument is named."""
    with pytest.raises(TypeError, match=r"argument 'value' of .*find.*key="):
        find.key(value)


def test_class_that_a_function_makes_is_refused_when_made_again() -> None:
    """The second of one name may be another; the first one is taken for what the name says."""
    first, second = classes()
    assert find.key(first) == find.key(first)
    with pytest.raises(TypeError, match="several classes are named"):
        find.key(second)


def test_fields_of_made_classes_are_told_apart() -> None:
    """Two dataclasses of one name and module are not one."""
    twins: list[Any] = [
        dataclass(type("Twin", (), {"__annotations__": {"number": int}, "__module__": __name__}))
        for _ in range(2)
    ]
    assert "Twin" in find.key(twins[0](1))
    with pytest.raises(TypeError, match="several classes"):
        find.key(twins[1](1))


def test_attributes_beside_the_fields_are_refused() -> None:
    """They are a state that is not in the key; what a cached property has kept is none."""

    @dataclass
    class Shop:
        number: int
        tags: list[str] = field(default_factory=list[str], compare=False)

        @functools.cached_property
        def double(self) -> int:
            return self.number * 2

    shop = Shop(1)
    before = find.key(shop)
    assert shop.double == 2
    assert find.key(shop) == before
    assert find.key(Shop(1, ["a"])) != before
    vars(shop)["session"] = 1
    with pytest.raises(TypeError, match="attribute 'session'"):
        find.key(shop)


def test_one_call_has_one_key_however_it_is_made() -> None:
    """By position, by name, by default and in any order of names."""
    loose: Any = spread
    same = {
        loose.key(1),
        loose.key(1, 2),
        loose.key(1, second=2),
        loose.key(1, third=3),
        loose.key(1, third=3, second=2),
    }
    assert len(same) == 1
    assert loose.key(1, a=1, b=2) == loose.key(1, b=2, a=1)
    different = [
        loose.key(1, 2, 3),
        loose.key(1, 2, (3,)),
        loose.key(1, 2, [3]),
        loose.key(1, third=4),
        loose.key(1, first=1),
        loose.key(1, first=2),
        loose.key(1, more={"first": 1}),
        loose.key(1, a=1),
        loose.key(1, a="1"),
        loose.key((1, 2)),
        *same,
    ]
    assert len(set(different)) == len(different)
    for args, kwargs in (((), {}), ((), {"first": 1}), ((1, 2), {"second": 2})):
        with pytest.raises(TypeError):
            loose.key(*args, **kwargs)


@pytest.mark.parametrize("text", ["x" * 10_000, "\x00", "\x85", "\u2028", "\ud800", "é" * 300])
async def test_any_text_is_an_argument(text: str) -> None:
    """What is long, or no text for a key, is hashed: user input is no error."""
    key = find.key(text)
    assert key.isprintable()
    assert len(key.encode()) <= 512
    assert key != find.key(text + "x")
