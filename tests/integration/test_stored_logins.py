"""A login from a credential store: looked up again when the server refuses it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pytest
from pip_services4_components.config import ConfigParams
from pip_services4_components.refer import Descriptor, References
from pip_services4_config.auth import CredentialParams, MemoryCredentialStore

from async_redis_cache import CacheError, CacheLoginError
from harness import await_until
from harness.apis import APIS, Api, new_cache
from harness.near import trusted
from harness.rotation import FIRST, USER, Rotation, load_until

if TYPE_CHECKING:
    from async_redis_cache import AsyncRedisCache
    from harness import Proxy, Server, StartProxy, StartServer

STORE = Descriptor("pip-services", "credential-store", "memory", "default", "1.0")


class Store(MemoryCredentialStore):
    """Returns the login of a rotation, and counts."""

    def __init__(self, rotation: Rotation) -> None:
        super().__init__()
        self.rotation = rotation
        self.lookups = 0
        self.problem: Exception | threading.Event | None = None

    def lookup(self, context: Any, key: str) -> Any:
        assert key == "redis"
        self.lookups += 1
        if isinstance(self.problem, threading.Event):
            self.problem.wait()
        elif self.problem is not None:
            raise self.problem
        return CredentialParams.from_tuples("username", USER, "password", self.rotation.password)


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> Api:
    """Both APIs look up alike."""
    chosen: Api = request.param
    return chosen


@pytest.fixture
def rotation() -> Rotation:
    """The login that the server accepts."""
    return Rotation()


@pytest.fixture
def store(rotation: Rotation) -> Store:
    """The store that has it."""
    return Store(rotation)


@pytest.fixture
def network(private_server: StartServer, proxy: StartProxy, rotation: Rotation) -> Proxy:
    """In front of a server that requires the login."""
    server: Server = private_server(acl=rotation.acl, password="of the administrator")
    rotation.servers = [server.client()]
    return proxy(server)


def configured_by_store(
    network: Proxy, api: Api, store: Store, **options: object
) -> AsyncRedisCache:
    """A cache whose login comes from the store."""
    cache = new_cache(api)
    config = ConfigParams.from_tuples(
        "uri", network.login_url("", ""), "credential.store_key", "redis"
    )
    for name, value in ({"connect_timeout": 20_000} | options).items():
        config[f"options.{name}"] = value
    cache.configure(config)
    cache.set_references(References.from_tuples(STORE, store))
    return cache


async def test_store_is_asked_again_when_the_login_is_refused(
    network: Proxy, api: Api, store: Store, rotation: Rotation
) -> None:
    """Once at `open`, and once more for a refusal; no call fails, and the push connection comes back."""
    options = {"near_cache_enabled": True}
    async with configured_by_store(network, api, store, **options) as cache:
        await trusted(cache)
        rotation.rotate()
        await cache.store(None, "key", 1)
        await trusted(cache)
        assert 2 <= store.lookups <= 3
        network.forget()
        rotation.servers[0].execute_command("CLIENT", "KILL", "USER", USER)
        await cache.store(None, "key", 2)
        await trusted(cache)
        assert store.lookups <= 3


async def test_loads_succeed_while_the_password_of_a_store_rotates(
    network: Proxy, api: Api, store: Store, rotation: Rotation
) -> None:
    """39. With a credential store, the password rotates under load: no load fails."""
    async with configured_by_store(network, api, store) as cache:
        done = asyncio.Event()
        loading = asyncio.gather(*(load_until(done, cache) for _ in range(4)))
        await rotation.rotate_repeatedly(5, cache)
        done.set()
        assert sum(await loading) > 0
        assert store.lookups > rotation.rotations


async def test_wrong_login_in_a_store(
    network: Proxy, api: Api, store: Store, rotation: Rotation
) -> None:
    """`open` logs in once: looked up again, the login is the same."""
    rotation.password = "another"
    with pytest.raises(CacheLoginError) as caught:
        await configured_by_store(network, api, store).open(None)
    assert caught.value.code == "BAD_CREDENTIALS"
    assert (network.counts["AUTH"], store.lookups) == (1, 2)


@pytest.mark.parametrize("hangs", [False, True])
async def test_store_that_fails_is_asked_until_it_returns(
    network: Proxy, store: Store, rotation: Rotation, *, hangs: bool
) -> None:
    """While the store raises or hangs after a refusal, loads go on; it is asked again at the next attempt."""
    released = threading.Event()
    cache = configured_by_store(network, "async", store, connect_timeout=200)
    while not cache.is_open():
        with contextlib.suppress(CacheError):  # On a busy machine an attempt may take longer.
            await cache.open(None)
    try:
        async with cache:
            store.problem = released if hangs else OSError(FIRST)
            rotation.rotate()
            for number in range(10):
                assert await cache.retrieve_or_load(None, f"key-{number}", lambda: 7) == 7
            store.problem = None
            released.set()
            await await_until(lambda: cache.stats().open_circuits == 0)
            await cache.store(None, "key", 1)
    finally:
        released.set()
