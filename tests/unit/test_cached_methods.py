"""`cached` on methods: the receiver is part of the key, and the attributes of the method are bound."""

from __future__ import annotations

import abc
import functools
import sys
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pydantic
import pytest

from async_redis_cache import AsyncRedisCache, CachedCoroutine, RedisCache, cached

CACHE = AsyncRedisCache.from_url("redis://127.0.0.1:1")
PLAIN = RedisCache.from_url("redis://127.0.0.1:1")
T = TypeVar("T")


class Base:
    @cached(CACHE)
    async def find(self, number: int) -> int:
        return number

    @cached(CACHE)
    @classmethod
    async def outer(cls, number: int) -> int:
        return number

    @classmethod
    @cached(CACHE)
    async def inner(cls, number: int) -> int:
        return number

    @cached(CACHE)
    @staticmethod
    async def static_outer(number: int) -> int:
        return number

    @staticmethod
    @cached(CACHE)
    async def static_inner(number: int) -> int:
        return number

    @cached(PLAIN)
    def plain(self, number: int) -> int:
        return number


class Child(Base):
    @cached(CACHE)
    async def find(self, number: int) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return await super().find(number)

    def of_base(self, number: int) -> str:
        return super().find.key(number)


class Grandchild(Child):
    pass


class Stateful(Base):
    def __init__(self, name: str) -> None:
        self.name = name


class Told(Stateful):
    def __cache_key__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Shop:
    name: str

    @cached(CACHE)
    async def price(self, number: int) -> int:
        return number


class Slotted:
    __slots__ = ("name",)
    name: str

    @cached(CACHE, key="slotted:{self.name}")
    async def price(self) -> int:
        return 1


class Repository(Generic[T]):
    @cached(CACHE)
    async def find(self, number: int) -> int:
        return number


class Meta(type):
    @cached(CACHE)
    async def count(cls) -> int:
        return 1


class One(metaclass=Meta):
    pass


class Two(metaclass=Meta):
    pass


def test_class_of_the_receiver_is_part_of_the_key() -> None:
    """Inherited methods of two classes are two calls."""
    counted: list[Any] = [One, Two]
    keys = {
        Base().find.key(1),
        Child().find.key(1),
        Child().of_base(1),
        Grandchild().find.key(1),
        Base().plain.key(1),
        Child().plain.key(1),
        Base.outer.key(1),
        Child.outer.key(1),
        Grandchild.outer.key(1),
        *(kind.count.key() for kind in counted),
    }
    assert len(keys) == 11
    assert Base().find.key(1) == Base.find.key(Base(), 1)


def test_state_of_the_receiver_is_refused_unless_its_class_tells_it() -> None:
    """Attributes need `key=` or `__cache_key__`; a dataclass uses its fields."""
    with pytest.raises(TypeError, match=r"argument 'self' of .*Base.find .*'name'.*__cache_key__"):
        Stateful("a").find.key(1)
    assert Told("a").find.key(1) == Told("a").find.key(1) != Told("b").find.key(1)
    assert Shop("a").price.key(1) == Shop("a").price.key(1) != Shop("b").price.key(1)
    slotted = Slotted()
    slotted.name = "a"
    assert slotted.price.key() == "slotted:a"


def test_type_parameters_of_the_receiver_are_part_of_the_key() -> None:
    """They are a state that generic classes have, and may use."""
    receivers: list[Any] = [
        Repository(),
        Repository[int](),
        Repository[str](),
        Repository[list[int]](),
    ]
    assert len({receiver.find.key(1) for receiver in receivers}) == 4
    assert Repository[int]().find.key(1) == Repository[int]().find.key(1)


def test_bare_object_is_no_receiver() -> None:
    """Two bare objects, passed to static methods, are meant to be distinct."""
    loose: Any = Base
    for find in (loose.static_outer, loose.static_inner):
        with pytest.raises(TypeError, match="argument 'number'"):
            find.key(object())


def test_class_methods_and_static_methods_are_decorated_in_either_order() -> None:
    """Above and below; the class is part of the key, however the method is reached."""
    assert Base.outer.key(1) == Base().outer.key(1)
    assert Base.static_outer.key(1) == Base().static_outer.key(1)
    assert Base.static_inner.key(1) == Base().static_inner.key(1) == Child.static_inner.key(1)
    inner: Any = Base.inner
    if sys.version_info < (3, 13):
        child: Any = Child.inner
        assert inner.key(1) != child.key(1)
    else:
        # A class method no longer binds what it wraps, but for a call.
        with pytest.raises(TypeError, match="put cached above classmethod"):
            inner.key(1)
        assert inner.key(Base, 1) != inner.key(Child, 1)


async def test_methods_are_called_with_their_receivers() -> None:
    """Each way of reaching a method gives its own arguments to the function."""
    uncached: list[Any] = [
        Base().find.uncached(1),
        Base.outer.uncached(1),
        Base().outer.uncached(1),
        Base.static_outer.uncached(1),
        Base.static_inner.uncached(1),
        Base.find.uncached(Base(), 1),
    ]
    assert [await call for call in uncached] == [1] * 6
    assert Base().plain.uncached(1) == 1


def test_bound_method_equals_itself_as_methods_do() -> None:
    """Each access makes another object; frameworks have them as keys of their tables."""
    one, other = Base(), Base()
    assert one.find == one.find
    assert len({one.find, one.find, other.find, Base.find, Base.find, one.plain}) == 4
    assert Base.outer == Base().outer != Child.outer
    assert one.find != 1


def test_method_of_a_pydantic_model_is_cached() -> None:
    """Pydantic has to be configured to ignore it as a field, like every custom descriptor."""

    class Order(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(ignored_types=(CachedCoroutine,))
        number: int

        @cached(CACHE)
        async def total(self) -> int:
            return self.number

    assert Order(number=1).total.key() == Order(number=1).total.key() != Order(number=2).total.key()


def test_abstract_methods_stay_abstract() -> None:
    """In either order; a class that lacks one is not made."""

    class Above(abc.ABC):
        @abc.abstractmethod
        @cached(CACHE)
        async def find(self) -> int: ...

    class Below(abc.ABC):
        @cached(CACHE)
        @abc.abstractmethod
        async def find(self) -> int: ...

    kinds: list[Any] = [Above, Below]
    for kind in kinds:
        with pytest.raises(TypeError, match="abstract"):
            kind()


def test_properties_stand_above() -> None:
    """`property` and `cached_property` take what is cached; below it they are refused."""

    class Page:
        @property
        @cached(CACHE)
        async def size(self) -> int:
            return 1

        @functools.cached_property
        @cached(CACHE)
        async def text(self) -> int:
            return 1

    assert isinstance(vars(Page)["size"], property)
    loose: Any = property(lambda _: 1)
    with pytest.raises(TypeError, match="property is put above"):
        cached(CACHE)(loose)


def test_methods_are_registered_with_singledispatchmethod() -> None:
    """Its functions are bound as others are."""

    class Show:
        @functools.singledispatchmethod
        def show(self, value: object) -> str:
            return "other"

        @show.register
        @cached(PLAIN, key="text:{value}")
        def text(self, value: str) -> str:
            return value

    show: Any = Show()
    assert show.text.key("a") == "text:a"
    assert show.show(1) == "other"
