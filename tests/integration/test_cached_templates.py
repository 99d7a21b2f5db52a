"""`cached(key=...)`: what a template produces, and what it refuses."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import re
import uuid
from dataclasses import dataclass
from typing import Any

import pydantic
import pytest

from async_redis_cache import AsyncRedisCache, cached
from harness import Server

pytestmark = pytest.mark.depends_on()

CACHE = AsyncRedisCache.from_url("redis://127.0.0.1:1")
Function = Any


def of(key: str, **options: Any) -> Function:
    """A function of three arguments with this template as its key."""

    @cached(CACHE, key=key, **options)
    async def find(a: Any, b: Any = None, c: Any = None) -> int:
        return 1

    return find


@dataclass
class User:
    id: int
    name: str


class Opaque:
    pass


def test_template_gives_what_format_gives() -> None:
    """For one field always: other code can name the key, to remove it."""
    user, day, unique = User(7, "A"), dt.date(2026, 1, 2), uuid.UUID(int=1)
    cases: list[tuple[str, tuple[Any, ...], str]] = [
        ("user:{a}", ("a:b%c",), "user:a:b%c"),
        ("user:{a}", (1,), "user:1"),
        ("user:{a!r}", ("1",), "user:'1'"),
        ("{a.id:03}:{b[0]}:{c}", (user, ["x"], "y:z"), "007:x:y:z"),
        ("{a}/{b}", (day, unique), f"2026-01-02/{unique}"),
        ("{a}:{b}", (1.5, None), "1.5:None"),
        ("{{{a}}}:{a}", ("x",), "{x}:x"),
        ("{a}:{b}", ([1, "a"], True), "[1, 'a']:True"),
        ("all", (Opaque(),), "all"),
    ]
    for template, args, expected in cases:
        assert of(template).key(*args) == expected


@pytest.mark.parametrize(
    "template", ["{a}:{b}:{c}", "{a}::{b}-{c}", "{a}x{b}9z{c}", "{a}é{b}/{c}/x"]
)
def test_values_cannot_move_between_fields(template: str) -> None:
    """A value that holds what stands between two fields is not taken for two values."""
    find = of(template)
    texts = ["", "a", ":", "a:b", "%", "%3A", "::", "x", "9", "-", "-a", "/", "é", "z", "9z"]
    keys = {find.key(*values) for values in itertools.product(texts, repeat=3)}
    assert len(keys) == len(texts) ** 3


@pytest.mark.parametrize("template", ["{a}{b}", "{a}1{b}", "{a}%{b}", "x{a}{b!r}"])
def test_fields_with_nothing_to_tell_them_apart_are_refused_when_decorated(template: str) -> None:
    """("ab", "c") and ("a", "bc") would be one call."""
    with pytest.raises(TypeError, match="between them"):
        of(template)


@pytest.mark.parametrize(
    "value",
    [
        Opaque(),
        [Opaque()],
        {"a": Opaque()},
        {1, 2},
        [{1}],
        lambda: 1,
        object(),
        iter([1]),
        pydantic.SecretStr("a"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_value_without_a_stable_text_is_refused(value: Any) -> None:
    """An address or the order of a set is another in each process; a secret is none of a key's."""
    with pytest.raises(TypeError, match=re.escape("{a}")):
        of("key:{a}").key(value)


def test_nested_fields_are_refused_when_decorated() -> None:
    """They would name arguments that nothing has looked at."""
    with pytest.raises(TypeError, match="nested field"):
        of("{a:{b}}")


@pytest.mark.parametrize("text", ["", "a\n{a}", "x" * 513])
def test_template_that_gives_no_key_is_refused_when_decorated(text: str) -> None:
    """The cache would refuse it at each call, whatever the arguments."""
    with pytest.raises(TypeError, match="control characters"):
        of(text)
    with pytest.raises(TypeError, match="control characters"):
        of("key", tags=[text])


@pytest.mark.parametrize("key", ["{a", "a}", "{a.}", "{a[}", "{a[]}", "{a]}", "{a!x}", "{a!}"])
def test_template_that_is_none_is_refused_when_decorated(key: str) -> None:
    """As `str.format` refuses it, but not at the first call."""
    with pytest.raises((ValueError, TypeError)):
        of(key)
    with pytest.raises((ValueError, TypeError)):
        of("key", tags=[key])


@pytest.mark.parametrize("key", [1, b"a", object()])
def test_template_that_is_no_text_is_refused_when_decorated(key: Any) -> None:
    """Not at the first call."""
    with pytest.raises(TypeError, match="must be a str"):
        of(key)
    with pytest.raises(TypeError, match="must be a str"):
        of("key", tags=[key])


@pytest.mark.parametrize("url", ["x" * 513, "é" * 300, "a\nb", "\ud800", "", "\x7f"])
def test_key_that_the_cache_refuses_is_hashed_if_asked_for(url: str) -> None:
    """With `long_keys="hash"` what a user sends is no error; others keep their keys."""
    find = of("{a}", long_keys="hash")
    key = find.key(url)
    assert re.fullmatch("#[0-9a-f]{64}", key)
    assert find.key(url + "x") != key
    assert find.key("https://host/path") == "https://host/path"
    assert of("page:{a}:{b}", long_keys="hash").key("x" * 600, 1).startswith("page:#")


@pytest.mark.parametrize("url", ["x" * 513, "a\nb", "\ud800"])
async def test_tag_that_the_cache_refuses_is_hashed_if_asked_for(server: Server, url: str) -> None:
    """As the key is: what a user sends is no error, and its tag can be named."""
    async with AsyncRedisCache.from_url(server.url) as cache:

        @cached(cache, key="{url}", tags=["page:{url}"], long_keys="hash")
        async def find(url: str) -> int:
            calls.append(url)
            return 1

        calls: list[str] = []
        assert [await find(url), await find(url)] == [1, 1]
        digest = hashlib.sha256(f"page:{url}".encode(errors="surrogatepass")).hexdigest()
        await cache.invalidate_tags(None, f"page:#{digest}")
        await find(url)
        assert len(calls) == 2


def test_key_that_looks_hashed_is_hashed_too() -> None:
    """Otherwise a caller could make up the key of a long value."""
    find = of("page:{a}", long_keys="hash")
    key = find.key("x" * 600)
    assert find.key(key.removeprefix("page:")) != key


def test_unknown_word_for_long_keys_is_refused_when_decorated() -> None:
    """Only "raise" and "hash" are known."""
    with pytest.raises(TypeError, match="long_keys"):
        of("{a}", long_keys="cut")
