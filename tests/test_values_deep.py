"""What would be damaged is found at every depth, among keys too, and the message names its place."""

from __future__ import annotations

import dataclasses
import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from async_redis_cache import CacheInputError
from async_redis_cache._codec import Codec
from async_redis_cache._counters import CacheStats
from async_redis_cache._options import Options

MINUTES = dt.timezone(dt.timedelta(minutes=19, seconds=32))
MOMENT = dt.datetime(2024, 2, 29, 12, tzinfo=MINUTES)


@dataclasses.dataclass
class Holder:
    """A field of any type."""

    item: Any


@dataclasses.dataclass(frozen=True)
class Name:
    """A dataclass that can be the key of a dict."""

    text: str


@dataclasses.dataclass
class Price:
    """A number that may be none."""

    amount: Decimal


@dataclasses.dataclass
class Pairs:
    """A set of what JSON gives back as lists."""

    pairs: set[Any]


class Text(BaseModel):
    """A model with a text."""

    text: str


class OwnKind(BaseModel):
    """A model that can be compared with its own kind alone."""

    number: int

    def __eq__(self, other: object) -> bool:
        own: Any = other
        return bool(self.number == own.number)

    __hash__ = None  # type: ignore[assignment]


class Id(int):
    """A number with a meaning."""


def codec(serializer: str) -> Codec:
    """What translates values, without a server."""
    return Codec(Options(serializer=serializer), None, CacheStats())


def refusal(serializer: str, value: Any) -> str:
    """What the error says, with the place in front."""
    with pytest.raises(CacheInputError) as caught:
        codec(serializer).dumps(b"key", value)
    assert caught.value.code == "NOT_SERIALIZABLE"
    return caught.value.message.removeprefix("cannot be serialized: ")


def back(serializer: str, value: Any, kind: Any) -> Any:
    """What comes back of a value."""
    both = codec(serializer)
    return both.loads(b"key", both.dumps(b"key", value), both.decoder(kind))


DAMAGED: list[tuple[Any, str, str]] = [
    (Holder((1,)), ".item", "would not come back equal"),
    (MOMENT.timetz(), "", "offset has seconds"),
    ({MOMENT.timetz(): 1}, "", "offset has seconds"),
    ({uuid.UUID(int=5): 1, str(uuid.UUID(int=5)): 2}, "", "become the same"),
    ({Name("a"): 1}, "", ""),
    ("\ud800", "", "UnicodeEncodeError"),
    ({"\ud800": 1}, "", "UnicodeEncodeError"),
    (Text(text="\ud800"), ".text", "UnicodeEncodeError"),
    (Holder("\ud800"), ".item", "UnicodeEncodeError"),
    (msgspec.Raw(b"[1"), "", "msgspec.Raw"),
]
ONLY_JSON: list[tuple[Any, str, str]] = [
    (Pairs({(1, 2)}), ".pairs", "would not come back equal"),
    ({MOMENT: 1}, "", "offset has seconds"),
    ({True: 1}, "", "not bytes, bool or float"),
]
ONLY_MSGPACK: list[tuple[Any, str, str]] = [
    (2**64, "", "OverflowError"),
    (Holder(2**64), ".item", "OverflowError"),
    ({Name("a"): 1}, "", "cannot be a key"),
]


@pytest.mark.parametrize(
    ("serializer", "damaged"),
    [("json", DAMAGED + ONLY_JSON), ("msgpack", DAMAGED + ONLY_MSGPACK)],
    ids=["json", "msgpack"],
)
def test_store_names_the_place_of_damage_at_every_depth(
    serializer: str, damaged: list[tuple[Any, str, str]]
) -> None:
    """Objects, keys that collide, time offsets, lone surrogates: refused as the value and deep in it."""
    for value, place, problem in damaged:
        kind = type(value).__name__ if place else ""
        start = f"{kind}{place}"
        assert refusal(serializer, value).startswith(f"{start}: " if start else "")
        deep = [1, {"a": {"b": [None, value]}}]
        refused = refusal(serializer, deep)
        assert refused.startswith(f"[1][...][...][1]{place}: ")
        assert problem in refused


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_plain_data_is_stored_at_every_depth(serializer: str) -> None:
    """What comes back equal, or as documented, is not refused."""
    value = {"a": [{"b": (1, 2.5, None)}, {"c": {True}}], "d": {7: MOMENT.astimezone(dt.UTC)}}
    codec(serializer).dumps(b"key", value)
    plain = [1, {"a": {"b": [None, 1.5, "text", {"c": True}]}}]
    assert back(serializer, plain, None) == plain


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_object_that_compares_its_own_kind_alone_comes_back(serializer: str) -> None:
    """An `__eq__` that raises for other types is no reason to refuse."""
    for value, kind in (
        (OwnKind(number=1), OwnKind),
        ({"a": {"b": OwnKind(number=1)}}, dict[str, dict[str, OwnKind]]),
    ):
        assert back(serializer, value, kind) == value


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_nan_of_decimal_comes_back(serializer: str) -> None:
    """It does not equal itself, and a signalling one raises when it is compared."""
    for text in ("NaN", "-NaN", "sNaN5"):
        found = back(serializer, [Price(Decimal(text))], list[Price])
        assert str(found[0].amount) == text


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_key_of_a_subclass_of_int_comes_back(serializer: str) -> None:
    """JSON has text in its place; as a value, text is no number."""
    found = back(serializer, {Id(5): Id(6)}, dict[Id, Id])
    assert found == {5: 6}
    assert {*map(type, found), *map(type, found.values())} == {Id}
    for other in ({"05": 6}, {"five": 6}):
        assert back(serializer, other, dict[Id, Id]) is None
    assert back(serializer, {"a": "5"}, dict[str, Id]) is None
