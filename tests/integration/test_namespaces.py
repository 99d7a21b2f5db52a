"""Namespaces: keys, defaults and counters of their own, on the core of their cache."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pip_services4_components.config import ConfigParams

from async_redis_cache import (
    AsyncRedisCache,
    CacheConfigError,
    CacheInputError,
    CacheStateError,
    Namespace,
    RedisCache,
    cached,
)
from harness import await_until

if TYPE_CHECKING:
    from harness import Client, Server


@dataclass
class Product:
    name: str


KETTLE = Product("kettle")


def opened(server: Server, **options: Any) -> AsyncRedisCache:
    """A cache of this server, to be entered."""
    options = {"command_timeout": 10_000, **options}
    return AsyncRedisCache.from_url(server.url, **options)


async def never() -> Product:
    raise AssertionError("called although there is a value")


async def test_key_is_prefix_name_and_key(server: Server, raw: Client) -> None:
    """The key on the server is the key prefix, the name, a colon and the key."""
    async with opened(server, key_prefix="shop:") as cache:
        products = cache.namespace("product", type=Product)
        await products.set("7", KETTLE)
        assert raw.get("shop:product:7") == b'{"name":"kettle"}'
        assert await products.get("7") == KETTLE
        assert await cache.retrieve(None, "product:7", type=Product) == KETTLE


async def test_get_returns_the_default_without_a_value(server: Server) -> None:
    """`get` returns None, or the default that it is given, where there is no value."""
    async with opened(server) as cache:
        products = cache.namespace("product", type=Product)
        assert await products.get("7") is None
        assert await products.get("7", "none") == "none"


async def test_many(server: Server) -> None:
    """The methods of many keys do what those of one key do."""
    async with opened(server) as cache:
        numbers = cache.namespace("number", type=int)
        await numbers.set_many({"a": 1, "b": 2})

        async def squares(keys: list[str]) -> dict[str, int]:
            return dict.fromkeys(keys, 9)

        assert await numbers.get_many(["a", "b", "c"]) == {"a": 1, "b": 2}
        assert await numbers.get_or_load_many(["a", "c"], squares) == {"a": 1, "c": 9}
        assert await numbers.delete("a")
        assert not await numbers.delete("a")
        assert await numbers.delete_many(["a", "b", "c"]) == 2


async def test_loads_once_and_returns_the_stored_value(server: Server) -> None:
    """`get_or_load` loads a missing value; `refresh` loads it again."""
    async with opened(server) as cache:
        products = cache.namespace("product", type=Product)

        async def load() -> Product:
            return KETTLE

        async def load_other() -> Product:
            return Product("pot")

        assert await products.get_or_load("7", load) == KETTLE
        assert await products.get_or_load("7", never) == KETTLE
        assert await products.refresh("7", load_other) == Product("pot")
        entry = await products.get_or_load_entry("7", never)
        assert (entry.value, entry.status) == (Product("pot"), "hit")
        assert (await products.get_entry("8")).status == "missing"


@pytest.mark.parametrize("ttl", [60, 60.0, timedelta(minutes=1)], ids=["int", "float", "timedelta"])
async def test_ttl_is_in_seconds(server: Server, raw: Client, ttl: float | timedelta) -> None:
    """A TTL is a number of seconds or a timedelta, in a call and as the default."""
    async with opened(server) as cache:
        short = cache.namespace("short", ttl=ttl)
        plain = cache.namespace("plain")
        await short.set("a", 1)
        await plain.set("b", 1, ttl)
        await plain.set("c", 1)
        await plain.touch("c", ttl)
        await plain.get_or_load("d", lambda: 1, ttl)
        for key in ("short:a", "plain:b", "plain:c", "plain:d"):
            assert 50_000 < raw.pttl(key) <= 60_000
        left = await plain.ttl("b")
        assert isinstance(left, float)
        assert 50 < left <= 60
        assert await plain.ttl("missing") is None


@pytest.mark.parametrize("ttl", [0, -1, True, "60", float("nan"), float("inf"), timedelta(0)])
async def test_invalid_ttl_is_refused(ttl: Any) -> None:
    """What is no duration of more than 0 and at most ten years is BAD_TIMEOUT."""
    with pytest.raises(CacheInputError) as caught:
        AsyncRedisCache().namespace("product", ttl=ttl)
    assert caught.value.code == "BAD_TIMEOUT"


@pytest.mark.parametrize("name", ["", "a:b", "a\n", "x" * 65, "\ud800", 7])
async def test_invalid_name_is_refused(name: Any) -> None:
    """A name is text of 1 to 64 bytes without a colon and control characters."""
    with pytest.raises(CacheInputError) as caught:
        AsyncRedisCache().namespace(name)
    assert caught.value.code == "BAD_KEY"


@pytest.mark.parametrize("api", ["async", "sync"])
async def test_namespace_within_another(server: Server, raw: Client, api: str) -> None:
    """Names are joined; `clear` and `scan` of a namespace include those within it, and nothing else."""
    with RedisCache.from_url(server.url, command_timeout=10_000) as cache:
        spaces: dict[tuple[str, ...], Any] = {
            names: (cache if api == "sync" else cache.as_async()).namespace(*names)
            for names in [("a",), ("a", "b"), ("a", "b", "c"), ("a", "bb"), ("ab",)]
        }

        async def call(result: Any) -> Any:
            return result if api == "sync" else await result

        for names, space in spaces.items():
            assert space.name == ":".join(names)
            await call(space.set("7", 1))
            assert raw.exists(f"{':'.join(names)}:7")
        scan = spaces["a", "b"].scan()
        keys = [*scan] if api == "sync" else [key async for key in scan]
        assert sorted(keys) == ["7", "c:7"]
        assert await call(spaces["a", "b"].clear()) == 2
        assert sorted(raw.keys()) == [b"a:7", b"a:bb:7", b"ab:7"]
        assert spaces["a", "b"].stats().stores == 1


@pytest.mark.parametrize("names", [("a", ""), ("a", "b:c"), ("x" * 60,) * 5, ("a", 7)])
async def test_invalid_name_within_another_is_refused(names: tuple[Any, ...]) -> None:
    """Each name is checked, and the length of all."""
    with pytest.raises(CacheInputError) as caught:
        AsyncRedisCache().namespace(*names)
    assert caught.value.code == "BAD_KEY"


async def test_follows_its_cache(server: Server, raw: Client) -> None:
    """A namespace created before `open` is open while its cache is, and takes its options at each `open`."""
    cache = AsyncRedisCache.from_url(server.url, key_prefix="one:")
    products = cache.namespace("product")
    with pytest.raises(CacheStateError) as caught:
        await products.get("7")
    assert caught.value.code == "NOT_OPENED"
    async with cache:
        await products.set("7", 1)
    cache.configure(
        ConfigParams.from_tuples("connection.uri", server.url, "options.key_prefix", "two:")
    )
    async with cache:
        assert await products.get("7") is None
        await products.set("8", 1)
    assert sorted(raw.keys("*product*")) == [b"one:product:7", b"two:product:8"]


async def test_serializer_of_a_namespace(server: Server, raw: Client) -> None:
    """A namespace may have another serializer, by name or as an object."""

    class Reversed:
        def dumps(self, value: Any) -> bytes:
            return str(value)[::-1].encode()

        def loads(self, data: bytes) -> Any:
            return data.decode()[::-1]

    async with opened(server) as cache:
        await cache.namespace("raw", serializer="raw").set("a", b"\xff")
        assert raw.get("raw:a") == b"\xff"
        own = cache.namespace("own", serializer=Reversed())
        await own.set("a", "abc")
        assert raw.get("own:a") == b"cba"
        assert await own.get("a") == "abc"
        with pytest.raises(CacheConfigError):
            await cache.namespace("pickled", serializer="pickle").get("a")


async def test_long_keys_are_hashed(server: Server) -> None:
    """With `long_keys="hash"` any text is a key, and no two have the same hash."""
    async with opened(server) as cache:
        strict, hashed = cache.namespace("strict"), cache.namespace("hashed", long_keys="hash")
        with pytest.raises(CacheInputError):
            await strict.get("x" * 600)
        keys = ["x" * 600, "y" * 600, "", "a\nb", "ordinary"]
        await hashed.set_many({key: key for key in keys})
        stored = [key async for key in hashed.scan()]
        assert len(stored) == len(keys)
        # A key that imitates the hash of another.
        imitation = next(key for key in stored if key.startswith("#"))
        assert await hashed.get(imitation) is None
        assert await hashed.get_many(keys) == {key: key for key in keys}


async def test_tags_of_a_namespace(server: Server) -> None:
    """The tags of a namespace are those of its values, beside those of the call; tags belong to the cache."""
    async with opened(server) as cache:
        tagged = cache.namespace("tagged", tags=("catalogue",))
        await tagged.set("a", 1, tags=("a",))
        await tagged.get_or_load("b", lambda: 1)
        await tagged.set("c", 1)
        await tagged.invalidate_tags("a")
        assert await tagged.get_many(["a", "b", "c"]) == {"b": 1, "c": 1}
        await cache.invalidate_tags(None, "catalogue")
        assert await tagged.get_many(["a", "b", "c"]) == {}


async def test_load_options_of_a_namespace(server: Server) -> None:
    """Load options of a namespace apply to its loads, and those of a call go before them."""
    async with opened(server) as cache:
        numbers = cache.namespace("number", missing_timeout=timedelta(minutes=1))
        assert await numbers.get_or_load("a", lambda: None) is None
        assert await numbers.get_or_load("a", never) is None
        assert await numbers.get_or_load("b", lambda: None, missing_timeout=0) is None
        assert await numbers.get_or_load("b", lambda: 1) == 1


async def test_near(server: Server, raw: Client) -> None:
    """`near=False` reads from the server; `near=True` requires a near cache."""
    async with opened(server, near_cache_enabled=True) as cache:
        far, near = cache.namespace("far", near=False), cache.namespace("near", near=True)
        for namespace in (far, near):
            await namespace.set("a", 1)
            await namespace.get("a")
        await await_until(lambda: cache.stats().near_connected)
        before = cache.stats().near_hits
        assert await far.get("a") == 1
        assert await far.get_many(["a"]) == {"a": 1}
        assert cache.stats().near_hits == before
        async with asyncio.timeout(20):
            # A late invalidation of the change may remove the first entry.
            while cache.stats().near_hits == before:
                assert await near.get("a") == 1
    async with opened(server) as cache:
        with pytest.raises(CacheConfigError):
            await cache.namespace("near", near=True).get("a")


@pytest.mark.parametrize("options", [{}, {"max_size": 100}, {"key_prefix": "s*:"}], ids=str)
async def test_clear_removes_the_namespace_only(
    server: Server, raw: Client, options: dict[str, Any]
) -> None:
    """`clear` removes what has the name and the colon before its key, whatever a glob means."""
    names = ["a", "a*", "ab", "[a]", "?"]
    async with opened(server, **options) as cache:
        await cache.store(None, "a", "plain")
        for name in names:
            await cache.namespace(name).set_many({"1": 1, "2": 2})
        for number, name in enumerate(names):
            assert await cache.namespace(name).clear() == 2
            left = [len(await cache.namespace(name).get_many(["1", "2"])) for name in names]
            assert left == [0] * (number + 1) + [2] * (len(names) - number - 1)
        assert await cache.retrieve(None, "a") == "plain"


@pytest.mark.parametrize("near", [False, True])
async def test_clear_holds_against_loads_in_flight(server: Server, near: bool) -> None:
    """What is loaded while its namespace is cleared, here or by another client, is returned and not stored."""
    begun, may_end = [0], asyncio.Event()

    async def load() -> int:
        begun[0] += 1
        await may_end.wait()
        return 1

    async with (
        opened(server, near_cache_enabled=near) as here,
        opened(server, near_cache_enabled=near) as there,
    ):
        spaces = [(cache.namespace("n"), cache.namespace("m")) for cache in (here, there)]
        (mine, kept), (theirs, _) = spaces
        tasks = [
            asyncio.create_task(loading)
            for loading in (
                mine.get_or_load("here", load),
                theirs.get_or_load("there", load),
                kept.get_or_load("kept", load),
            )
        ]
        await await_until(lambda: begun[0] == 3)
        await mine.clear()
        may_end.set()
        assert await asyncio.gather(*tasks) == [1, 1, 1]
        for namespace in (mine, theirs):
            assert await namespace.get_many(["here", "there"]) == {}
        assert await kept.get("kept") == 1


async def test_no_caller_joins_a_load_that_began_before_clear(server: Server) -> None:
    """A call after `clear` loads again, though what the call before it loads has not ended."""
    begun: list[str] = []
    may_end = asyncio.Event()

    async with opened(server) as cache:
        cleared, other = cache.namespace("n"), cache.namespace("m")

        def call(namespace: Namespace[Any]) -> asyncio.Task[Any]:
            async def load() -> str:
                begun.append(namespace.name)
                result = f"{namespace.name}{begun.count(namespace.name)}"
                await may_end.wait()
                return result

            return asyncio.create_task(namespace.get_or_load("a", load))

        before = [call(cleared), call(other)]
        await await_until(lambda: len(begun) == 2)
        await cleared.clear()
        after = [call(cleared), call(other)]
        await await_until(lambda: len(begun) == 3)
        may_end.set()
        # Which of two loads begins first depends on the replies of the server.
        assert await asyncio.gather(*before) == ["n1", "m1"]
        assert await asyncio.gather(*after) == ["n2", "m1"]
        assert await cleared.get("a") == "n2"


async def test_clear_empties_near_caches(server: Server) -> None:
    """After `clear` no near cache returns a value of the namespace; others keep theirs."""
    async with (
        opened(server, near_cache_enabled=True) as here,
        opened(server, near_cache_enabled=True) as there,
    ):
        await await_until(lambda: here.stats().near_connected and there.stats().near_connected)
        await here.namespace("n").set("a", 1)
        await here.namespace("m").set("a", 1)
        for cache in (here, there):
            for name in "nm":
                assert await cache.namespace(name).get("a") == 1
        entries = here.stats().near_entries
        await here.namespace("n").clear()
        assert await here.namespace("n").get("a") is None
        assert here.stats().near_entries == entries - 1
        there_n = there.namespace("n")
        async with asyncio.timeout(20):
            # Until the server has told it.
            while await there_n.get("a") is not None:  # noqa: ASYNC110  the server changes it
                await asyncio.sleep(0)


async def test_scan_yields_the_keys(server: Server) -> None:
    """`scan` yields the keys without the name, over all pages of the server."""
    async with opened(server, key_prefix="shop:") as cache:
        numbers, others = cache.namespace("number"), cache.namespace("numbers")
        await numbers.set_many({f"key:{number}": number for number in range(3000)})
        await others.set("other", 1)
        found = [key async for key in numbers.scan()]
        assert sorted(found) == sorted(f"key:{number}" for number in range(3000))


async def test_cached_functions(server: Server) -> None:
    """The results of functions are values of the namespace, by a template or by the name of the function."""
    calls: list[int] = []
    cache = opened(server)
    products = cache.namespace("product", type=Product, ttl=60, tags=("all",))

    @products.cached("{product_id}")
    async def product_of(product_id: int) -> Product:
        calls.append(product_id)
        return Product(str(product_id))

    @products.cached()
    async def named(product_id: int) -> Product:
        return Product(f"named {product_id}")

    async with cache:
        assert await product_of(7) == await product_of(7) == Product("7")
        assert calls == [7]
        assert await products.get("7") == Product("7")
        assert await named(7) == Product("named 7")
        assert await products.get(named.key(7)) == Product("named 7")
        await product_of.invalidate(7)
        assert await products.get("7") is None
        await products.invalidate_tags("all")
        assert await products.get(named.key(7)) is None


async def test_cached_functions_without_a_type_have_that_of_the_namespace(server: Server) -> None:
    """The annotation and `type=` take precedence."""

    async def find() -> Any:
        return KETTLE

    async def find_plain() -> dict[str, str]:
        return {"name": "kettle"}

    def find_blocking() -> Any:
        return KETTLE

    async with AsyncRedisCache.from_url(server.url, command_timeout=10_000) as cache:
        products = cache.namespace("product", type=Product, ttl=60)
        found = products.cached("a")(find)
        assert [await found(), await found()] == [KETTLE] * 2
        for plain in (products.cached("b", type=dict)(find), products.cached("c")(find_plain)):
            assert [await plain(), await plain()] == [{"name": "kettle"}] * 2
    with RedisCache.from_url(server.url, command_timeout=10_000) as blocking:
        blocked = blocking.namespace("pot", type=Product).cached("a")(find_blocking)
        assert [blocked(), blocked()] == [KETTLE] * 2


async def test_cached_twice_in_two_namespaces(server: Server) -> None:
    """One template in two namespaces of a cache gives two keys."""
    cache = opened(server)

    @cache.namespace("outer").cached("{x}")
    @cache.namespace("inner").cached("{x}")
    async def double(x: int) -> int:
        return 2 * x

    @cached(cache, key="{x}")
    async def triple(x: int) -> int:
        return 3 * x

    async with cache:
        assert (await double(1), await triple(1)) == (2, 3)
        assert await cache.namespace("inner").get("1") == 2


def test_synchronous_namespace(server: Server) -> None:
    """`SyncNamespace` has the same methods, which block; loaders and functions are plain ones."""
    with RedisCache.from_url(server.url, command_timeout=10_000) as cache:
        products = cache.namespace("product", type=Product, ttl=60, tags=("all",))
        products.set("7", KETTLE)
        assert products.get("7") == KETTLE
        assert products.get("8", 0) == 0
        assert products.contains("7")
        left = products.ttl("7")
        assert isinstance(left, float)
        assert 50 < left <= 60
        assert products.touch("7", 30)
        threads: list[threading.Thread] = []

        def load() -> Product:
            threads.append(threading.current_thread())
            return KETTLE

        assert products.get_or_load("9", load, in_thread="caller") == KETTLE
        assert threads == [threading.current_thread()]
        assert products.get_or_load_many(["9", "a"], lambda keys: dict.fromkeys(keys, KETTLE)) == {
            "9": KETTLE,
            "a": KETTLE,
        }
        assert products.refresh("9", lambda: Product("pot")) == Product("pot")
        assert products.get_entry("9").status == "hit"

        @products.cached("f{number}")
        def product_of(number: int) -> Product:
            return Product(str(number))

        assert product_of(1) == product_of(1) == Product("1")
        assert sorted(products.scan()) == ["7", "9", "a", "f1"]
        product_of.invalidate(1)
        assert products.delete_many(["7", "f1"]) == 1
        products.invalidate_tags("all")
        assert products.get_many(["9", "a"]) == {}
        products.set_many({"x": KETTLE})
        assert products.stats().hits == cache.stats().hits > 0
        products.clear()
        assert list(products.scan()) == []


def test_synchronous_namespace_says_where_loaders_run(server: Server) -> None:
    """In a worker thread, or where the namespace says; a call may say otherwise."""
    with RedisCache.from_url(server.url, command_timeout=10_000) as cache:
        caller = threading.get_ident()

        def thread() -> int:
            return threading.get_ident()

        assert cache.namespace("a").get_or_load("key", thread) != caller
        here = cache.namespace("b", in_thread="caller")
        assert here.get_or_load("key", thread) == caller
        assert here.get_or_load("other", thread, in_thread=True) != caller
        assert here.cached("third")(thread)() == caller


async def test_add_and_count(server: Server, raw: Client) -> None:
    """`add`, `incr` and `decr` write under the keys of the namespace, with its TTL or that of the call."""
    async with opened(server) as cache:
        numbers = cache.namespace("number", type=int, ttl=60)
        assert await numbers.add("a", 1)
        assert not await numbers.add("a", 2)
        assert await numbers.incr("n", 5) == 5
        assert await numbers.decr("n") == 4
        assert await numbers.get_many(["a", "n"]) == {"a": 1, "n": 4}
        assert 50_000 < raw.pttl("number:a") <= 60_000
        assert 50_000 < raw.pttl("number:n") <= 60_000
    with RedisCache.from_url(server.url, command_timeout=10_000) as blocking:
        sync_numbers = blocking.namespace("number", type=int)
        assert not sync_numbers.add("a", 2)
        assert sync_numbers.incr("n") == 5
        assert sync_numbers.decr("n", 2) == 3


async def test_trace_id_of_errors(server: Server) -> None:
    """An error carries the trace id of its call, which is None without one and without a running span."""
    async with opened(server) as cache:
        with pytest.raises(CacheInputError) as caught:
            await cache.namespace("n").get("", trace_id="request-1")
        assert caught.value.trace_id == "request-1"
        assert cache.stats().errors == 1
        with pytest.raises(CacheInputError) as caught:
            await cache.namespace("n").get("")
        assert caught.value.trace_id is None
