"""Invalidations of a cache that is bound to a transaction of Django."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import django
import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connection, connections, transaction

from async_redis_cache import AsyncRedisCache, CacheInputError, RedisCache
from async_redis_cache.django import bind
from harness import Server

if TYPE_CHECKING:
    from log_fixtures import LogRecorder

pytest_plugins = ["log_fixtures"]
pytestmark = pytest.mark.depends_on()

KEYS = ("kettle", "pot", "pan")


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Django with two databases. It can be configured once in a process only."""
    folder = tmp_path_factory.mktemp("django")
    databases = {
        alias: {"ENGINE": "django.db.backends.sqlite3", "NAME": str(folder / f"{alias}.db")}
        for alias in ("default", "stock")
    }
    if not settings.configured:
        settings.configure(DATABASES=databases)
        django.setup()


@pytest.fixture
def database(configured: None) -> Iterator[None]:
    """A table with the price of the kettle, which is 1."""
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS price")
        cursor.execute("CREATE TABLE price (product TEXT PRIMARY KEY, amount INTEGER)")
        cursor.execute("INSERT INTO price VALUES ('kettle', 1)")
    yield
    connections.close_all()


@pytest.fixture
def cache(database: None, any_server: Server, key_prefix: str) -> Iterator[RedisCache]:
    """An open cache with a value of each key."""
    with RedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        cache.store_many(None, dict.fromkeys(KEYS, 1))
        yield cache


def kept(cache: RedisCache) -> set[str]:
    return {*cache.retrieve_many(None, KEYS)}


def read_price() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT amount FROM price")
        return int(cursor.fetchone()[0])


def raise_price() -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE price SET amount = amount + 1")


def test_commit_sends(cache: RedisCache) -> None:
    """Nothing is sent before the outermost block ends; then the keys are gone."""
    bound = bind(cache)
    with transaction.atomic():
        raise_price()
        bound.delete("kettle")
        bound.delete_many(["pot"])
        assert kept(cache) == {*KEYS}
    assert kept(cache) == {"pan"}


def test_rollback_drops(cache: RedisCache) -> None:
    """An exception that leaves the outermost block drops the invalidations."""

    def fail() -> None:
        with transaction.atomic():
            bind(cache).delete("kettle")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with transaction.atomic():
        bind(cache).delete("pot")
    assert kept(cache) == {"kettle", "pan"}


def test_savepoint_keeps_or_drops_its_own(cache: RedisCache) -> None:
    """An inner block that is rolled back drops its invalidations; others are sent with the outermost."""

    def fail() -> None:
        with transaction.atomic():
            bind(cache).delete("pot")
            raise ZeroDivisionError

    with transaction.atomic():
        with transaction.atomic():
            bind(cache).delete("kettle")
        with pytest.raises(ZeroDivisionError):
            fail()
        assert kept(cache) == {*KEYS}
    assert kept(cache) == {"pot", "pan"}


def test_tags_are_invalidated(cache: RedisCache) -> None:
    """Tags wait for the commit as keys do."""
    cache.store(None, "kitchen", 1, tags=["kettle"])
    with transaction.atomic():
        bind(cache).invalidate_tags("kettle")
        assert cache.retrieve(None, "kitchen") == 1
    assert cache.retrieve(None, "kitchen") is None


def test_autocommit_sends_at_once(cache: RedisCache) -> None:
    """Outside of a transaction each query is committed by itself, and there is nothing to wait for."""
    bind(cache).delete("kettle")
    assert kept(cache) == {"pot", "pan"}


def test_namespace_is_bound(cache: RedisCache) -> None:
    """Keys of a bound namespace are its own."""
    prices = cache.namespace("price")
    prices.set("kettle", 1)
    bound = bind(prices)
    with transaction.atomic():
        raise_price()
        bound.delete("kettle")
        assert prices.get("kettle") == 1
    assert prices.get("kettle") is None
    assert kept(cache) == {*KEYS}


def test_other_database_is_named(cache: RedisCache) -> None:
    """The transaction of another database is chosen by its alias."""
    with transaction.atomic(using="stock"):
        bind(cache, using="stock").delete("kettle")
        with transaction.atomic():
            pass
        assert kept(cache) == {*KEYS}
    assert kept(cache) == {"pot", "pan"}


def test_load_that_read_before_the_commit_is_not_stored(cache: RedisCache) -> None:
    """A load in another thread reads the old row and ends after the commit: the cache does not keep it."""
    began, go_on = threading.Event(), threading.Event()
    loaded: list[int] = []

    def load() -> int:
        price = read_price()
        connections.close_all()
        began.set()
        assert go_on.wait(10)
        return price

    cache.remove(None, "kettle")
    thread = threading.Thread(
        target=lambda: loaded.append(cache.retrieve_or_load(None, "kettle", load))
    )
    thread.start()
    assert began.wait(10)
    with transaction.atomic():
        raise_price()
        bind(cache).delete("kettle")
    go_on.set()
    thread.join()
    assert loaded == [1]
    assert cache.retrieve(None, "kettle") is None
    assert cache.retrieve_or_load(None, "kettle", read_price, in_thread="caller") == 2


def test_failure_does_not_fail_the_block(cache: RedisCache, logged: LogRecorder) -> None:
    """The transaction has committed, so the block does not raise; what cannot be pending is logged."""
    with transaction.atomic():
        raise_price()
        bind(cache).delete("kettle")
        cache.close(None)
    assert read_price() == 2
    assert logged.events == ["invalidations_failed"]


def test_asynchronous_view_calls_a_transaction(cache: RedisCache) -> None:
    """In a coroutine, the function with the transaction runs in a thread, and its cache with it."""

    def change() -> None:
        with transaction.atomic():
            raise_price()
            bind(cache).delete("kettle")
        connections.close_all()

    asyncio.run(sync_to_async(change)())
    assert kept(cache) == {"pot", "pan"}


def test_invalid_input_is_refused_when_recorded(cache: RedisCache) -> None:
    """An invalid key, or an asynchronous cache, raises within the block."""
    with pytest.raises(CacheInputError):
        bind(cache).delete("")
    with pytest.raises(TypeError, match=r"need a RedisCache.*as_sync\(\)"):
        bind(AsyncRedisCache())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
