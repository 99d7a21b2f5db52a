"""`cached`: keys, types, methods, and the attributes of the decorated function."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest

from async_redis_cache import AsyncRedisCache, RedisCache, cached
from harness import Server
from harness.apis import configured

pytestmark = pytest.mark.depends_on()


@dataclass
class User:
    number: int
    name: str = "A"


@pytest.fixture
async def cache(server: Server) -> AsyncIterator[AsyncRedisCache]:
    async with configured(server.url, key_prefix="dec:") as cache:
        yield cache


@pytest.fixture
def plain_cache(server: Server) -> Iterator[RedisCache]:
    with RedisCache.from_url(server.url, key_prefix="dec:") as cache:
        yield cache


async def test_a_coroutine_function(cache: AsyncRedisCache) -> None:
    """Called once; its result is returned again with its annotated type; the attributes of the function work."""
    calls: list[int] = []

    @cached(cache, timeout=60_000, key="user:{number}")
    async def user(number: int, name: str = "A") -> User:
        """Find one."""
        calls.append(number)
        return User(number, name)

    assert await user(1) == await user(number=1) == await user(1, name="A") == User(1)
    assert calls == [1]
    assert user.key(7) == "user:7"
    assert await cache.retrieve(None, "user:1") == {"number": 1, "name": "A"}
    await user.invalidate(1)
    assert await cache.contains(None, "user:1") is False
    assert await user(1) == User(1)
    assert await user.refresh(1, name="B") == User(1, "B")
    assert await user(1) == User(1, "B")
    assert await user.uncached(1) == User(1)
    assert calls == [1, 1, 1, 1]
    assert vars(user)["__name__"] == "user"
    assert user.__doc__ == "Find one."
    assert inspect.signature(user) == inspect.signature(user.uncached)
    assert await asyncio.gather(*(user(2) for _ in range(50))) == [User(2)] * 50
    assert calls[4:] == [2]


def test_a_plain_function(plain_cache: RedisCache) -> None:
    """The same with the synchronous API."""
    calls: list[int] = []

    @cached(plain_cache, timeout=60_000, key="user:{number}")
    def user(number: int, name: str = "A") -> User | None:
        calls.append(number)
        return User(number, name)

    assert user(1) == user(number=1) == User(1)
    assert calls == [1]
    user.invalidate(1)
    assert user(1) == User(1)
    assert user.refresh(1, "B") == User(1, "B")
    assert user(1) == User(1, "B")
    assert user.uncached(1) == User(1)
    assert user.key(3) == "user:3"


async def test_methods(cache: AsyncRedisCache, plain_cache: RedisCache) -> None:
    """Bound as methods are; a template may use the receiver, and a key by default has it."""

    class Store:
        def __init__(self, name: str) -> None:
            self.name = name
            self.calls = 0

        @cached(cache, key="{self.name}:{number}")
        async def price(self, number: int) -> int:
            self.calls += 1
            return number * 2

        def __cache_key__(self) -> str:
            return self.name

        @cached(cache)
        async def tax(self, number: int) -> float:
            self.calls += 1
            return number / 2

        @cached(plain_cache, key="plain:{self.name}:{number}")
        def plain(self, number: int) -> int:
            self.calls += 1
            return number

    one, two = Store("one"), Store("two")
    assert [await one.price(1), await one.price(number=1), await two.price(1)] == [2, 2, 2]
    assert (one.calls, two.calls) == (1, 1)
    assert one.price.key(1) == "one:1"
    await one.price.invalidate(1)
    assert await one.price.refresh(1) == 2
    assert await one.price.uncached(1) == 2
    assert one.calls == 3
    assert [await one.tax(1), await two.tax(1)] == [0.5, 0.5]
    assert (one.calls, two.calls) == (4, 2)
    assert one.tax.key(1) == Store.tax.key(one, 1) != two.tax.key(1)
    assert list(inspect.signature(one.price).parameters) == ["number"]
    assert await asyncio.to_thread(one.plain, 5) == 5


async def test_keys_of_their_own(cache: AsyncRedisCache) -> None:
    """The qualified name and the arguments, however they are given; the same in each process."""

    @cached(cache)
    async def find(number: int, *more: str, since: date | None = None, **rest: Any) -> int:
        return number

    line = inspect.getsourcelines(find)[1]
    name = f"{__name__}.test_keys_of_their_own.<locals>.find:{line}"
    assert find.key(1) == f"{name}(1,(),null,{{}})"
    assert find.key(1) == find.key(number=1) == find.key(1, since=None)
    keys = {
        find.key(1),
        find.key(2),
        find.key(1, "a"),
        find.key(1, "a", "b"),
        find.key(1, since=date(2026, 1, 2)),
        find.key(1, a=1),
        find.key(1, a="1"),
        find.key(1, a=True),
        find.key(1, a={"b": 1, "c": 2}),
    }
    assert len(keys) == 9
    assert find.key(1, a={"c": 2, "b": 1}) in keys
    assert find.key(1, a=1, b=2) == find.key(1, b=2, a=1)
    for strange in ("x" * 10_000, "\x00", "\x85", "\ud7ff\u2028"):
        assert find.key(1, strange).isprintable()
        assert len(find.key(1, strange).encode()) <= 512
        assert await find(1, strange) == 1
    assert find.key(1, "x" * 10_000) != find.key(1, "x" * 10_001)
    with pytest.raises(TypeError, match="pass key="):
        find.key(1, a=object())
    loose: Any = find
    with pytest.raises(TypeError, match="number"):
        loose.key()


async def test_templates(cache: AsyncRedisCache) -> None:
    """As of `str.format`: attributes, items, formats, braces; the same however a call is made."""

    @cached(cache, key="{{{user.number:03}}}:{row[0]!r}:{user.name}")
    async def find(user: User, row: list[str]) -> int:
        return user.number

    expected = "{007}:'x':A"
    assert find.key(User(7), ["x"]) == find.key(row=["x"], user=User(7)) == expected
    assert find.key(User(7), row=["x"]) == expected
    assert await find(User(7), ["x"]) == 7


def test_mistakes_raise_when_applied(server: Server, plain_cache: RedisCache) -> None:
    """A template that names no argument; a function that is not of the cache's kind."""
    cache = AsyncRedisCache.from_url(server.url)

    async def find(number: int) -> int:
        return number

    def plain(number: int) -> int:
        return number

    for template in ("{numbers}", "{}", "{0}", "x:{user.id}", "{row[id]}"):
        with pytest.raises(TypeError, match="not a parameter"):
            cached(cache, key=template)(find)
    wrong: Any = plain
    with pytest.raises(TypeError, match="caches coroutine functions"):
        cached(cache)(wrong)
    with pytest.raises(TypeError, match="caches plain functions"):
        cached(plain_cache)(find)
    with pytest.raises(ValueError, match="expected '}'"):
        cached(cache, key="{number")(find)


