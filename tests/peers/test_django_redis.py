"""What `docs/how-to/from-django-redis.md` says about django-redis is what django-redis does."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import django
import pytest
import redis
from django.conf import settings
from django.db import models

from async_redis_cache import CacheError, CacheInputError, RedisCache

if TYPE_CHECKING:
    from harness import Client, Proxy, Server, StartProxy, StartServer

if not settings.configured:
    settings.configure(INSTALLED_APPS=[])
    django.setup()

Cache: Any = import_module("django_redis.cache").RedisCache
THREADS = 20


def cache_of(server: Server | Proxy, **options: Any) -> Any:
    return Cache(server.url, {"OPTIONS": options})


@pytest.fixture
def cache(server: Server) -> Any:
    return cache_of(server)


def test_concurrent_misses_all_load(cache: Any) -> None:
    """Every thread that misses calls the function."""
    loading = threading.Barrier(THREADS)

    def load() -> int:
        loading.wait(60)
        return 1

    with ThreadPoolExecutor(THREADS) as threads:
        calls = [threads.submit(cache.get_or_set, "key", load) for _ in range(THREADS)]
        assert [call.result() for call in calls] == [1] * THREADS


def test_value_deleted_while_it_is_loaded_is_stored(cache: Any) -> None:
    """The old value stays until it expires; here it is not stored."""

    def load() -> str:
        cache.delete("key")
        return "old"

    cache.get_or_set("key", load)
    assert cache.get("key") == "old"


def test_default_time_limit(cache: Any, raw: Client) -> None:
    """300 seconds; None for ever; 0 removes the value."""
    cache.set("default", 1)
    cache.set("forever", 1, None)
    cache.set("removed", 1)
    cache.set("removed", 1, 0)
    assert 299 <= raw.ttl(":1:default") <= 300
    assert (raw.ttl(":1:forever"), raw.exists(":1:removed")) == (-1, 0)


def test_ttl(cache: Any) -> None:
    """0 without a value, None for one that never expires."""
    cache.set("forever", 1, None)
    assert (cache.ttl("forever"), cache.ttl("none")) == (None, 0)


def test_none_is_a_value(cache: Any) -> None:
    """It is stored, and not loaded again."""
    loads: list[int] = []
    assert [cache.get_or_set("key", lambda: loads.append(1)) for _ in range(2)] == [None, None]
    assert loads == [1]


def test_tuple_is_a_tuple(cache: Any) -> None:
    """Values are pickled."""
    cache.set("key", (1, 2))
    assert cache.get("key") == (1, 2)


def test_model_instances_and_querysets_are_refused(server: Server) -> None:
    """By this library, since JSON cannot represent them."""

    class Product(models.Model):  # noqa: DJ008  a model without anything
        class Meta:
            app_label = "shop"

    with RedisCache.from_url(server.url) as cache:
        queryset_of: Any = models.QuerySet
        for value in (Product(id=7), queryset_of(Product)):
            with pytest.raises(CacheInputError, match="cannot be serialized"):
                cache.store(None, "key", value)


def test_incr_needs_a_value(cache: Any) -> None:
    """Here it begins at 0."""
    with pytest.raises(ValueError, match="not found"):
        cache.incr("key")


def test_lock_never_expires_and_shares_its_key_with_a_value(cache: Any, raw: Client) -> None:
    """Unless it has a timeout, and another name."""
    with cache.lock("report"):
        assert raw.ttl(":1:report") == -1
        with pytest.raises(UnpicklingError):
            cache.get("report")


def test_clear_flushes_the_database(cache: Any, raw: Client) -> None:
    """Keys of other programs too."""
    raw.set("other", 1)
    cache.clear()
    assert raw.keys() == []


def test_refused_connections(server: Server, proxy: StartProxy) -> None:
    """Calls raise; where exceptions are ignored, `get_or_set` loads and `delete` is forgotten."""
    link = proxy(server)
    loud, quiet = cache_of(link), cache_of(link, IGNORE_EXCEPTIONS=True)
    quiet.set("key", "old")
    with RedisCache.from_url(link.url) as ours:
        values = ours.namespace("ours", ttl=60)
        values.set("key", "old")
        link.refuse()
        link.cut()
        with pytest.raises(redis.ConnectionError):
            loud.get_or_set("other", lambda: 1)
        assert quiet.get_or_set("other", lambda: 1) == 1
        assert quiet.delete("key") is None
        assert values.get_or_load("other", lambda: 1) == 1
        with pytest.raises(CacheError):
            values.delete("key")
        link.heal()
        assert quiet.get("key") == "old"
        assert values.get("key") is None


def test_get_or_set_waits_three_times_for_a_frozen_server(private_server: StartServer) -> None:
    """For the time limit of each command; `get_or_set` sends three."""
    limit = 0.2
    server = private_server()
    cache = cache_of(server, IGNORE_EXCEPTIONS=True, SOCKET_TIMEOUT=limit)
    cache.set("key", 1)
    server.freeze()
    started = time.monotonic()
    assert cache.get_or_set("key", lambda: 2) == 2
    assert time.monotonic() - started >= 3 * limit
    server.thaw()


def test_default_time_limit_of_a_command(cache: Any) -> None:
    """It is that of redis-py."""
    pool = cache.client.get_client().connection_pool
    assert "socket_timeout" not in pool.connection_kwargs
    connection: Any = redis.Connection
    assert connection().socket_timeout == 5
