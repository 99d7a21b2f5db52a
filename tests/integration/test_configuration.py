"""Every documented setting of `RedisCache.md`, in sections and at top level, with both APIs."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from pip_services4_components.build import CompositeFactory
from pip_services4_components.config import ConfigParams
from pip_services4_components.context import Context
from pip_services4_components.refer import Descriptor, References
from pip_services4_components.run import Closer, Opener
from pip_services4_config.auth import CredentialParams, MemoryCredentialStore
from pip_services4_config.connect import ConnectionParams, MemoryDiscovery
from pip_services4_logic.cache import ICache

from async_redis_cache import (
    AsyncRedisCache,
    CacheConfigError,
    CacheError,
    DefaultRedisFactory,
    IAsyncCache,
    RedisCache,
)
from harness.apis import APIS, Api, new_cache
from harness.choices import by_host_and_port, by_host_and_port_with_login

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Server, StartServer

pytestmark = pytest.mark.depends_on("api")

DISCOVERY = Descriptor("pip-services", "discovery", "memory", "default", "1.0")
STORE = Descriptor("pip-services", "credential-store", "memory", "default", "1.0")


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> Api:
    """Both APIs are configured alike."""
    chosen: Api = request.param
    return chosen


@pytest.fixture
def locked(private_server: StartServer) -> Server:
    """A server that asks for a login."""
    return private_server(password="right", acl={"ann": "on >hers ~* +@all"})


async def works(
    cache: AsyncRedisCache, *tuples: object, references: References | None = None
) -> None:
    """Open with this configuration, store and retrieve, close."""
    cache.configure(ConfigParams.from_tuples(*tuples))
    if references is not None:
        cache.set_references(references)
    await cache.open("123")
    try:
        await cache.store("123", "key1", "ABC", None)
        assert await cache.retrieve("123", "key1") == "ABC"
    finally:
        await cache.close("123")


async def fails(
    cache: AsyncRedisCache, *tuples: object, references: References | None = None
) -> str:
    """The code with which `open` fails; checks that the error contains no secret."""
    cache.configure(ConfigParams.from_tuples(*tuples))
    if references is not None:
        cache.set_references(references)
    with pytest.raises(CacheError) as caught:
        await cache.open("t")
    assert caught.value.trace_id == "t"
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert "secret" not in f"{caught.value!r} {caught.value}"
    assert not cache.is_open()
    return str(caught.value.code)


@by_host_and_port
async def test_host_and_port(server: Server, api: Api) -> None:
    """At top level, in `connection`, in `connections`, numbered; as text or number."""
    for section in ("", "connection.", "connections.0.", "connections.primary."):
        for port in (server.port, str(server.port)):
            place = (f"{section}host", "localhost", f"{section}port", port)
            await works(new_cache(api), *place)
    await works(new_cache(api), "connection.ip", "127.0.0.1", "connection.port", server.port)


async def test_uri(server: Server, api: Api) -> None:
    """Likewise a URI, which wins over host and port beside it."""
    for section in ("", "connection.", "connections.0."):
        await works(new_cache(api), f"{section}uri", server.url)
    beside = ("connection.host", "nowhere.invalid", "connection.port", 1)
    await works(new_cache(api), "connection.uri", server.unix_url, *beside)


@by_host_and_port
async def test_database_and_protocol(server: Server, api: Api) -> None:
    """Further parameters of a connection that is given by its parts."""
    place = ("connection.host", server.host, "connection.port", server.port)
    await works(new_cache(api), *place, "connection.database", "7")
    with server.client() as raw:
        assert list(raw.info("keyspace")) == ["db7"]
    await works(new_cache(api), *place, "connection.protocol", "redis")
    assert await fails(new_cache(api), *place, "connection.database", "secret") == "BAD_URI"
    bad_port = ("connection.host", server.host, "connection.port", "secret")
    assert await fails(new_cache(api), *bad_port) == "BAD_URI"


async def test_message_names_the_parameter_of_a_bad_number(api: Api) -> None:
    """A port or database that is given by itself is not said to be in the URI."""
    for parameter in ("port", "database"):
        cache = new_cache(api)
        cache.configure(
            ConfigParams.from_tuples("connection.host", "h", f"connection.{parameter}", "x")
        )
        with pytest.raises(CacheError, match=rf"^connection\.{parameter} is not a number$"):
            await cache.open(None)


async def test_nothing_is_no_connection(api: Api) -> None:
    """Without host and URI: NO_CONNECTION, never a silent localhost."""
    for config in ((), ("connection.port", 6379), ("options.timeout", 5), ("password", "secret")):
        assert await fails(new_cache(api), *config) == "NO_CONNECTION"
    unconfigured = new_cache(api)
    with pytest.raises(CacheConfigError) as caught:
        await unconfigured.open(None)
    assert caught.value.code == "NO_CONNECTION"


async def test_options(server: Server, api: Api) -> None:
    """In the section or at top level, where the section wins; an unknown top-level name is none."""
    for options in (
        ("options.timeout", "5000"),
        ("timeout", 5000),
        ("timeout", 9, "options.timeout", 5000),
        ("timeout", 5000, "colour", "red"),
    ):
        cache = new_cache(api)
        cache.configure(ConfigParams.from_tuples("uri", server.url, *options))
        async with cache:
            await cache.store(None, "key", 1)
            assert 1_000 < (await cache.time_to_live(None, "key") or 0) <= 5_000
    for option in ("options.colour", "options.Timeout"):
        with pytest.raises(CacheConfigError) as caught:
            new_cache(api).configure(ConfigParams.from_tuples("uri", server.url, option, "secret"))
        assert caught.value.code == "BAD_OPTION"
        assert "secret" not in str(caught.value)


@by_host_and_port_with_login
async def test_credentials(locked: Server, api: Api) -> None:
    """Username and password in a section or at top level, beside the place or over the URI's."""
    place = ("connection.host", locked.host, "connection.port", locked.port)
    for section in ("", "credential.", "credentials.0.", "credentials.primary."):
        await works(new_cache(api), *place, f"{section}password", "right")
        ann = (f"{section}username", "ann", f"{section}password", "hers")
        await works(new_cache(api), *place, *ann)
        wrong = (f"{section}username", "ann", f"{section}password", "secret")
        assert await fails(new_cache(api), *place, *wrong) == "BAD_CREDENTIALS"
    uri = ("connection.uri", locked.login_url("ann", "secret"))
    await works(new_cache(api), *uri, "credential.password", "hers")
    assert await fails(new_cache(api), *uri) == "BAD_CREDENTIALS"
    assert await fails(new_cache(api), *place) == "BAD_CREDENTIALS"


