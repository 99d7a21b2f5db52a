"""Both caches in the framework's container, on a server that requires a login."""

from __future__ import annotations

import asyncio
import sys
from importlib import import_module
from typing import Any

import pytest
from pip_services4_components.config import ConfigParams, IConfigurable
from pip_services4_components.context import Context
from pip_services4_components.refer import (
    DependencyResolver,
    Descriptor,
    IReferenceable,
    IReferences,
    Referencer,
    References,
)
from pip_services4_components.run import Closer, IOpenable, Opener
from pip_services4_config.auth import MemoryCredentialStore
from pip_services4_config.connect import MemoryDiscovery

from async_redis_cache import (
    AsyncRedisCache,
    CacheConfigError,
    CacheLoginError,
    DefaultRedisFactory,
    RedisCache,
)
from harness import Server, StartServer
from harness.choices import by_host_and_port_with_login

pytestmark = [pytest.mark.depends_on(), by_host_and_port_with_login]

SYNC = Descriptor("pip-services", "cache", "redis", "default", "1.0")
ASYNC = Descriptor("pip-services", "cache", "async-redis", "default", "1.0")
PASSWORD = "p@ss:word/#1"
CONFIG = ConfigParams.from_tuples(
    "connection.discovery_key", "cache",
    "credential.store_key", "cache",
    "options.key_prefix", "shop:",
)  # fmt: skip


@pytest.fixture
def server(private_server: StartServer) -> Server:
    """A server that requires its password."""
    return private_server(password=PASSWORD)


def references(server: Server, password: str, config: ConfigParams = CONFIG) -> References:
    """Both caches, made by the factory and wired as a container does it."""
    factory = DefaultRedisFactory()
    discovery = MemoryDiscovery()
    discovery.configure(
        ConfigParams.from_tuples("cache.host", server.host, "cache.port", server.port)
    )
    store = MemoryCredentialStore()
    store.configure(ConfigParams.from_tuples("cache.password", password))
    found = References.from_tuples(
        Descriptor("pip-services", "discovery", "memory", "default", "1.0"), discovery,
        Descriptor("pip-services", "credential-store", "memory", "default", "1.0"), store,
    )  # fmt: skip
    for descriptor in (SYNC, ASYNC):
        assert factory.can_create(descriptor) is not None
        cache = factory.create(descriptor)
        # As a container does, which asks for the interface.
        assert isinstance(cache, IConfigurable)
        cache.configure(config)
        found.put(descriptor, cache)
    Referencer.set_references(found, found.get_all())
    return found


def sync_cache(found: IReferences) -> RedisCache:
    """The cache that a component gets which requests any cache of this kind."""
    cache = found.get_one_required(Descriptor("*", "cache", "redis", "*", "1.0"))
    assert isinstance(cache, RedisCache)
    return cache


def async_cache(found: IReferences) -> AsyncRedisCache:
    """The same for the other API."""
    cache = found.get_one_required(Descriptor("*", "cache", "async-redis", "*", "1.0"))
    assert isinstance(cache, AsyncRedisCache)
    return cache


def test_framework_opens_and_closes_the_facade(server: Server) -> None:
    """Opener and Closer open and close the facade, with address and login from their stores."""
    found = references(server, PASSWORD)
    cache = sync_cache(found)
    context = Context.from_trace_id("123")
    Opener.open_one(context, cache)
    try:
        assert cache.is_open()
        assert cache.store(context, "key1", "ABC", 0) == "ABC"
        assert cache.retrieve(context, "key1") == "ABC"
        with server.client() as raw:
            assert raw.get("shop:key1") == b'"ABC"'
    finally:
        Closer.close_one(context, cache)
    assert not cache.is_open()


async def test_program_opens_and_closes_the_asynchronous_cache(server: Server) -> None:
    """The framework creates the asynchronous cache, and the program opens it."""
    found = references(server, PASSWORD)
    cache = async_cache(found)
    await cache.open(Context.from_trace_id("123"))
    try:
        assert await cache.store(None, "key1", [1, "ABC"]) == [1, "ABC"]
        assert await cache.retrieve(None, "key1") == [1, "ABC"]
    finally:
        await cache.close(None)
    assert not cache.is_open()


