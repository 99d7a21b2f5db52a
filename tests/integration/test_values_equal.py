"""A stored value comes back equal and of the same type, or the store is refused and names the field."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import uuid
from inspect import signature
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic
import pytest
from markupsafe import Markup
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, RootModel, SecretStr
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from async_redis_cache import AsyncRedisCache, CacheInputError
from harness.apis import configured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from harness import Client, Server

pytestmark = pytest.mark.depends_on()

T = TypeVar("T")


class Alias(BaseModel):
    """A field with an alias."""

    first_name: str = Field(alias="firstName")


class Generated(BaseModel):
    """Aliases made of the names."""

    model_config = ConfigDict(alias_generator=to_camel)
    first_name: str
    inner: list[Alias] = []


class Validated(BaseModel):
    """Aliases for validation alone, of each kind."""

    one: int = Field(validation_alias="uno", serialization_alias="un")
    two: int = Field(validation_alias=AliasChoices("duo", "deux"))
    three: int = Field(validation_alias=AliasPath("all", 2))


class Swapped(BaseModel):
    """Each has the other's name as its alias."""

    a: int = Field(alias="b")
    b: int = Field(alias="a")


class Computed(BaseModel):
    """What is computed is dumped, and forbidden to be validated."""

    model_config = ConfigDict(extra="forbid")
    width: int

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> int:
        """Its square."""
        return self.width**2


class Strict(BaseModel):
    """Text is no date and a list no set, unless in JSON."""

    model_config = ConfigDict(strict=True)
    day: dt.date
    ids: set[uuid.UUID]


class Excluded(BaseModel):
    """A field that is not dumped."""

    shown: int
    hidden: int = Field(default=0, exclude=True)


class Private(BaseModel):
    """An attribute that is not dumped."""

    shown: int
    _hidden: int = pydantic.PrivateAttr(default=0)


class Secret(BaseModel):
    """A field that is dumped as asterisks."""

    password: SecretStr


class Line(BaseModel):
    """Part of the next."""

    price: SecretStr


class Order(BaseModel):
    """A field deep in it does not come back."""

    lines: list[Line]


class Cat(BaseModel):
    """One of a union."""

    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    """The other of a union."""

    kind: Literal["dog"] = "dog"
    name: str = "Rex"


class Owner(BaseModel):
    """A union told apart by a field."""

    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


class Animal(BaseModel):
    """What a field is declared as."""

    name: str


class Bird(Animal):
    """What the field holds."""

    wings: int = 2


class Zoo(BaseModel):
    """A field with an instance of a subclass."""

    animal: Animal


class Page(BaseModel, Generic[T]):
    """A generic model."""

    items: list[T]


class Numbers(RootModel[list[int]]):
    """A model that is a list."""


class Maybe(RootModel[int | None]):
    """A model that may be nothing."""


class Event(BaseModel):
    """A field of any type."""

    payload: Any


class Binary(BaseModel):
    """Bytes that are no text."""

    data: bytes


class Serialized(BaseModel):
    """A field that is dumped as something else."""

    number: int

    @pydantic.field_serializer("number")
    def _next(self, number: int) -> int:
        return number + 1


@pydantic_dataclass
class Pydantic:
    """A dataclass of pydantic's."""

    model: Alias
    day: dt.date = Field(default=dt.date(2024, 2, 29), alias="date")


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    """A dataclass with models in it."""

    model: Alias | None
    models: dict[str, list[Generated]] = dataclasses.field(
        default_factory=dict[str, list[Generated]]
    )
    total: int = dataclasses.field(init=False, default=7)


@dataclasses.dataclass
class Derived:
    """A field that is made of another when it is created."""

    half: int
    whole: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.whole = self.half * 2


@dataclasses.dataclass
class Doubled:
    """Made again of what it holds, it is another."""

    number: int

    def __post_init__(self) -> None:
        self.number *= 2


@dataclasses.dataclass(eq=False)
class Identical:
    """Equal to itself alone."""

    number: int


@attrs.define
class Hidden:
    """A private attribute, which msgspec does not see."""

    number: int
    _secret: int = 1


class Renamed(msgspec.Struct, rename="camel", tag="renamed", forbid_unknown_fields=True):
    """A Struct with everything that Structs have."""

    first_name: str
    model: Alias | None = None


class Colour(enum.Enum):
    """Text."""

    RED = "red"


