"""`cached`: which functions have a stable name for keys, and which need `key=`."""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.util
import inspect
import math
import pickle
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar

import pytest

from async_redis_cache import AsyncRedisCache, CachedCoroutine, RedisCache, cached

CACHE = AsyncRedisCache.from_url("redis://127.0.0.1:1")
PLAIN = RedisCache.from_url("redis://127.0.0.1:1")


@cached(CACHE)
async def find(number: int) -> int:
    """Find one."""
    return number


@cached(PLAIN)
def find_plain(number: int) -> int:
    return number


def unnamed(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that does not say whose function it has made."""

    async def wrapper(*args: Any) -> Any:
        return await function(*args)

    return wrapper


def named(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*args: Any) -> Any:
        return await function(*args)

    return wrapper


def scaled(by: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def wrapper(*args: Any) -> Any:
            return by * await function(*args)

        return wrapper

    return decorate


async def raw(number: int) -> int:
    return number


def a_closure() -> Any:
    captured = object()

    async def inner(number: int) -> object:
        return captured

    return inner


class Callback:
    async def __call__(self, number: int) -> int:
        return number

    async def method(self, number: int) -> int:
        return number


NAMELESS: list[Any] = [
    lambda: 1,
    a_closure(),
    unnamed(raw),
    functools.partial(raw, 1),
    functools.update_wrapper(functools.partial(raw, 1), raw),
    Callback(),
    Callback().method,
]


@pytest.mark.parametrize("function", NAMELESS)
def test_function_without_a_name_of_its_own_is_refused_when_decorated(function: Any) -> None:
    """Two lambdas, closures, partials or wrapped functions have one name: `key=` is asked for."""
    decorate: Any = cached(lambda: CACHE)
    with pytest.raises(TypeError, match="key="):
        decorate(function)


@pytest.mark.parametrize("function", NAMELESS)
def test_function_without_a_name_of_its_own_is_taken_with_a_key(function: Any) -> None:
    """With `key=` its name is not needed."""
    is_lambda = getattr(function, "__name__", "") == "<lambda>"
    decorate: Any = cached(PLAIN if is_lambda else CACHE, key="own")
    arguments = () if is_lambda or isinstance(function, functools.partial) else (1,)
    assert decorate(function).key(*arguments) == "own"


def test_builtin_functions_have_keys_of_their_own() -> None:
    """Those of a module are named after it; a method of an object needs `key=`."""
    assert cached(PLAIN)(math.sqrt).key(2) == "math.sqrt(2)"
    with pytest.raises(TypeError, match="key="):
        cached(PLAIN)("abc".find)


def test_local_function_that_captures_nothing_has_a_key_of_its_own() -> None:
    """It is the same whenever its module defines it; two in one place differ by their lines."""

    def make() -> tuple[Any, Any]:
        @cached(CACHE)
        async def inner(number: int) -> int:  # pyright: ignore[reportRedeclaration]
            return number

        first: Any = inner

        @cached(CACHE)  # type: ignore[no-redef]
        async def inner(number: int) -> int:
            return -number

        return first, inner

    keys = [[function.key(1) for function in make()] for _ in range(2)]
    assert keys[0] == keys[1]
    assert keys[0][0] != keys[0][1]


def test_local_function_that_captures_a_type_variable_has_a_key_of_its_own() -> None:
    """Like a generic function whose body names its type parameter: that is no state."""

    def make() -> Any:
        kind = TypeVar("kind")

        @cached(CACHE)
        async def inner(number: int) -> Any:
            return number, kind

        return inner

    assert make().key(1) == make().key(1)


def test_local_function_with_a_wrapper_that_captures_is_refused() -> None:
    """What the wrapper has captured is not in the key; the wrapped function itself may be."""

    async def inner(number: int) -> int:
        return number

    assert "inner" in cached(CACHE)(named(inner)).key(1)
    with pytest.raises(TypeError, match="captures 'by'"):
        cached(CACHE)(scaled(2)(inner))


def _module(tmp_path: Path, source: str) -> Any:
    """A module of this source, imported."""
    name = f"mod_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
    sys.path.insert(0, str(tmp_path))
    try:
        importlib.invalidate_caches()
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(tmp_path))


_HEADER = """
import functools
from async_redis_cache import AsyncRedisCache, cached
cache = AsyncRedisCache.from_url("redis://127.0.0.1:1")
"""


@pytest.mark.parametrize(
    "source",
    [
        "for number in (1, 2):\n    @cached(cache)\n    async def one(): return number\n",
        (
            "@functools.singledispatch\ndef show(value): ...\n"
            "@show.register\n@cached(cache)\nasync def _(value: int): return 1\n"
            "@show.register\n@cached(cache)\nasync def _(value: str): return 2\n"
        ),
        (
            "async def one(): return 1\n"
            "def scaled(function, by):\n"
            "    @functools.wraps(function)\n    async def scale(): return by * await function()\n"
            "    return scale\n"
            "two, three = cached(cache)(scaled(one, 2)), cached(cache)(scaled(one, 3))\n"
        ),
    ],
    ids=["loop", "singledispatch", "wrapped in two ways"],
)
def test_second_function_of_one_name_is_refused_when_decorated(tmp_path: Path, source: str) -> None:
    """A loop, registered overloads and differing wrappers give several functions one name."""
    with pytest.raises(TypeError, match="several functions are named"):
        _module(tmp_path, _HEADER + source)


def _executed(source: str, namespace: dict[str, Any]) -> Any:
    exec(textwrap.dedent(source), namespace)
    return namespace["one"]


@pytest.mark.parametrize("name", [None, "shop", __name__])
def test_function_of_no_module_is_refused_when_decorated(name: str | None) -> None:
    """A function defined by `exec` reads variables that its name does not identify."""
    with pytest.raises(TypeError, match="no module"):
        cached(CACHE)(_executed("async def one(number): return number", {"__name__": name}))


def test_second_function_that_is_executed_in_a_module_is_refused(tmp_path: Path) -> None:
    """It has the name and the line of the first; the same source is the same function."""
    namespace: dict[str, Any] = _module(tmp_path, _HEADER).__dict__
    source = "async def one(number): return 1"
    first, again = (cached(CACHE)(_executed(source, namespace)) for _ in range(2))
    assert first.key(1) == again.key(1)
    with pytest.raises(TypeError, match="several functions are named"):
        cached(CACHE)(_executed(source + "+ 1", namespace))


def test_second_module_of_one_name_is_refused(tmp_path: Path) -> None:
    """Of two files, as plugins are loaded; the same file may be read again."""

    def load(directory: str) -> Any:
        path = tmp_path / directory / "plugin.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("async def one(number): return number")
        spec = importlib.util.spec_from_file_location("a_plugin", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return cached(CACHE)(module.one)

    assert load("first").key(1) == load("first").key(1)
    with pytest.raises(TypeError, match="several functions are named"):
        load("second")


def test_name_of_a_function_that_is_gone_is_not_free() -> None:
    """Its results may still be in the cache; nor does one that was refused take the name."""
    cached(CACHE)(scaled(2)(raw_gone))
    for by in (3, 4):
        with pytest.raises(TypeError, match="several functions are named"):
            cached(CACHE)(scaled(by)(raw_gone))


async def raw_gone(number: int) -> int:
    return number


class Proxy:
    """Gives itself out as the function that it wraps, as wrapt does."""

    def __init__(self, function: Any, by: int) -> None:
        vars(self).update(__wrapped__=function, by=by)

    @property
    def __class__(self) -> Any:
        """That of the function."""
        return FunctionType

    @__class__.setter
    def __class__(self, _: object) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["__wrapped__"], name)

    async def __call__(self, *args: Any) -> Any:
        return vars(self)["by"] * await vars(self)["__wrapped__"](*args)


def test_second_proxy_of_a_function_is_refused() -> None:
    """It has the code of the function, and does something else."""
    proxies: list[Any] = [Proxy(raw_proxied, 2), Proxy(raw_proxied, 3)]
    assert cached(CACHE)(proxies[0]).key(1) == f"{__name__}.raw_proxied(1)"
    with pytest.raises(TypeError, match="several functions are named"):
        cached(CACHE)(proxies[1])


async def raw_proxied(number: int) -> int:
    return number


def test_function_of_a_session_may_be_written_again() -> None:
    """In a notebook each run of a cell defines its functions anew."""
    source = """
        from async_redis_cache import AsyncRedisCache, cached
        cache = AsyncRedisCache.from_url("redis://127.0.0.1:1")
        for result in (1, 2):
            exec(f"@cached(cache)\\nasync def one(number): return {result}")
            print(one.key(1))
    """
    arguments = [sys.executable, "-c", textwrap.dedent(source)]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["__main__.one(1)"] * 2


def test_module_may_be_imported_anew(tmp_path: Path) -> None:
    """Its functions are the same, with the same keys, though their lines have moved."""
    source = "@cached(cache)\nasync def one(number): return number\n"
    module = _module(tmp_path, _HEADER + source)
    before = module.one
    path = Path(module.__file__)
    path.write_text(textwrap.dedent(_HEADER + "\n\n\n" + source))
    sys.path.insert(0, str(tmp_path))
    try:
        importlib.reload(module)
    finally:
        sys.path.remove(str(tmp_path))
    assert module.one is not before
    assert module.one.key(1) == before.key(1)


_PROGRAM = """
import multiprocessing
from dataclasses import dataclass
from async_redis_cache import RedisCache, cached
cache = RedisCache.from_url("redis://127.0.0.1:1")
@dataclass
class User:
    number: int
@cached(cache)
def find(user): return user
def key(_=None): return find.key(User(1))
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(key(), *pool.map(key, [None]))
"""


@pytest.mark.parametrize("how", ["file", "module", "file of a package"])
def test_program_and_module_are_one(tmp_path: Path, how: str) -> None:
    """`__main__`, `__mp_main__` and the imported module have the same keys."""
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").touch()
    path = tmp_path / "work.py" if how == "file" else package / "work.py"
    path.write_text(_PROGRAM)
    started = ["-m", "shop.work"] if how == "module" else [str(path)]
    name = "work" if how == "file" else "shop.work"

    def run(*arguments: str) -> list[str]:
        result = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return result.stdout.split()

    imported = run("-c", f"import {name} as module; print(module.key())")
    assert run(*started) == imported * 2
    assert imported[0].startswith(f"{name}.find({name}.User(")


def test_generator_functions_are_refused() -> None:
    """A generator can be read once: it is no result to keep."""

    async def many() -> AsyncIterator[int]:
        yield 1

    def plain() -> Iterator[int]:
        yield 1

    class Called:
        async def __call__(self) -> AsyncIterator[int]:
            yield 1

    for function in (many, plain, Called(), functools.partial(plain)):
        loose: Any = function
        with pytest.raises(TypeError, match="generator"):
            cached(CACHE, key="key")(loose)


def test_coroutine_functions_are_told_from_plain_ones() -> None:
    """By `inspect`, as frameworks ask, for methods and callables, too; the class is none."""

    class Shop:
        @cached(CACHE)
        async def price(self) -> int:
            return 1

        @classmethod
        @cached(CACHE)
        async def make(cls) -> int:
            return 1

    called: Any = cached(CACHE, key="key")(Callback())
    part: Any = cached(CACHE, key="key")(functools.partial(raw, 1))
    for function in (find, Shop().price, Shop.price, Shop.make, called, part):
        assert inspect.iscoroutinefunction(function)
    for other in (find_plain, CachedCoroutine):
        assert not inspect.iscoroutinefunction(other)

    # What a decorator copies to a plain function does not make it a coroutine function.
    @functools.wraps(find)
    def blocking(number: int) -> int:
        return asyncio.run(find(number))

    assert not inspect.iscoroutinefunction(blocking)


def test_decorated_function_is_pickled_by_its_name() -> None:
    """As functions are, and their methods by their objects."""
    assert pickle.loads(pickle.dumps(find)) is find
    assert pickle.loads(pickle.dumps(find_plain)) is find_plain
    assert pickle.loads(pickle.dumps(Stateless().price)).key(1) == Stateless().price.key(1)


class Stateless:
    @cached(CACHE)
    async def price(self, number: int) -> int:
        return number


def test_decorated_function_tells_what_it_is() -> None:
    """Its repr, its `__wrapped__` and what tools look at name the function."""
    assert repr(find) == f"<CachedCoroutine {__name__}.find>"
    assert repr(Stateless().price) == f"<CachedCoroutine {__name__}.Stateless.price of a Stateless>"
    assert inspect.unwrap(find) is find.uncached
    assert inspect.getdoc(find) == "Find one."
    assert "async def find" in inspect.getsource(find)


def test_stacked_decorators_keep_their_own_options() -> None:
    """Attributes copied from the wrapped function are not the options of the decorator."""

    def marked(function: Any) -> Any:
        @functools.wraps(function)
        async def wrapper(number: int) -> Any:
            return await function(number)

        return wrapper

    async def function(number: int) -> int:
        return number

    vars(function)["role"] = "reader"
    inner: Any = cached(CACHE, key="inner:{number}", timeout=1000)(function)
    decorate: Any = cached(CACHE, key="outer:{number}", timeout=2000, type=str)
    outer: Any = decorate(inner)
    decorate = cached(CACHE, key="above:{number}", timeout=3000)
    above: Any = decorate(marked(outer))
    assert [one.key(1) for one in (inner, outer, above)] == ["inner:1", "outer:1", "above:1"]
    assert vars(above)["role"] == "reader"
    assert vars(outer)["__wrapped__"] is inner
    options = [one._config.options((1,), {}) for one in (inner, outer, above)]
    assert [said["timeout"] for said in options] == [1000, 2000, 3000]
    assert [said["type"] for said in options] == [int, str, int]


def test_function_cached_twice_under_one_key_is_refused_when_decorated() -> None:
    """A load would wait for itself; by another cache, or with another key, it may be."""
    twice: Any = cached(CACHE)(raw)
    with pytest.raises(TypeError, match="cached twice"):
        cached(CACHE)(twice)
    loose: Any = cached(CACHE, key="raw:{number}")
    with pytest.raises(TypeError, match="cached twice"):
        loose(cached(CACHE)(loose(raw)))
    decorate: Any = cached(AsyncRedisCache.from_url("redis://127.0.0.1:2"))
    assert decorate(twice).key(1) == twice.key(1)


def test_function_may_be_decorated_again_with_a_wrapper_that_captures_nothing() -> None:
    """As in tests: the wrapper is another object, and the same function."""
    decorate: Any = cached(CACHE)
    one, other = decorate(named(raw_too)), decorate(named(raw_too))
    assert one.key(1) == other.key(1)
    with pytest.raises(TypeError, match="several functions"):
        cached(CACHE)(scaled(2)(raw_too))


async def raw_too(number: int) -> int:
    return number
