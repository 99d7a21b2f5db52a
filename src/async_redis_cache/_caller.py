"""The asynchronous API, stepped by a thread that waits: the synchronous one is no second implementation.

A coroutine of `AsyncRedisCache` awaits nothing but calls of its engine. So a calling thread can step it
itself, where these calls are made on the private loop and waited for. Keys, serializers and types are then
worked on in the calling thread, with its context and its thread-locals, and hold up nobody else; and
whatever the loop does, each call has a deadline of its own.

What a load needs of its caller, the loop lets the calling thread do while that waits for the load: see
`LoadSide`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Generator,
    Iterable,
    Sequence,
)
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final, TypeVar, cast

from ._cache import AsyncRedisCache
from ._counters import CacheStats
from ._desk import Desk, RefusedError, Visit, local
from ._engine import Engine
from ._errors import CacheError, CacheStateError
from ._failures import TIMED_OUT, UNKNOWN, Failure
from ._flights import Wanted
from ._heads import IsReadable
from ._lifecycle import Lifecycle, Opened
from ._portal import Portal
from ._raised import Raised, caught
from ._rights import Product, Stored
from ._serializers import Serializer
from ._verbs import Entry

__all__ = ["CallerCache", "drive"]

T = TypeVar("T")


class Hop:
    """A call of the engine that is made on the private loop.

    Args:
        function: what is called.
        args: what it takes.
    """

    __slots__ = ("args", "function")

    given_up: Failure = TIMED_OUT
    """What it ends in when it is given up after it has begun."""
    unsent: Callable[[CacheError], None] | None = None
    """Called on the loop with the error of one that is given up before it has begun."""
    longest = 0.0
    """Seconds that it may take beyond the deadline of every call."""

    def __init__(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        self.function = function
        self.args = args

    def __await__(self) -> Generator[Hop, Any, Any]:
        return (yield self)


class _Write(Hop):
    """A call that may have changed something when it is given up."""

    given_up = UNKNOWN

    def __init__(
        self,
        function: Callable[..., Awaitable[Any]],
        *args: Any,
        unsent: Callable[[CacheError], None] | None = None,
    ) -> None:
        super().__init__(function, *args)
        self.unsent = unsent


class _Load(Hop):
    """A load, whose origin takes its own time."""

    def __init__(self, longest: float, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        super().__init__(function, *args)
        self.longest = longest


class _Together:
    """Coroutines that are stepped side by side, until all have ended."""

    __slots__ = ("coroutines",)

    def __init__(self, coroutines: Sequence[Coroutine[Any, Any, Any]]) -> None:
        self.coroutines = coroutines

    def __await__(self) -> Generator[_Together, Any, list[Any]]:
        results: list[Any] = yield self
        return results


class _Strand:
    """A coroutine that is stepped, and what waits for it."""

    __slots__ = ("coroutine", "ended")

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        ended: Callable[[Any, BaseException | None], None],
    ) -> None:
        self.coroutine = coroutine
        self.ended = ended


class _Drive(threading.local):
    """The call that this thread makes."""

    current: _Driver | None = None


_local: Final = _Drive()


def drive(portal: Portal, coroutine: Coroutine[Any, Any, T], patience: float) -> T:
    """Step a coroutine of `CallerCache` to its end, in this thread; what it gives.

    Args:
        portal: where its engine is.
        coroutine: of a method.
        patience: seconds that it may take, loads aside.

    Raises:
        RefusedError: IN_EVENT_LOOP on a portal's thread.
        CacheStateError: NOT_OPENED, when the portal is closed.
        CacheTimeout: the loop has not answered in time, and nothing was sent.
        CacheOutcomeUnknown: the same of a write that may have been sent.
    """
    if local.serves:
        coroutine.close()
        portal.refuse_inside()
    # A serializer may make another call.
    before, _local.current = _local.current, _Driver(portal, patience)
    try:
        result: T = _local.current.run(coroutine)
    finally:
        _local.current = before
    return result


def _current() -> _Driver:
    current = _local.current
    if current is None:
        raise RuntimeError("the engine of a private loop is called by `drive` alone")
    return current


class _Driver:
    """Steps one call.

    Args:
        portal: where its engine is.
        patience: seconds that it may take, loads aside.
    """

    __slots__ = (
        "_deadline",
        "_due",
        "_error",
        "_has_ended",
        "_hops",
        "_result",
        "_strands",
        "desk",
        "portal",
    )

    def __init__(self, portal: Portal, patience: float) -> None:
        self.portal = portal
        self.desk = Desk(portal.look_after)
        self._due = self._deadline = time.monotonic() + patience
        self._hops: dict[Visit, tuple[_Strand, Hop]] = {}
        """Those under way."""
        self._strands: list[_Strand] = []
        self._has_ended = False
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Step it to its end."""
        try:
            self._run(coroutine)
            while not self._has_ended:
                item = self.desk.wait(self._deadline)
                if item is None:
                    self._expire()
                else:
                    item.done()
        except BaseException:
            # Of an interrupt, or of what a load has had done here.
            self.desk.leave()
            coroutine.close()
            for strand in reversed(self._strands):
                strand.coroutine.close()
            raise
        finally:
            # They hold this driver.
            self._strands.clear()
        self.desk.close()
        error, self._error = self._error, None
        if error is None:
            return self._result
        try:
            raise error
        finally:
            # Its traceback holds this frame, which must not hold it.
            del error

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Step it for as long as it asks for one thing at a time and gets it: most calls, and all the way."""
        submit, desk, result = self.portal.submit, self.desk, None
        try:
            while True:
                awaited = coroutine.send(result)
                if type(awaited) is not Hop and type(awaited) is not _Write:
                    return self._begin_awaited(self._strand(coroutine), awaited)
                visit = submit(awaited.function, awaited.args, desk, self._resume)
                while (item := desk.wait(self._deadline)) is not visit:
                    if item is None:
                        self._hops[visit] = self._strand(coroutine), awaited
                        return self._expire()
                    item.done()
                if visit.error is not None:
                    self._hops[visit] = self._strand(coroutine), awaited
                    return self._resume(visit)
                result = visit.result
        except StopIteration as stop:
            self._end(stop.value, None)
        except Exception as error:  # noqa: BLE001  it is raised again
            self._end(None, error)
        return None

    def _strand(self, coroutine: Coroutine[Any, Any, Any]) -> _Strand:
        strand = _Strand(coroutine, self._end)
        self._strands.append(strand)
        return strand

    def _end(self, result: Any, error: BaseException | None) -> None:
        self._has_ended, self._result, self._error = True, result, error

    def _begin(
        self,
        coroutine: Coroutine[Any, Any, Any],
        ended: Callable[[Any, BaseException | None], None],
    ) -> None:
        strand = _Strand(coroutine, ended)
        self._strands.append(strand)
        self._step(strand, None, None)

    def _step(self, strand: _Strand, result: Any, error: BaseException | None) -> None:
        try:
            if error is None:
                awaited = strand.coroutine.send(result)
            else:
                awaited = strand.coroutine.throw(error)
        except StopIteration as stop:
            strand.ended(stop.value, None)
        except BaseException as raised:  # noqa: BLE001  it is raised again when all have ended
            strand.ended(None, raised)
        else:
            self._begin_awaited(strand, awaited)
        finally:
            # Its traceback holds this frame.
            del error

    def _begin_awaited(self, strand: _Strand, awaited: Hop | _Together) -> None:
        if isinstance(awaited, _Together):
            self._begin_together(strand, awaited)
            return
        if awaited.longest:
            self._deadline = max(self._deadline, self._due + awaited.longest)
        visit = self.portal.submit(awaited.function, awaited.args, self.desk, self._resume)
        self._hops[visit] = strand, awaited

    def _begin_together(self, strand: _Strand, together: _Together) -> None:
        left = len(together.coroutines)
        results: list[Any] = [None] * left

        def ended(index: int, result: Any, error: BaseException | None) -> None:
            nonlocal left
            results[index] = result if error is None else Raised(error)
            left -= 1
            if not left:
                self._step(strand, results, None)

        if not left:
            self._step(strand, results, None)
        for index, coroutine in enumerate(together.coroutines):
            self._begin(coroutine, partial(ended, index))

    def _resume(self, visit: Visit) -> None:
        known = self._hops.pop(visit, None)
        if known is None:
            return  # It was given up.
        error, visit.error = visit.error, None
        if isinstance(error, RefusedError):
            error = CacheStateError(error.code, error.problem)
        self._step(known[0], visit.result, error)
        del error

    def _expire(self) -> None:
        """Give up what is under way."""
        for visit in tuple(self._hops):
            strand, hop = self._hops.pop(visit)
            has_begun = self.portal.give_up(visit)
            error = (hop.given_up if has_begun else TIMED_OUT).error()
            if hop.unsent is not None and not has_begun:
                self.portal.post(hop.unsent, error)
            self._step(strand, None, error)


class LoadSide:
    """The engine as a load sees it whose caller is another thread: on the loop.

    What a load needs of its caller, serializers and a loader that is to run there, is done by the
    caller's thread, which waits for the load; by a worker thread with the caller's context, once it does
    not wait any more.
    """

    def __init__(self, engine: Engine, desk: Desk, portal: Portal) -> None:
        self.loop = engine.loop
        self.strict = engine.strict
        self.freshness = engine.freshness
        self.result_not_kept = engine.result_not_kept
        self.threads = engine.threads
        self._desk = desk
        self._portal = portal

    async def aside(self, function: Callable[[], T]) -> T:
        """What this gives, called in the caller's thread."""
        # It knows which load asks, should it ask for its own key.
        call = partial(copy_context().run, function)
        errand = _Errand(call, self._portal, self.loop.create_future())
        if self._desk.offer(errand):
            outcome = await errand.outcome
            if isinstance(outcome, Raised):
                raise outcome.error()
            if outcome is not _LEFT:
                return cast("T", outcome)
        return cast("T", await self.threads.run(function))