async def test_errors_and_none_are_not_kept(cache: AsyncRedisCache) -> None:
    """An error is raised, None is returned; both call the function again."""
    results: list[Any] = [OSError("down"), None, 3]

    @cached(cache, key="key")
    async def find() -> int | None:
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        found: int | None = result
        return found

    with pytest.raises(OSError, match="down"):
        await find()
    assert [await find(), await find(), await find()] == [None, 3, 3]


async def test_load_options(cache: AsyncRedisCache) -> None:
    """What loading calls can, it can."""
    calls = 0

    @cached(cache, key="key", missing_timeout=60_000, hard_timeout=5_000)
    async def find() -> int | None:
        nonlocal calls
        calls += 1
        return None

    assert [await find(), await find()] == [None, None]
    assert calls == 1


async def test_a_type_that_cannot_be_found(cache: AsyncRedisCache) -> None:
    """The error names the function and what to do; with `type=` the annotation is not resolved.

    Nothing but what the function gives has to exist: arguments are often annotated for type
    checkers alone.
    """

    async def find(_: object = None) -> int:
        return 1

    find.__annotations__["_"] = "Missing"
    assert await cached(cache, key="found")(find)() == 1

    find.__annotations__["return"] = "Missing"
    lost: Any = find
    with pytest.raises(TypeError, match="outside of `if TYPE_CHECKING:`, or pass type="):
        await cached(cache, key="key")(lost)()
    assert await cached(cache, key="key", type=int)(lost)() == 1


async def test_tags(cache: AsyncRedisCache) -> None:
    """Templates, as the key; worked out only when something is loaded."""
    calls: list[int] = []

    @cached(cache, key="{number}:{page}", tags=("user:{number}", "all"))
    async def posts(number: int, page: int = 1) -> list[int]:
        calls.append(number)
        return [number, page]

    for _ in range(2):
        assert [await posts(1), await posts(1, 2), await posts(number=2)] == [
            [1, 1],
            [1, 2],
            [2, 1],
        ]
    await cache.invalidate_tags(None, "user:1")
    assert [await posts(1), await posts(1, 2), await posts(2)] == [[1, 1], [1, 2], [2, 1]]
    assert calls == [1, 1, 2, 1, 1]
    await cache.invalidate_tags(None, "all")
    await posts(2)
    assert calls == [1, 1, 2, 1, 1, 2]


def test_tags_of_a_plain_function(plain_cache: RedisCache) -> None:
    """Likewise by the other API, and for methods."""

    class Shop:
        name = "one"
        calls = 0

        @cached(plain_cache, key="{self.name}:{item}", tags=["shop:{self.name}"])
        def price(self, item: str) -> int:
            self.calls += 1
            return len(item)

    shop = Shop()
    assert shop.price("ball") == shop.price("ball") == 4
    plain_cache.invalidate_tags(None, "shop:one")
    assert shop.price("ball") == 4
    assert shop.calls == 2


@pytest.mark.parametrize("tags", ["user:{number}", ["user:{nobody}"], ["{"]])
async def test_bad_tag_templates(tags: Any, cache: AsyncRedisCache) -> None:
    """Found when the decorator is applied."""
    decorate = cached(cache, key="{number}", tags=tags)
    with pytest.raises((TypeError, ValueError)):

        @decorate
        async def find(number: int) -> int:
            return number
