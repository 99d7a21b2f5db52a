"""Invalidations of a cache that is bound to a session of SQLAlchemy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.ext.asyncio import async_sessionmaker as async_maker
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    scoped_session,
    sessionmaker,
)

from async_redis_cache import AsyncRedisCache, CacheInputError, RedisCache
from async_redis_cache.sqlalchemy import bind
from harness import Server, StartProxy
from harness.waiting import await_until

if TYPE_CHECKING:
    from log_fixtures import LogRecorder

pytest_plugins = ["database_fixtures", "log_fixtures"]
pytestmark = pytest.mark.depends_on()

KEYS = ("kettle", "pot", "pan")
PRICE = text("SELECT amount FROM price WHERE product = 'kettle'")
RAISE = text("UPDATE price SET amount = amount + 1")
ORPHAN = text("INSERT INTO part VALUES ('nothing')")
"""Refused at COMMIT only: its foreign key is deferred."""


class Base(DeclarativeBase):
    """The mapped classes."""


class Price(Base):
    """A row of the table of prices."""

    __tablename__ = "price"
    product: Mapped[str] = mapped_column(primary_key=True)
    amount: Mapped[int]


@pytest.fixture
async def cache(any_server: Server, key_prefix: str) -> AsyncIterator[AsyncRedisCache]:
    """An open cache with a value of each key."""
    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        await cache.store_many(None, dict.fromkeys(KEYS, 1))
        yield cache


@pytest.fixture
def sync_cache(any_server: Server, key_prefix: str) -> Iterator[RedisCache]:
    """As `cache`, for threads."""
    with RedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        cache.store_many(None, dict.fromkeys(KEYS, 1))
        yield cache


async def kept(cache: AsyncRedisCache) -> set[str]:
    return {*await cache.retrieve_many(None, KEYS)}


async def test_commit_sends_and_waits(cache: AsyncRedisCache, async_engine: AsyncEngine) -> None:
    """Nothing is sent before the commit; once `commit` has returned, the keys are gone."""
    async with AsyncSession(async_engine) as session:
        await session.execute(RAISE)
        bound = bind(cache, session)
        bound.delete("kettle")
        bound.delete_many(["pot"])
        assert await kept(cache) == {*KEYS}
        await session.commit()
        assert await kept(cache) == {"pan"}


def test_commit_of_a_synchronous_session_sends(sync_cache: RedisCache, engine: Engine) -> None:
    """A `Session` with a `RedisCache` behaves in the same way."""
    with Session(engine) as session, session.begin():
        session.execute(RAISE)
        bind(sync_cache, session).delete("kettle")
        assert sync_cache.contains(None, "kettle")
    assert not sync_cache.contains(None, "kettle")


@pytest.mark.parametrize("end", ["rollback", "close"])
async def test_rollback_drops(cache: AsyncRedisCache, async_engine: AsyncEngine, end: str) -> None:
    """A transaction that is rolled back drops its invalidations, whatever the session did before and does after."""
    async with AsyncSession(async_engine) as session:
        await session.execute(RAISE)
        bind(cache, session).delete("kettle")
        await getattr(session, end)()
        await session.execute(RAISE)
        bind(cache, session).delete("pot")
        await session.commit()
        await session.execute(RAISE)
        bind(cache, session).delete("pan")
        await getattr(session, end)()
    assert await kept(cache) == {"kettle", "pan"}


def test_exception_drops(sync_cache: RedisCache, engine: Engine) -> None:
    """An exception that leaves the block of the transaction rolls it back."""

    def fail(session: Session) -> None:
        with session.begin():
            session.execute(RAISE)
            bind(sync_cache, session).delete("kettle")
            raise ZeroDivisionError

    with Session(engine) as session:
        with pytest.raises(ZeroDivisionError):
            fail(session)
        with session.begin():
            session.execute(RAISE)
    assert sync_cache.contains(None, "kettle")


async def test_failed_flush_drops(cache: AsyncRedisCache, async_engine: AsyncEngine) -> None:
    """Where a flush inside of `commit` fails, no COMMIT was sent, so neither are the invalidations."""
    async with AsyncSession(async_engine) as session:
        await session.execute(RAISE)
        bind(cache, session).delete("kettle")

        session.add(Price(product="kettle", amount=3))
        with pytest.raises(IntegrityError):
            await session.commit()
        await session.rollback()
    assert await kept(cache) == {*KEYS}


async def test_savepoint_keeps_or_drops_its_own(
    cache: AsyncRedisCache, async_engine: AsyncEngine
) -> None:
    """A released savepoint hands its invalidations to the transaction; one that is rolled back drops them."""
    async with AsyncSession(async_engine) as session, session.begin():
        bound = bind(cache, session)
        async with session.begin_nested():
            await session.execute(RAISE)
            bound.delete("kettle")
        assert await kept(cache) == {*KEYS}
        undone = await session.begin_nested()
        bound.delete("pot")
        async with session.begin_nested():
            bound.delete("pan")
        await undone.rollback()
    assert await kept(cache) == {"pot", "pan"}


async def test_rollback_drops_released_savepoints(
    cache: AsyncRedisCache, async_engine: AsyncEngine
) -> None:
    """A savepoint that was released is undone with its transaction."""
    async with AsyncSession(async_engine) as session:
        async with session.begin_nested():
            await session.execute(RAISE)
            bind(cache, session).delete("kettle")
        await session.rollback()
    assert await kept(cache) == {*KEYS}


async def test_commit_ends_open_savepoints(
    cache: AsyncRedisCache, async_engine: AsyncEngine
) -> None:
    """`commit` within a savepoint commits the transaction too, with the invalidations of both."""
    async with AsyncSession(async_engine) as session:
        await session.execute(RAISE)
        bind(cache, session).delete("kettle")
        await session.begin_nested()
        bind(cache, session).delete("pot")
        await session.commit()
    assert await kept(cache) == {"pan"}


async def test_load_that_read_before_the_commit_is_not_stored(
    cache: AsyncRedisCache, async_engine: AsyncEngine
) -> None:
    """A load reads the old row and ends after the commit: the cache does not keep it, in any process."""
    read, go_on = asyncio.Event(), asyncio.Event()

    async def load() -> int:
        async with AsyncSession(async_engine) as session:
            price = (await session.execute(PRICE)).scalar_one()
        read.set()
        await go_on.wait()
        return int(price)

    await cache.remove(None, "kettle")
    loading = asyncio.create_task(cache.retrieve_or_load(None, "kettle", load))
    await read.wait()
    async with AsyncSession(async_engine) as session, session.begin():
        await session.execute(RAISE)
        bind(cache, session).delete("kettle")
    go_on.set()
    assert await loading == 1
    assert await cache.retrieve(None, "kettle") is None
    assert await cache.retrieve_or_load(None, "kettle", load) == 2


async def test_load_of_another_process_is_not_stored(
    cache: AsyncRedisCache, async_engine: AsyncEngine, any_server: Server, key_prefix: str
) -> None:
    """The same for a load of another cache, as another process has: the deletion voids its lease."""
    began, go_on = asyncio.Event(), asyncio.Event()

    async def load_old() -> int:
        began.set()
        await go_on.wait()
        return 1

    await cache.remove(None, "kettle")
    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as other:
        loading = asyncio.create_task(other.retrieve_or_load(None, "kettle", load_old))
        await began.wait()
        async with AsyncSession(async_engine) as session, session.begin():
            await session.execute(RAISE)
            bind(cache, session).delete("kettle")
        go_on.set()
        assert await loading == 1
        assert await other.retrieve(None, "kettle") is None


async def test_tags_are_invalidated_however_many(
    cache: AsyncRedisCache, async_engine: AsyncEngine
) -> None:
    """More tags than one call may have are sent in several."""
    tags = [f"tag-{number}" for number in range(100)]
    await cache.store(None, "first", 1, tags=tags[:1])
    await cache.store(None, "last", 1, tags=tags[-1:])
    async with AsyncSession(async_engine) as session, session.begin():
        await session.execute(RAISE)
        bind(cache, session).invalidate_tags(*tags)
        assert await cache.retrieve(None, "first") == 1
    assert await cache.retrieve_many(None, ["first", "last"]) == {}


async def test_cancelled_commit_still_sends(
    cache: AsyncRedisCache, async_engine: AsyncEngine
) -> None:
    """If the caller is cancelled after the COMMIT, the invalidations are sent all the same, and the session works."""
    session = AsyncSession(async_engine)
    await session.execute(RAISE)
    bind(cache, session).delete("kettle")
    commit = asyncio.create_task(session.commit())

    def cancel(_: Session) -> None:
        commit.cancel()

    event.listen(session.sync_session, "after_commit", cancel, once=True)
    with pytest.raises(asyncio.CancelledError):
        await commit
    assert (await session.execute(PRICE)).scalar_one() == 2
    await session.close()
    # Requests are executed in the order in which they were sent, so the removal is before this read.
    assert await kept(cache) == {"pot", "pan"}


async def test_cancelled_wait_does_not_cancel_what_is_sent(
    any_server: Server, proxy: StartProxy, async_engine: AsyncEngine, key_prefix: str
) -> None:
    """A caller that is cancelled while `commit` waits for the server leaves the request to be sent."""
    link = proxy(any_server)
    async with AsyncRedisCache.from_url(
        link.url, key_prefix=key_prefix, max_connections=1, command_timeout=20_000
    ) as cache:
        await cache.store_many(None, dict.fromkeys(KEYS, 1))
        link.black_hole()
        # It occupies the only connection, so that the removal has to wait for it.
        reading = asyncio.create_task(cache.retrieve(None, "pan"))
        await asyncio.sleep(0)
        session = AsyncSession(async_engine)
        await session.execute(RAISE)
        bind(cache, session).delete("kettle")
        commit = asyncio.create_task(session.commit())

        def cancel_soon(*_: object) -> None:
            asyncio.get_running_loop().call_soon(commit.cancel)

        # Before the listener that waits, which is one of all sessions.
        event.listen(Session, "after_transaction_end", cancel_soon, insert=True)
        with pytest.raises(asyncio.CancelledError):
            await commit
        event.remove(Session, "after_transaction_end", cancel_soon)
        link.heal()
        await reading
        assert await kept(cache) == {"pot", "pan"}
        await session.close()


def test_commit_of_unknown_outcome_sends(sync_cache: RedisCache, engine: Engine) -> None:
    """If COMMIT raises, the database may have committed all the same, so the invalidations are sent."""
    with Session(engine) as session:
        session.execute(ORPHAN)
        bind(sync_cache, session).delete("kettle")
        with pytest.raises(IntegrityError):
            session.commit()
        session.rollback()
    assert not sync_cache.contains(None, "kettle")


async def test_asynchronous_commit_of_unknown_outcome_sends(
    cache: AsyncRedisCache, async_engine: AsyncEngine
) -> None:
    """The same for an `AsyncSession`: they are sent when the session ends the transaction."""
    async with AsyncSession(async_engine) as session:
        await session.execute(ORPHAN)
        bind(cache, session).delete("kettle")
        with pytest.raises(IntegrityError):
            await session.commit()
    assert await kept(cache) == {"pot", "pan"}


async def test_orm_events_may_bind_the_inner_session(
    cache: AsyncRedisCache, async_engine: AsyncEngine
) -> None:
    """Events of the ORM get the synchronous session inside of an `AsyncSession`, and may record during a flush."""

    def invalidate(session: Session, _: object) -> None:
        bind(cache, session).delete_many(str(row.product) for row in session.dirty)

    async with AsyncSession(async_engine) as session:
        event.listen(session.sync_session, "after_flush", invalidate)
        kettle = await session.get_one(Price, "kettle")
        kettle.amount = 5
        await session.commit()
    assert await kept(cache) == {"pot", "pan"}


@pytest.mark.parametrize("name", ["before_commit", "after_flush"])
async def test_events_of_a_commit_may_bind_first(
    cache: AsyncRedisCache, async_engine: AsyncEngine, name: str
) -> None:
    """A session that is bound only while it commits sends as any other, even if the outcome is unknown."""
    async with AsyncSession(async_engine) as session:

        def invalidate(session: Session, *_: object) -> None:
            bind(cache, session).delete("kettle")

        event.listen(session.sync_session, name, invalidate)
        await session.execute(ORPHAN)
        session.add(Price(product="lid", amount=3))
        with pytest.raises(IntegrityError):
            await session.commit()
    assert await kept(cache) == {"pot", "pan"}


async def test_sessions_with_the_info_of_another_are_bound(
    cache: AsyncRedisCache, async_engine: AsyncEngine
) -> None:
    """What a session keeps in its `info` is not taken for that of a session to which the `info` was copied."""
    async with AsyncSession(async_engine) as session, session.begin():
        await session.execute(RAISE)
        bind(cache, session).delete("kettle")
    async with AsyncSession(async_engine, info=session.info) as other, other.begin():
        await other.execute(RAISE)
        bind(cache, other).delete("pot")
    assert await kept(cache) == {"pan"}


async def test_unreachable_server_does_not_fail_the_commit(
    any_server: Server, proxy: StartProxy, async_engine: AsyncEngine, key_prefix: str
) -> None:
    """The commit succeeds, and the keys are pending: no read of this cache returns their old values."""
    link = proxy(any_server)
    async with AsyncRedisCache.from_url(link.url, key_prefix=key_prefix, retries=0) as cache:
        await cache.store(None, "kettle", 1)
        link.refuse()
        link.cut()
        async with AsyncSession(async_engine) as session, session.begin():
            await session.execute(RAISE)
            bind(cache, session).delete("kettle")
        assert cache.stats().pending_invalidations == 1
        link.heal()
        await await_until(lambda: cache.stats().pending_invalidations == 0)
        assert await cache.retrieve(None, "kettle") is None


async def test_failure_that_is_not_pending_is_logged(
    cache: AsyncRedisCache, async_engine: AsyncEngine, key_prefix: str, logged: LogRecorder
) -> None:
    """A cache that was closed cannot invalidate later: the commit succeeds, and an error is logged."""
    async with AsyncSession(async_engine) as session, session.begin():
        await session.execute(RAISE)
        bind(cache, session).delete("kettle")
        await cache.close(None)
    assert logged.events == ["invalidations_failed"]
    (record,) = logged.records
    assert record.__dict__["cache_code"] == "NOT_OPENED"
    assert record.getMessage().startswith(f"[{key_prefix}] a database transaction has committed")


async def test_record_without_a_transaction_is_refused(
    cache: AsyncRedisCache, async_engine: AsyncEngine
) -> None:
    """Before a transaction there is nothing to wait for, and after it the record would never be sent."""
    async with AsyncSession(async_engine) as session:
        bound = bind(cache, session)
        with pytest.raises(RuntimeError, match="has not begun"):
            bound.delete("kettle")
        await session.execute(RAISE)
        bound.delete("kettle")
        await session.commit()
        with pytest.raises(RuntimeError, match="has not begun"):
            bound.delete("pot")


async def test_invalid_names_are_refused_when_recorded(
    cache: AsyncRedisCache, async_engine: AsyncEngine
) -> None:
    """An invalid key or tag raises where it is passed, and costs no other its invalidation."""
    async with AsyncSession(async_engine) as session, session.begin():
        await session.execute(RAISE)
        bound = bind(cache, session)
        for record in (bound.delete, bound.delete_many, bound.invalidate_tags):
            with pytest.raises(CacheInputError):
                record("")
        bound.delete("kettle")
    assert await kept(cache) == {"pot", "pan"}


async def test_kinds_that_do_not_fit_are_refused(
    cache: AsyncRedisCache, async_engine: AsyncEngine, engine: Engine
) -> None:
    """A synchronous session cannot await, and an asynchronous one must not block its loop."""
    with (
        Session(engine) as session,
        pytest.raises(TypeError, match=r"a Session needs a RedisCache.*as_sync\(\)"),
    ):
        bind(cache, session)
    async with AsyncSession(async_engine) as async_session:
        with pytest.raises(
            TypeError, match=r"an AsyncSession needs an AsyncRedisCache.*as_async\(\)"
        ):
            bind(RedisCache(), async_session)
        with pytest.raises(TypeError, match="expected a cache"):
            bind({}, async_session)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_namespace_is_bound(cache: AsyncRedisCache, async_engine: AsyncEngine) -> None:
    """Keys of a bound namespace are its own, hashed where it hashes them; a rollback drops them."""
    prices, other = cache.namespace("price", long_keys="hash"), cache.namespace("other")
    keys = ["kettle", "x" * 600]
    for namespace in (prices, other):
        await namespace.set("kettle", 1)
    await prices.set_many(dict.fromkeys(keys, 1), tags=("all",))
    await prices.set("tagged", 1, tags=("all",))
    async with AsyncSession(async_engine) as session:
        await session.execute(RAISE)
        bind(prices, session).delete_many(keys)
        await session.rollback()
        assert [*await prices.get_many(keys)] == keys
        await session.execute(RAISE)
        bind(prices, session).delete_many(keys)
        bind(prices, session).invalidate_tags("all")
        assert [*await prices.get_many(keys)] == keys
        await session.commit()
    assert await prices.get_many([*keys, "tagged"]) == {}
    assert await other.get("kettle") == 1
    assert await kept(cache) == {*KEYS}


async def test_namespaces_on_one_core_are_bound(
    any_server: Server, key_prefix: str, async_engine: AsyncEngine, engine: Engine
) -> None:
    """Of a cache for any loop and its twin for threads, each is bound to the sessions of its kind."""
    cache = AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix, any_loop=True)
    async with cache:
        prices, twin = cache.namespace("price"), cache.as_sync().namespace("price")
        await prices.set_many({"kettle": 1, "pot": 1})
        async with AsyncSession(async_engine) as async_session:
            await async_session.execute(RAISE)
            bind(prices, async_session).delete("kettle")
            await async_session.commit()
        assert [*await prices.get_many(["kettle", "pot"])] == ["pot"]

        def delete() -> None:
            with Session(engine) as session, session.begin():
                session.execute(RAISE)
                bind(twin, session).delete("pot")

        await asyncio.to_thread(delete)
        assert await prices.get_many(["kettle", "pot"]) == {}


def test_synchronous_namespace_is_bound(sync_cache: RedisCache, engine: Engine) -> None:
    """The same for threads; the kinds have to fit, and a key that is too long raises where it is passed."""
    prices = sync_cache.namespace("price")
    prices.set("kettle", 1)
    with Session(engine) as session:
        session.execute(RAISE)
        with pytest.raises(CacheInputError):
            bind(prices, session).delete("x" * 600)
        bind(prices, session).delete("kettle")
        session.commit()
        with pytest.raises(TypeError, match="needs a RedisCache or a SyncNamespace, not Namespace"):
            bind(AsyncRedisCache().namespace("price"), session)
    assert not prices.contains("kettle")
    assert sync_cache.contains(None, "kettle")


async def test_registries_of_scoped_sessions_are_bound(
    cache: AsyncRedisCache, async_engine: AsyncEngine
) -> None:
    """A registry stands for its current session."""
    sessions = async_scoped_session(async_maker(async_engine), asyncio.current_task)
    await sessions.execute(RAISE)
    bind(cache, sessions).delete("kettle")
    await sessions.commit()
    await sessions.remove()
    assert await kept(cache) == {"pot", "pan"}


def test_registry_of_synchronous_sessions_is_bound(sync_cache: RedisCache, engine: Engine) -> None:
    """The same for threads."""
    sessions = scoped_session(sessionmaker(engine))
    sessions.execute(RAISE)
    bind(sync_cache, sessions).delete("kettle")
    sessions.commit()
    sessions.remove()
    assert not sync_cache.contains(None, "kettle")