class Point(NamedTuple):
    """A tuple with names."""

    model: Alias
    colour: Colour


class Profile(TypedDict):
    """A dict with names."""

    model: Alias
    colours: dict[Colour, int]


@dataclasses.dataclass
class Marked:
    """Text and numbers of subclasses."""

    html: Markup


ALIAS = Alias(firstName="Ann")
GENERATED = Generated.model_validate({"firstName": "Ann", "inner": [ALIAS]})
VALIDATED = Validated.model_validate({"uno": 1, "deux": 2, "all": [1, 2, 3]})
MINUTES = dt.timezone(dt.timedelta(minutes=19, seconds=32))
CHANGED = Private(shown=1)
CHANGED._hidden = 5
DERIVED = Derived(2)
DERIVED.whole = 3
HIDDEN = Hidden(1)
HIDDEN._secret = 5  # pyright: ignore[reportPrivateUsage]
FOLDED = dt.datetime(2024, 11, 3, 1, 30, fold=1, tzinfo=ZoneInfo("America/New_York"))

EQUAL: list[tuple[Any, Any]] = [
    (ALIAS, Alias),
    (GENERATED, Generated),
    # Before 2.11 pydantic knows fields by their aliases alone, and dumps no validation aliases.
    *([(VALIDATED, Validated)] if "by_name" in signature(Alias.model_validate).parameters else []),
    (Swapped.model_validate({"a": 1, "b": 2}), Swapped),
    (Computed(width=3), Computed),
    (Strict(day=dt.date(2024, 2, 29), ids={uuid.UUID(int=5)}), Strict),
    (Excluded(shown=1), Excluded),
    (Private(shown=1), Private),
    (Owner(pet=Dog()), Owner),
    (Bird(name="Tit"), Bird),
    (Page[Alias](items=[ALIAS]), Page[Alias]),
    (Page(items=[ALIAS]), Page[Alias]),
    (Numbers([1, 2]), Numbers),
    (Event(payload={"a": [1]}), Event),
    (Pydantic(model=ALIAS, date=dt.date(2024, 3, 1)), Pydantic),
    (Frozen(ALIAS, {"a": [GENERATED]}), Frozen),
    (Frozen(None), Frozen),
    (Derived(2), Derived),
    (Hidden(1), Hidden),
    (Renamed("Ann", ALIAS), Renamed),
    (Point(ALIAS, Colour.RED), Point),
    (Profile(model=ALIAS, colours={Colour.RED: 1}), Profile),
    (Marked(Markup("<b>")), Marked),
    (Markup("<b>"), Markup),
    (Dog(name="Tim"), Cat | Dog),
    ([Cat(), Dog()], list[Cat | Dog]),
    (Dog(), Annotated[Cat | Dog, Field(discriminator="kind")]),
    ({Colour.RED: 1}, dict[Colour, int]),
]
REFUSED: list[tuple[Any, str]] = [
    (Secret(password=SecretStr("hunter2")), "Secret.password"),
    (Order(lines=[Line(price=SecretStr("hunter2"))]), "Order.lines[0].price"),
    (Excluded(shown=1, hidden=5), "Excluded.hidden"),
    (CHANGED, "Private._hidden"),
    (Zoo(animal=Bird(name="Tit")), "Zoo.animal"),
    (Page(items=[Secret(password=SecretStr("hunter2"))]), "Page.items[0].password"),
    (Event(payload=ALIAS), "Event.payload"),
    (Event(payload=(1, 2)), "Event.payload"),
    (Binary(data=b"\xff"), "Binary.data"),
    (Serialized(number=1), "Serialized.number"),
    (Animal.model_construct(name=5), "Animal.name"),
    (DERIVED, "Derived.whole"),
    (Doubled(2), "Doubled.number"),
    (HIDDEN, "Hidden._secret"),
    ((CHANGED,), "[0]._hidden"),
]


@pytest.fixture(params=["json", "msgpack"])
async def cache(server: Server, request: pytest.FixtureRequest) -> AsyncIterator[AsyncRedisCache]:
    """An open cache with each of the serializers that convert."""
    async with configured(server.url, serializer=request.param, key_prefix="equal:") as opened:
        yield opened
        await opened.clear(None)


