"""Damage is found at every depth, in keys too, and the message names its place."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import uuid
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
import pydantic
import pytest
from pydantic import BaseModel

from async_redis_cache import CacheInputError
from async_redis_cache._common.options import Options
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._values.codec import Codec

T = TypeVar("T")
MINUTES = dt.timezone(dt.timedelta(minutes=19, seconds=32))
NAIVE = dt.datetime(2024, 2, 29, 12)  # noqa: DTZ001
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
    ({True: 1}, "", "a dict key has the type bool"),
]
ONLY_MSGPACK: list[tuple[Any, str, str]] = [
    (2**64, "", "OverflowError"),
    (Holder(2**64), ".item", "OverflowError"),
    ({Name("a"): 1}, "", "cannot be a dict key"),
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
        # From msgspec 0.23 on, a set of tuples is refused for its first item.
        assert re.match(
            rf"{re.escape(start)}(\[0\])?: " if start else "", refusal(serializer, value)
        )
        deep = [1, {"a": {"b": [None, value]}}]
        refused = refusal(serializer, deep)
        assert re.match(rf"\[1]\[\.\.\.]\[\.\.\.]\[1]{re.escape(place)}(\[0\])?: ", refused)
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


class Raising(BaseModel):
    """It cannot be dumped, and none of its fields is why."""

    number: int

    @pydantic.model_serializer
    def _dumped(self) -> dict[str, int]:
        raise ZeroDivisionError


class Refusing(BaseModel):
    """Its validator raises what is no error of validation."""

    number: int

    @pydantic.field_validator("number")
    @classmethod
    def _checked(cls, number: int) -> int:
        return number // number


class Own(BaseModel):
    """It validates JSON by a method of its own."""

    number: int

    @classmethod
    def model_validate_json(cls, json_data: Any, **_: Any) -> Own:
        """Any number plus one."""
        return cls(number=msgspec.json.decode(json_data)["number"] + 1)


class Cat(BaseModel):
    """One of a union."""

    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    """The other of a union."""

    kind: Literal["dog"] = "dog"


class Owner(BaseModel):
    """A union told apart by a field, whose name stands in pydantic's place of an error."""

    pets: list[Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]]


class Page(BaseModel, Generic[T]):
    """A generic model."""

    items: list[T]


class Private(BaseModel):
    """Attributes that are not dumped."""

    shown: int = 1
    _same: int = pydantic.PrivateAttr(default=1)
    _other: int = pydantic.PrivateAttr(default=1)


@dataclasses.dataclass
class Ordered:
    """Each of its fields can be made, and both together cannot."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError


class Cut(msgspec.Struct):
    """A field may be deleted."""

    number: int = 1


class Either(BaseModel):
    """A union, whose members stand in pydantic's place of an error."""

    item: int | str


class Growing(BaseModel):
    """Its validator adds a field that nothing declares."""

    model_config = pydantic.ConfigDict(extra="allow")
    number: int = 1

    @pydantic.model_validator(mode="before")
    @classmethod
    def _grown(cls, fields: Any) -> Any:
        return {**fields, "more": 1}


class Decoding:
    """No model of pydantic's, which makes itself of JSON."""

    def __init__(self, number: int) -> None:
        self.number = number

    @classmethod
    def model_validate_json(cls, data: bytes) -> Decoding:
        """As pydantic's."""
        return cls(msgspec.json.decode(data)["number"])


class Unlike(str):
    """Text that equals none."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return False


def changed() -> list[Any]:
    """Objects that were changed into what their classes would not make."""
    private, ordered, cut = Private(), Ordered(1, 2), Cut()
    private._other = 5
    ordered.low = 3
    del cut.number
    return [private, ordered, cut]


PRIVATE, ORDERED, CUT = changed()
PLACES: list[tuple[Any, str]] = [
    (Raising(number=1), "Raising: PydanticSerializationError"),
    (Refusing.model_construct(number=0), "Refusing: would"),
    (Own(number=1), "Own.number: would"),
    (Owner.model_construct(pets=[Dog(), Cat.model_construct(lives="x")]), "Owner.pets[1].lives: "),
    (Either.model_construct(item=1.5), "Either.item: would"),
    (Growing.model_construct(number=1), "Growing: would"),
    (
        dataclasses.make_dataclass("Pair", [("at", dt.datetime), ("more", Any)])(NAIVE, (1,)),
        "Pair.more: ",
    ),
    (PRIVATE, "Private._other: would"),
    (ORDERED, "Ordered: would"),
    (CUT, "Cut: "),
    (Unlike("a"), "the type Unlike is not supported"),
    ([Unlike("a")], "[0]: the type Unlike is not supported"),
]

PLACES_IN_JSON: list[tuple[Any, str]] = [
    (Page(items=[Holder(b"x")]), "Page.items[0].item: JSON cannot represent bytes"),
]


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_store_says_where_and_why(serializer: str) -> None:
    """Whatever raises when an object is dumped, validated or made: the message names type and field."""
    for value, start in PLACES if serializer == "msgpack" else PLACES + PLACES_IN_JSON:
        assert refusal(serializer, value).startswith(start)


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_store_says_where_to_a_hundred_steps(serializer: str) -> None:
    """Deeper, the place is that of what holds the part."""
    value: Any = "\ud800"
    for _ in range(150):
        value = [value]
    assert refusal(serializer, value) == f"{'[0]' * 100}: UnicodeEncodeError"


def test_classes_are_known_for_as_long_as_there_is_room() -> None:
    """The memory for classes is bounded, and forgotten ones are inspected again."""
    kinds = [dataclasses.make_dataclass(f"Kind{number}", [("item", Any)]) for number in range(300)]
    both = codec("json")
    for kind in (*kinds, kinds[0]):
        assert both.dumps(b"key", kind(1)) == b'{"item":1}'
        with pytest.raises(CacheInputError, match="item: would not come back equal"):
            both.dumps(b"key", kind((1,)))


def test_class_that_decodes_json_itself_is_a_type() -> None:
    """It need not be a model of pydantic's."""
    both = codec("json")
    found = both.loads(b"key", b'{"number":5}', both.decoder(Decoding))
    assert isinstance(found, Decoding)
    assert found.number == 5