@by_host_and_port_with_login
async def test_discovery(locked: Server, api: Api) -> None:
    """`discovery_key` and `store_key` are looked up in the references, set before or after."""
    references = await _references(locked)
    keys = ("connection.discovery_key", "redis1", "credential.store_key", "login1")
    await works(new_cache(api), *keys, references=references)
    cache = new_cache(api)
    cache.set_references(references)
    await works(cache, *keys)
    await works(cache, *keys)
    flat = ("discovery_key", "redis1", "store_key", "login1")
    await works(new_cache(api), *flat, references=references)
    many = ("connections.0.discovery_key", "redis1", "credentials.0.store_key", "login1")
    await works(new_cache(api), *many, references=references)
    mixed = ("connection.host", locked.host, "connection.port", locked.port)
    await works(new_cache(api), *mixed, "credential.store_key", "login1", references=references)
    uri = ("connection.discovery_key", "by uri", "credential.store_key", "login1")
    await works(new_cache(api), *uri, references=references)


async def test_undiscovered_connection_raises(locked: Server, api: Api) -> None:
    """An unknown key, a failing service or none at all: CANNOT_RESOLVE, never a guess."""
    references = await _references(locked)
    place = ("connection.host", locked.host, "connection.port", locked.port)
    bad: list[tuple[object, ...]] = [
        ("connection.discovery_key", "unknown"),
        (*place, "credential.store_key", "unknown"),
    ]
    for config in bad:
        code = await fails(new_cache(api), *config, references=references)
        assert code == "CANNOT_RESOLVE"
        code = await fails(new_cache(api), *config)
        assert code == "CANNOT_RESOLVE"
    broken = References.from_tuples(DISCOVERY, BrokenDiscovery(), STORE, BrokenStore())
    assert await fails(new_cache(api), *bad[0], references=broken) == "CANNOT_RESOLVE"
    assert await fails(new_cache(api), *bad[1], references=broken) == "CANNOT_RESOLVE"


class BrokenDiscovery(MemoryDiscovery):
    """A discovery service that is away, and tells more than it should."""

    def resolve_one(self, context: Any, key: str) -> Any:
        raise OSError("secret address")


class BrokenStore(MemoryCredentialStore):
    """A credential store that is away, and tells more than it should."""

    def lookup(self, context: Any, key: str) -> Any:
        raise OSError("secret password")


async def _references(server: Server) -> References:
    discovery = MemoryDiscovery()
    place = ConnectionParams.from_tuples("host", server.host, "port", server.port)
    discovery.register(None, "redis1", place)
    by_uri = ConnectionParams.from_tuples("uri", f"valkey://{server.host}:{server.port}/0")
    discovery.register(None, "by uri", by_uri)
    store = MemoryCredentialStore()
    login = CredentialParams.from_tuples("username", "ann", "password", "hers")
    store.store(None, "login1", login)
    return References.from_tuples(DISCOVERY, discovery, STORE, store)