async def test_value_is_equal_when_retrieved_as_its_type(cache: AsyncRedisCache) -> None:
    """Aliases, computed fields, unions, generics, models in any class: what comes back is equal."""
    retrieve: Any = cache.retrieve
    for value, kind in EQUAL:
        await cache.store(None, "key", value)
        found = await retrieve(None, "key", type=kind)
        assert found == value
        assert isinstance(found, type(value))
    assert cache.stats().unreadable == 0


async def test_value_is_equal_when_held_in_lists_and_dicts(cache: AsyncRedisCache) -> None:
    """The same, wherever the value stands."""
    retrieve: Any = cache.retrieve
    for value, kind in EQUAL:
        held = [{"a": {"b": [value, value]}}]
        await cache.store(None, "key", held)
        item: Any = list[kind]  # type: ignore[valid-type]
        assert await retrieve(None, "key", type=list[dict[str, dict[str, item]]]) == held


async def test_store_names_the_field_that_would_not_come_back(cache: AsyncRedisCache) -> None:
    """Secrets, excluded and private fields, subclasses: refused, whose field is named, not its value."""
    trips = cache.stats().round_trips
    for value, place in REFUSED:
        inside = place.removeprefix(type(value).__name__)
        for stored, expected in (
            (value, place),
            ([value], f"[0]{inside}"),
            ({"hunter2": value}, f"[...]{inside}"),
        ):
            with pytest.raises(CacheInputError) as caught:
                await cache.store(None, "key", stored)
            assert caught.value.code == "NOT_SERIALIZABLE"
            assert caught.value.message.startswith(f"cannot be serialized: {expected}: ")
            assert "hunter2" not in str(caught.value)
            assert caught.value.__cause__ is caught.value.__context__ is None
    assert cache.stats().round_trips == trips


async def test_store_refuses_offsets_with_seconds_that_would_be_rounded(server: Server) -> None:
    """JSON has minutes only, wherever the time stands; MessagePack stores the moment."""
    moment = dt.datetime(2024, 2, 29, 12, tzinfo=MINUTES)
    async with configured(server.url, key_prefix="offsets:") as cache:
        for value in (moment, [moment], {"a": {"b": moment}}, moment.timetz()):
            with pytest.raises(CacheInputError, match="offset has seconds"):
                await cache.store(None, "key", value)
        await cache.store(None, "key", FOLDED)
        found = await cache.retrieve(None, "key", type=dt.datetime)
        assert found is not None
        assert found.astimezone(dt.UTC) == FOLDED.astimezone(dt.UTC)
        await cache.clear(None)
    async with configured(server.url, serializer="msgpack", key_prefix="offsets:") as cache:
        await cache.store(None, "key", [moment])
        assert await cache.retrieve(None, "key") == [moment]
        with pytest.raises(CacheInputError, match="offset has seconds"):
            await cache.store(None, "key", moment.timetz())
        await cache.clear(None)


async def test_store_refuses_what_would_be_null(cache: AsyncRedisCache) -> None:
    """A null is no value: whatever would become one could never be retrieved."""

    class Nothing(enum.Enum):
        """A member whose value is None."""

        NONE = None

    for value in (Maybe(None), Nothing.NONE):
        with pytest.raises(CacheInputError, match="null, which is not a value"):
            await cache.store(None, "key", value)


async def test_object_without_equality_is_compared_by_its_fields(cache: AsyncRedisCache) -> None:
    """A class without `__eq__` is no reason to refuse."""
    await cache.store(None, "key", Identical(5))
    found = await cache.retrieve(None, "key", type=Identical)
    assert found is not None
    assert found.number == 5


async def test_text_and_numbers_of_subclasses_are_stored_as_what_they_equal(
    cache: AsyncRedisCache,
) -> None:
    """`Markup` is stored as text, and comes back as Markup where that is asked for."""

    class Metres(float):
        """A number with a meaning."""

    value = {"html": [Markup("<b>")], "height": Metres(1.5)}
    await cache.store(None, "key", value)
    found = await cache.retrieve(None, "key")
    assert found == value
    assert type(found["html"][0]) is str
    assert type(await cache.retrieve(None, "key", type=dict[str, Any])) is dict


async def test_stored_by_alias_is_read(server: Server, raw: Client) -> None:
    """What another program has stored by a model's aliases is that model too."""
    async with configured(server.url, key_prefix="aliased:") as cache:
        raw.set("aliased:key", b'{"firstName":"Ann","inner":[{"firstName":"Ann"}]}')
        assert await cache.retrieve(None, "key", type=Generated) == GENERATED
        await cache.clear(None)