_LEFT: Final = object()


class _Errand:
    """What a load has its caller's thread do."""

    __slots__ = ("_function", "_portal", "outcome")

    def __init__(self, function: Callable[[], Any], portal: Portal, outcome: Any) -> None:
        self._function = function
        self._portal = portal
        self.outcome = outcome

    def done(self) -> None:
        """Do it; called by the caller's thread."""
        try:
            outcome = self._function()
        except Exception as error:  # noqa: BLE001  it ends the load
            outcome = Raised(error)
        except BaseException as error:
            # It ends the load, for others who wait for it, and this call at once.
            self._portal.post(self._deal, Raised(error))
            raise
        self._portal.post(self._deal, outcome)

    def left(self) -> None:
        """The caller waits no more."""
        self._portal.post(self._deal, _LEFT)

    def _deal(self, outcome: Any) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class _Clock:
    """The loop's clock, of which uvloop tells other threads an old time."""

    time = staticmethod(time.monotonic)


class _Freshness:
    def __init__(self, engine: Engine) -> None:
        freshness = engine.freshness
        self.known_now = freshness.known_now
        self.now = partial(Hop, freshness.now)
        self.tags_hold = partial(Hop, freshness.tags_hold)
        self._payload = freshness.payload

    def payload(self, data: bytes | None, since: float) -> Hop:
        """See `Freshness`."""
        return Hop(self._payload, data, since)