async def test_a_new_configuration_replaces_the_last(
    server: Server, private_server: StartServer, api: Api
) -> None:
    """An open cache keeps its configuration, and uses the new one once reopened."""
    other = private_server()
    cache = new_cache(api)
    old = ConfigParams.from_tuples("connection.uri", server.url, "options.timeout", 5_000)
    cache.configure(old)
    async with cache:
        cache.configure(ConfigParams.from_tuples("connection.uri", other.url, "key_prefix", "p:"))
        await cache.store(None, "key", "old")
        assert (await cache.time_to_live(None, "key") or 0) <= 5_000
    with server.client() as raw:
        assert raw.get("key") == b'"old"'
    async with cache:
        assert await cache.retrieve(None, "key") is None
        await cache.store(None, "key", "new")
        assert (await cache.time_to_live(None, "key") or 0) > 50_000
    with other.client() as raw:
        assert raw.get("p:key") == b'"new"'
    cache.configure(old)
    async with cache:
        assert await cache.retrieve(None, "key") == "old"


@pytest.fixture
def container(server: Server) -> Iterator[tuple[References, RedisCache, AsyncRedisCache]]:
    """Both caches, created, configured and referenced as the framework's container does it."""
    factory = CompositeFactory(DefaultRedisFactory())
    locators = [
        Descriptor("pip-services", "cache", kind, "mine", "1.0")
        for kind in ("redis", "async-redis")
    ]
    discovery = MemoryDiscovery(
        ConfigParams.from_tuples("redis1.host", server.host, "redis1.port", server.port)
    )
    references = References.from_tuples(DISCOVERY, discovery)
    caches: list[Any] = []
    for locator in locators:
        cache = factory.create(locator)
        cache.configure(ConfigParams.from_tuples("connection.discovery_key", "redis1"))
        references.put(locator, cache)
        caches.append(cache)
    for cache in caches:
        cache.set_references(references)
    yield references, caches[0], caches[1]
    caches[0].close(None)


@by_host_and_port
async def test_the_frameworks_container(
    container: tuple[References, RedisCache, AsyncRedisCache],
) -> None:
    """Opener and Closer open and close the synchronous cache, and leave the other to its awaiter."""
    references, blocking, asynchronous = container
    context = Context.from_trace_id("123")
    Opener.open(context, references.get_all())
    assert blocking.is_open()
    assert not asynchronous.is_open()
    await asynchronous.open(context)
    blocking.store(context, "key", "value", 5_000)
    assert await asynchronous.retrieve(context, "key") == "value"
    assert references.get_one_required(Descriptor("*", "cache", "*", "*", "*")) in (
        blocking,
        asynchronous,
    )
    Closer.close(context, references.get_all())
    assert not blocking.is_open()
    assert asynchronous.is_open()
    await asynchronous.close(context)


def test_both_classes_implement_the_contract() -> None:
    """The synchronous cache is an ICache of the framework; the other keeps its own contract."""
    assert isinstance(RedisCache(), ICache)
    assert not isinstance(AsyncRedisCache(), ICache)
    assert isinstance(AsyncRedisCache(), IAsyncCache)
    factory = DefaultRedisFactory()
    assert factory.can_create(Descriptor("pip-services", "cache", "memory", "x", "1.0")) is None


WITHOUT_CONFIG_PACKAGE = """
import sys
sys.modules["pip_services4_config"] = None

from pip_services4_components.config import ConfigParams
from pip_services4_components.refer import References

from async_redis_cache import CacheConfigError, RedisCache

host, port = sys.argv[1:]
cache = RedisCache()
cache.set_references(References())
login = ("credential.user", "ann", "credential.pass", "hers")
cache.configure(ConfigParams.from_tuples("connection.host", host, "connection.port", port, *login))
cache.open("123")
cache.store("123", "key1", "ABC", None)
print(cache.retrieve("123", "key1"))
cache.close("123")
for key in ("connection.discovery_key", "credential.store_key"):
    cache.configure(ConfigParams.from_tuples("connection.host", host, key, "key1"))
    try:
        cache.open("123")
    except CacheConfigError as error:
        print(error.code, "pip install 'async-redis-cache[pip-services]'" in str(error))
"""


def test_only_discovery_and_stores_need_the_config_package(locked: Server) -> None:
    """Without pip-services4-config, an address and a login are read; looking them up raises CANNOT_RESOLVE."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_CONFIG_PACKAGE, locked.host, str(locked.port)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["ABC", *["CANNOT_RESOLVE True"] * 2]