class Products(IReferenceable):
    """A component that depends on the asynchronous cache."""

    def __init__(self) -> None:
        self._resolver = DependencyResolver(
            ConfigParams.from_tuples("dependencies.cache", "*:cache:async-redis:*:1.0")
        )
        self.cache: AsyncRedisCache

    def set_references(self, references: IReferences) -> None:
        self._resolver.set_references(references)
        self.cache = self._resolver.get_one_required("cache")


async def test_component_gets_a_cache_that_the_container_has_wired(server: Server) -> None:
    """What depends on the asynchronous cache gets it with its discovery and credential stores set."""
    found = references(server, PASSWORD)
    products = Products()
    Referencer.set_references_for_one(found, products)
    assert not isinstance(products.cache, IOpenable)
    async with products.cache:
        assert await products.cache.store(None, "key1", "ABC") == "ABC"


def test_opener_leaves_the_asynchronous_cache_alone(server: Server) -> None:
    """The framework awaits nothing, so its Opener takes the asynchronous cache for no IOpenable."""
    found = references(server, PASSWORD)
    Opener.open(None, found.get_all())
    try:
        assert sync_cache(found).is_open()
        assert not async_cache(found).is_open()
    finally:
        Closer.close(None, found.get_all())
    assert not sync_cache(found).is_open()


def test_both_caches_share_their_values(server: Server) -> None:
    """What one API has stored the other retrieves."""
    found = references(server, PASSWORD)

    async def read() -> object:
        async with async_cache(found) as cache:
            return await cache.retrieve(None, "key")

    with sync_cache(found) as cache:
        cache.store(None, "key", {"of": "the other"})
        assert asyncio.run(read()) == {"of": "the other"}


def test_wrong_password_in_the_store_fails_typed(server: Server) -> None:
    """A wrong login fails Opener with BAD_CREDENTIALS and the trace id, and shows no secret."""
    cache = sync_cache(references(server, "wrong-secret"))
    with pytest.raises(CacheLoginError) as caught:
        Opener.open_one(Context.from_trace_id("123"), cache)
    assert (caught.value.code, caught.value.trace_id) == ("BAD_CREDENTIALS", "123")
    assert "secret" not in f"{caught.value!r} {caught.value} {vars(caught.value)}"
    assert not cache.is_open()


@pytest.mark.parametrize("key", ["connection.discovery_key", "credential.store_key"])
def test_key_that_no_store_knows_fails_typed(key: str, server: Server) -> None:
    """An address or login that is nowhere to be found is an error of the configuration."""
    config = ConfigParams(CONFIG)
    config[key] = "unheard-of"
    cache = sync_cache(references(server, PASSWORD, config))
    with pytest.raises(CacheConfigError):
        cache.open(None)
    assert not cache.is_open()


@pytest.mark.skipif(
    sys.version_info >= (3, 13),
    reason="an Enum of pip-services4-expressions, which the container imports, cannot be made there",
)
@pytest.mark.filterwarnings("ignore:In 3.13 the default `auto:DeprecationWarning")
async def test_container_wires_both_caches_from_its_configuration(server: Server) -> None:
    """The framework's own container builds, configures, wires and opens what its configuration names."""
    container: Any = import_module("pip_services4_container.container.Container").Container("shop")
    container.add_factory(DefaultRedisFactory())
    config = ConfigParams.from_tuples(
        "1.descriptor", "pip-services:discovery:memory:default:1.0",
        "1.cache.host", server.host,
        "1.cache.port", server.port,
        "2.descriptor", "pip-services:credential-store:memory:default:1.0",
        "2.cache.password", PASSWORD,
        "3.descriptor", "pip-services:cache:redis:default:1.0",
        "3.connection.discovery_key", "cache",
        "3.credential.store_key", "cache",
        "4.descriptor", "pip-services:cache:async-redis:default:1.0",
        "4.connection.discovery_key", "cache",
        "4.credential.store_key", "cache",
    )  # fmt: skip
    container.configure(config)
    container.open(None)
    try:
        products = Products()
        found: IReferences = container._references
        Referencer.set_references_for_one(found, products)
        sync_cache(found).store(None, "key1", "ABC", 0)
        async with products.cache:
            assert await products.cache.retrieve(None, "key1") == "ABC"
    finally:
        container.close(None)
