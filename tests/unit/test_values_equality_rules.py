"""Which objects count as equal though `==` says otherwise, which are not checked, and how a field is named."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
import uuid
from typing import Any, Generic, TypeVar
from zoneinfo import ZoneInfo

import pydantic
import pytest
from pydantic import BaseModel, ConfigDict, Field

from async_redis_cache import CacheInputError
from async_redis_cache._common.options import Options
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._values.codec import Codec

T = TypeVar("T")
FOLDED = dt.datetime(2024, 11, 3, 1, 30, fold=1, tzinfo=ZoneInfo("America/New_York"))


@dataclasses.dataclass
class Event:
    """A moment, a share and anything."""

    at: dt.datetime
    share: float = 0.0
    more: Any = None


class Open(BaseModel):
    """Fields that nobody has declared."""

    model_config = ConfigDict(extra="allow")
    number: int = Field(default=0, alias="no")


class Tree(BaseModel):
    """Models in lists and dicts."""

    leaves: list[Open] = []
    named: dict[str, Open] = {}
    shares: list[float] = []


class Cut(BaseModel):
    """A validator that drops all but the first."""

    parts: list[int]

    @pydantic.field_validator("parts")
    @classmethod
    def _first(cls, parts: list[int]) -> list[int]:
        return parts[:1]


@dataclasses.dataclass
class Lost:
    """Its annotation cannot be resolved, so nothing can be made of it."""

    number: int
    other: Missing | None = None  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable]


@dataclasses.dataclass
class Box(Generic[T]):
    """Generic: what is in it is said by who asks."""

    item: T


class Duck:
    """No model of pydantic's, with the same methods."""

    def __init__(self, number: Any) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Duck) and self.number == other.number

    __hash__ = None  # type: ignore[assignment]

    def model_dump(self, mode: str) -> dict[str, Any]:
        """As pydantic's."""
        return {"number": self.number}

    @classmethod
    def model_validate(cls, value: Any) -> Duck:
        """As pydantic's."""
        return cls(value["number"])


def codec(serializer: str) -> Codec:
    """What translates values, without a server."""
    return Codec(Options(serializer=serializer), None, CacheStats())


def back(serializer: str, value: Any, kind: Any) -> Any:
    """What comes back of a value."""
    both = codec(serializer)
    return both.loads(b"key", both.dumps(b"key", value), both.decoder(kind))


def place(serializer: str, value: Any) -> str:
    """Where the error says that it is."""
    with pytest.raises(CacheInputError) as caught:
        codec(serializer).dumps(b"key", value)
    return caught.value.message.removeprefix("cannot be serialized: ").partition(": ")[0]


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_same_moment_is_equal_where_the_clock_was_put_back(serializer: str) -> None:
    """Python says of two zones' times in that hour that they differ; they are one moment."""
    found = back(serializer, Event(FOLDED), Event)
    assert found.at.astimezone(dt.UTC) == FOLDED.astimezone(dt.UTC)
    naive = Event(dt.datetime(2024, 2, 29, 12))  # noqa: DTZ001
    assert back(serializer, naive, Event) == naive


def test_nan_is_equal_in_message_pack() -> None:
    """NaN does not equal itself, and comes back."""
    found = back("msgpack", Event(FOLDED, float("nan")), Event)
    assert math.isnan(found.share)
    shares = back("msgpack", Tree(shares=[float("nan"), float("inf")]), Tree).shares
    assert math.isnan(shares[0])
    assert shares[1] == float("inf")


def test_class_that_cannot_be_made_is_stored_unchecked() -> None:
    """An annotation that cannot be resolved, a generic class without parameters: only parts are checked."""
    assert back("json", Lost(1), dict) == {"number": 1, "other": None}
    assert place("json", Lost(1, b"x")) == "Lost.other"
    assert back("json", Box(Open(no=1)), Box[Open]) == Box(Open(no=1))
    assert back("json", Duck(5), Duck) == Duck(5)
    assert back("msgpack", [Duck(5)], list[Duck]) == [Duck(5)]
    assert place("json", Duck(b"x")) == "[...]"


def test_place_is_the_first_field_that_differs() -> None:
    """In lists, dicts, extra fields; keys of dicts are not named."""
    wrong = Open.model_construct(number="x")
    for serializer in ("json", "msgpack"):
        assert (
            place(serializer, Open.model_validate({"secret": dt.date(2024, 2, 29)}))
            == "Open.secret"
        )
        assert (
            place(serializer, Tree.model_construct(leaves=[Open(), wrong]))
            == "Tree.leaves[1].number"
        )
        named = Tree.model_construct(named={"hunter2": wrong})
        assert place(serializer, named) == "Tree.named[...].number"
        assert place(serializer, Cut.model_construct(parts=[1, 2])) == "Cut.parts"
        assert place(serializer, Event(FOLDED, more={"a": {1}})) == "Event.more[...]"
        assert place(serializer, [Event(FOLDED), Event(FOLDED, more=(1,))]) == "[1].more"


def test_keys_of_message_pack_that_would_collide_are_refused() -> None:
    """A UUID becomes the text that may be there already."""
    number = uuid.UUID(int=5)
    with pytest.raises(CacheInputError, match="would become the same"):
        codec("msgpack").dumps(b"key", {number: 1, str(number): 2})
    assert back("msgpack", {number: 1}, dict[uuid.UUID, int]) == {number: 1}


def test_type_that_cannot_be_hashed_is_asked_for() -> None:
    """Its decoder is made once for as long as the type is the same object."""
    from typing import Annotated

    kind: Any = Annotated[int, ["a list has no hash"]]
    both = codec("json")
    assert both.decoder(kind) is both.decoder(kind)
    assert both.loads(b"key", b"5", both.decoder(kind)) == 5