class _Changes:
    def __init__(self, engine: Engine) -> None:
        changes = engine.changes

        async def store(key: bytes, data: bytes, life: int) -> None:
            try:
                await changes.store(key, data, life)
            except CacheError as error:
                changes.failed(key, error)
                raise

        self._changes = changes
        self.store = partial(_Write, store)

    def store_many(self, entries: Sequence[Entry], tags: Collection[bytes] = ()) -> Hop:
        """See `Changes`."""
        changes = self._changes
        unsent = partial(changes.all_failed, [key for key, _, _ in entries])
        return _Write(changes.store_many, entries, tags, unsent=unsent)

    def invalidate_tags(self, tags: Collection[bytes]) -> Hop:
        """See `Changes`."""
        changes = self._changes
        unsent = partial(changes.tags_failed, tags)
        return _Write(changes.invalidate_tags, tags, unsent=unsent)

    def failed(self, key: bytes, failure: CacheError) -> None:
        """A change of this key ended so."""
        _current().portal.post(self._changes.failed, key, failure)


class CallerEngine:
    """The engine as a calling thread sees it: each call of it is made on the private loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.loop = _Clock
        self.freshness = _Freshness(engine)
        self.changes = _Changes(engine)
        self.strict = engine.strict
        self.fails_open = engine.fails_open
        # They only look.
        self.left_alone = engine.left_alone
        self.pass_through = engine.pass_through
        self.go_on_after = engine.go_on_after
        self.failed_open = engine.failed_open
        self.circuit_open = engine.circuit_open
        self.read = partial(Hop, engine.read)
        self.read_where = partial(Hop, engine.read_where)
        self.read_many = partial(Hop, engine.read_many)
        self.contains = partial(Hop, engine.contains)
        self.ping = partial(Hop, engine.ping)
        self.touch = partial(_Write, engine.touch)
        self.clear = partial(_Write, engine.clear)

    def __repr__(self) -> str:
        return repr(self._engine)

    @property
    def master(self) -> Any:
        """See `Engine`."""
        return self._engine.master

    def time_to_live(
        self, key: bytes, since: float | None = None, is_readable: IsReadable | None = None
    ) -> Hop:
        """See `Engine`."""
        return Hop(self._engine.time_to_live, key, since, is_readable)

    def take(self, key: bytes) -> Hop:
        """See `Engine`."""
        return self._removal(self._engine.take, key, [key])

    def discard(self, keys: Sequence[bytes]) -> Hop:
        """See `Engine`."""
        return self._removal(self._engine.discard, keys, keys)

    def forget(self, keys: Sequence[bytes]) -> Hop:
        """See `Engine`."""
        return self._removal(self._engine.forget, keys, keys)

    def _removal(
        self, function: Callable[[Any], Awaitable[Any]], what: Any, keys: Sequence[bytes]
    ) -> Hop:
        unsent = partial(self._engine.changes.all_failed, keys)
        return _Write(function, what, unsent=unsent)

    async def load(
        self, key: bytes, wanted: Wanted, patience: float | None = None
    ) -> Product | Stored | None:
        """See `Engine`."""
        # In a task, for the load to have the caller's context.
        load = self._engine.load
        task = partial(_in_task, copy_context())
        outcome = await _Load(wanted.longest, task, load, key, wanted, patience)
        if isinstance(outcome, Raised):
            raise outcome.error()
        loaded: Product | Stored | None = outcome
        return loaded

    def load_ahead(self, key: bytes, wanted: Wanted) -> None:
        """See `Engine`."""
        self.on_loop(copy_context().run, self._engine.load_ahead, key, wanted)

    def on_loop(self, function: Callable[..., object], *args: Any) -> None:
        """See `Engine`."""
        if local.serves:
            function(*args)
        else:
            _current().portal.post(function, *args)

    def load_side(self) -> LoadSide:
        """See `Engine`."""
        current = _current()
        return LoadSide(self._engine, current.desk, current.portal)

    async def outcomes(self, awaitables: Iterable[Awaitable[T]]) -> list[T | Raised]:
        """See `Engine`."""
        return await _Together([caught(awaitable) for awaitable in awaitables])


def _in_task(
    context: Context, function: Callable[..., Awaitable[T]], *args: Any
) -> asyncio.Task[T | Raised]:
    """A task of what this gives, whose exceptions are data: asyncio raises some of them out of its loop."""
    return asyncio.get_running_loop().create_task(caught(function(*args)), context=context)


class CallerLifecycle(Lifecycle):
    """The lifecycle of a cache on a private loop, as calling threads see it."""

    def __init__(self, serializer: Serializer | None, counters: CacheStats) -> None:
        super().__init__(serializer, counters)
        self._seen: tuple[Opened, Opened] | None = None
        """What is open, and the same as threads see it."""

    async def close(self) -> None:
        """Close, unless it is."""
        try:
            await super().close()
        finally:
            self._seen = None

    def ready(self) -> Opened:
        """What is open, to be used by threads.

        Raises:
            CacheStateError: NOT_OPENED.
        """
        opened, seen = self._opened, self._seen
        if opened is None:
            raise CacheStateError("NOT_OPENED", "the cache is not open")
        if seen is None or seen[0] is not opened:
            # What the API needs of an engine, it has.
            engine = cast("Engine", CallerEngine(opened.engine))
            seen = self._seen = opened, opened._replace(engine=engine)
        return seen[1]


class CallerCache(AsyncRedisCache):
    """`AsyncRedisCache` whose methods, but for those that open and close it, are for `drive`."""

    def __init__(self, *, serializer: Serializer | None = None) -> None:
        super().__init__(serializer=serializer)
        self._lifecycle = CallerLifecycle(serializer, self._counters)
