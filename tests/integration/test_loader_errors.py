"""Exceptions of a loader reach the callers of its load unchanged, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import pytest

from async_redis_cache import (
    AsyncRedisCache,
    CacheLoadError,
    CoalescingLoader,
    RedisCache,
)
from harness import await_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from harness import Server

pytestmark = pytest.mark.depends_on()

END: Any = 10.0
"""Seconds after which a call that hangs fails its test: far less than `hard_timeout`."""
EXITS = [SystemExit, KeyboardInterrupt, GeneratorExit, BaseException]


@pytest.fixture
async def cache(server: Server) -> AsyncIterator[AsyncRedisCache]:
    """An open cache whose loads may take longer than any test."""
    async with AsyncRedisCache.from_url(
        server.url, key_prefix="errors:", loading_hard_timeout=600_000
    ) as cache:
        yield cache


@pytest.fixture
def sync_cache(server: Server) -> Iterator[RedisCache]:
    """The same, of the synchronous API."""
    with RedisCache.from_url(
        server.url, key_prefix="errors:", loading_hard_timeout=600_000
    ) as cache:
        yield cache


async def outcome(call: Awaitable[Any]) -> Any:
    """The result or exception of a call, as data, since some exceptions would end the event loop."""
    try:
        return await call
    except BaseException as error:  # noqa: BLE001
        return error


async def ended(*calls: Awaitable[Any]) -> list[Any]:
    """The result or exception of each call."""
    async with asyncio.timeout(END):
        return await asyncio.gather(*map(outcome, calls))


def raising(error: BaseException | type[BaseException]) -> Callable[..., Any]:
    """A coroutine function that raises."""

    async def loader(*_: Any) -> Any:
        raise error

    return loader


@pytest.mark.parametrize("kind", EXITS)
async def test_load_raises_any_base_exception_and_the_loop_goes_on(
    cache: AsyncRedisCache, kind: type[BaseException]
) -> None:
    """33. A loader of one key, of many or coalesced raises a BaseException: its callers get it, and no other call."""
    answers = await ended(
        cache.retrieve_or_load(None, "a", raising(kind)),
        cache.retrieve_or_load_entry(None, "b", raising(kind)),
        cache.refresh(None, "c", raising(kind)),
        cache.retrieve_or_load_many(None, ["d", "e"], raising(kind)),
        cache.retrieve_or_load(None, "f", CoalescingLoader(raising(kind))),
        cache.retrieve_or_load(None, "g", lambda: "other"),
    )
    assert [type(answer) for answer in answers[:-1]] == [kind] * 5
    assert answers[-1] == "other"
    assert await cache.retrieve_or_load(None, "a", lambda: "next") == "next"


@pytest.mark.parametrize("kind", EXITS)
async def test_load_in_thread_raises_any_base_exception(
    cache: AsyncRedisCache, kind: type[BaseException]
) -> None:
    """33. A plain loader raises SystemExit in a worker thread: its callers get it, and no other call."""

    def loader(*_: Any) -> Any:
        raise kind

    many = CoalescingLoader(loader, in_thread=True)
    answers = await ended(
        cache.retrieve_or_load(None, "a", loader, in_thread=True),
        cache.retrieve_or_load_many(None, ["b", "c"], loader, in_thread=True),
        cache.retrieve_or_load(None, "d", many),
    )
    assert [type(answer) for answer in answers] == [kind] * 3


async def test_background_load_that_exits_leaves_the_loop_running(cache: AsyncRedisCache) -> None:
    """33. A refresh in the background raises SystemExit: the stored value is served, and the failure is counted."""
    await cache.retrieve_or_load(None, "a", lambda: "old")
    failing = raising(SystemExit)
    async with asyncio.timeout(END):
        while not cache.stats().load_failures:
            found = await cache.retrieve_or_load(None, "a", failing, refresh_at=1e-9)
            assert found == "old"
    assert await cache.retrieve(None, "a") == "old"


@pytest.mark.parametrize("in_thread", [False, True])
async def test_load_raises_load_cancelled_when_loader_raises_cancelled_error(
    cache: AsyncRedisCache, *, in_thread: bool
) -> None:
    """33. A loader raises CancelledError: its callers get LOAD_CANCELLED, and are not cancelled."""
    cancelled = asyncio.CancelledError("own")

    def loader(*_: Any) -> Any:
        raise cancelled

    coalescing = CoalescingLoader(loader, in_thread=in_thread)
    answers = await ended(
        cache.retrieve_or_load(None, "a", loader, in_thread=in_thread),
        cache.retrieve_or_load(None, "a", loader, in_thread=in_thread),
        cache.retrieve_or_load_many(None, ["b", "c"], loader, in_thread=in_thread),
        cache.retrieve_or_load(None, "d", coalescing),
    )
    for answer in answers:
        assert isinstance(answer, CacheLoadError)
        assert answer.code == "LOAD_CANCELLED"
        assert answer.__cause__ is cancelled


async def test_load_raises_load_cancelled_when_loader_cancels_its_task(
    cache: AsyncRedisCache,
) -> None:
    """As a loader does that cancels what it awaits, or the task in which it runs."""

    async def cancelling() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    async def awaiting(_: list[str]) -> Mapping[str, Any]:
        task = asyncio.create_task(asyncio.sleep(600))
        asyncio.get_running_loop().call_soon(task.cancel)
        await task
        return {}

    answers = await ended(
        cache.retrieve_or_load(None, "a", cancelling),
        cache.retrieve_or_load_many(None, ["b", "c"], awaiting),
    )
    codes = [getattr(answer, "code", answer) for answer in answers]
    assert codes == ["LOAD_CANCELLED", "LOAD_CANCELLED"]


async def test_caller_is_cancelled_and_others_get_the_value(cache: AsyncRedisCache) -> None:
    """A caller's own cancellation stays one, and reaches no other caller of the load."""
    may_end = asyncio.Event()

    async def loader() -> str:
        await may_end.wait()
        return "value"

    first = asyncio.create_task(cache.retrieve_or_load(None, "a", loader))
    await await_until(lambda: cache.stats().loads == 1)
    second = asyncio.create_task(cache.retrieve_or_load(None, "a", loader))
    await await_until(lambda: cache.stats().misses == 2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    may_end.set()
    assert await second == "value"


def test_sync_load_raises_load_cancelled_when_loader_raises_cancelled_error(
    sync_cache: RedisCache,
) -> None:
    """In a worker thread, and in a coroutine on the private loop."""

    def loader(*_: Any) -> Any:
        raise asyncio.CancelledError

    for call in (
        lambda: sync_cache.retrieve_or_load(None, "a", loader),
        lambda: sync_cache.retrieve_or_load(None, "a", raising(asyncio.CancelledError)),
        lambda: sync_cache.retrieve_or_load_many(None, ["b"], loader),
        lambda: sync_cache.retrieve_or_load_many(None, ["b"], raising(asyncio.CancelledError)),
    ):
        with pytest.raises(CacheLoadError) as caught:
            call()
        assert caught.value.code == "LOAD_CANCELLED"


class Odd(dict[str, Any]):
    """A mapping that cannot be looked into."""

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, for some keys."""
        if key == "bad":
            raise LookupError("odd")
        return super().get(key, default)


async def test_mapping_whose_lookup_raises_fails_its_key_alone(cache: AsyncRedisCache) -> None:
    """A coalesced load of another key, by the same call of the loader, gets its value."""
    loader = CoalescingLoader(lambda keys: Odd({key: key for key in keys}))
    answers = await ended(
        cache.retrieve_or_load_many(None, ["a", "bad"], lambda keys: Odd(dict.fromkeys(keys, 1))),
        cache.retrieve_or_load(None, "bad", loader),
        cache.retrieve_or_load(None, "good", loader),
    )
    assert [type(answer) for answer in answers] == [LookupError, LookupError, str]


class Refused(Exception):
    """As web frameworks have them: made of keywords, which are not in its `args`."""

    def __init__(self, *, status: int) -> None:
        self.status = status


async def joined(cache: AsyncRedisCache, error: BaseException, callers: int) -> list[Any]:
    """The outcomes of the callers of one load whose loader raises."""
    may_end = asyncio.Event()

    async def loader() -> None:
        await may_end.wait()
        raise error

    def call() -> asyncio.Task[Any]:
        return asyncio.create_task(outcome(cache.retrieve_or_load(None, "a", loader)))

    before = cache.stats()
    calls = [call()]
    # A caller that has read before the lease was acquired may wait for that in a load of its own.
    await await_until(lambda: cache.stats().loads == before.loads + 1)
    calls += [call() for _ in range(callers - 1)]
    await await_until(lambda: cache.stats().misses == before.misses + callers)
    may_end.set()
    return await ended(*calls)


async def test_each_caller_gets_an_exception_of_its_own(cache: AsyncRedisCache) -> None:
    """The first gets the loader's; what a caller does to its exception, no other sees."""
    raised = Refused(status=403)
    raised.add_note("note")
    errors = await joined(cache, raised, 3)
    assert errors.count(raised) == 1
    assert len({id(error) for error in errors}) == 3
    for error in errors:
        assert isinstance(error, Refused)
        assert (error.status, error.__notes__) == (403, ["note"])
    depths = {len([*frames(error)]) for error in errors}
    assert len(depths) == 1
    assert all("loader" in [*frames(error)] for error in errors)


def frames(error: BaseException) -> Iterator[str]:
    """The names of the functions in an exception's traceback."""
    traceback = error.__traceback__
    while traceback is not None:
        yield traceback.tb_frame.f_code.co_name
        traceback = traceback.tb_next


async def test_each_caller_gets_the_fields_that_a_builtin_exception_has(
    cache: AsyncRedisCache,
) -> None:
    """They are not all in its `args`."""
    decoding = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid")
    decoding.start = 5
    for raised, field in [
        (FileNotFoundError(2, "none", "name"), "filename"),
        (ImportError("no", name="module"), "name"),
        (SystemExit(3), "code"),
        (decoding, "start"),
    ]:
        errors = await joined(cache, raised, 2)
        assert [type(error) for error in errors] == [type(raised)] * 2
        assert [getattr(error, field) for error in errors] == [getattr(raised, field)] * 2
        assert len({id(error) for error in errors}) == 2


class Unique(Exception):
    """An exception that is made of more than its `args`."""

    def __new__(cls, *, secret: object) -> Self:
        """Make one of a secret."""
        return super().__new__(cls, secret)

    def __init__(self, *, secret: object) -> None:
        self.secret = secret


async def test_callers_share_an_exception_that_cannot_be_copied(cache: AsyncRedisCache) -> None:
    """It is the loader's own."""
    raised = Unique(secret="one")
    errors = await joined(cache, raised, 3)
    assert all(error is raised for error in errors)


@pytest.mark.not_with(
    "eager", reason="an eager task begins inside its caller, whose frames it refers to"
)
@pytest.mark.parametrize("many", [False, True])
async def test_exception_is_freed_when_its_caller_drops_it(
    cache: AsyncRedisCache, *, many: bool
) -> None:
    """Without the garbage collector: no cycle holds what the loader's frames hold."""

    class Held:
        pass

    held: list[weakref.ref[Held]] = []

    async def loader(*_: Any) -> Any:
        local = Held()
        held.append(weakref.ref(local))
        raise LookupError

    async def call() -> Any:
        if many:
            return await cache.retrieve_or_load_many(None, ["a", "b"], loader)
        return await cache.retrieve_or_load(None, "a", loader)

    gc.disable()
    try:
        with contextlib.suppress(LookupError):
            await call()
        await await_until(lambda: held[0]() is None)
    finally:
        gc.enable()


async def test_stop_iteration_of_a_loader_is_the_cause_of_a_runtime_error(
    cache: AsyncRedisCache,
) -> None:
    """As Python does with every StopIteration that leaves a coroutine."""

    def loader() -> Any:
        raise StopIteration

    for in_thread in (False, True):
        answer = (await ended(cache.retrieve_or_load(None, "a", loader, in_thread=in_thread)))[0]
        assert isinstance(answer, RuntimeError)
        assert isinstance(answer.__cause__, StopIteration)


def waiting_for_loads(cache: RedisCache) -> int:
    """How many callers wait for loads now: a miss is counted a moment before its caller waits."""
    engine = cache._cache._lifecycle.engine()
    assert engine is not None
    return sum(len(flight.waiting) for flight in tuple(engine.single_flight._running))


def test_sync_callers_of_a_load_get_exceptions_of_their_own(sync_cache: RedisCache) -> None:
    """As those of the asynchronous API do."""
    may_end = threading.Event()

    def loader() -> None:
        may_end.wait(END)
        # A caller that has read before the others' lease, and asks after it, makes a load of its own.
        raise Refused(status=404)

    def call(_: int) -> BaseException:
        with pytest.raises(Refused) as caught:
            sync_cache.retrieve_or_load(None, "a", loader)
        return caught.value

    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(call, number) for number in range(4)]
        waited = threading.Event()
        for _ in range(int(END * 1000)):
            if waiting_for_loads(sync_cache) == 4:
                break
            waited.wait(0.001)
        may_end.set()
        errors = [one.result(END) for one in calls]
    assert len({id(error) for error in errors}) == 4
    assert {getattr(error, "status", None) for error in errors} == {404}
