"""Calls that wait leave together. A state machine: callbacks change it, nothing in it awaits.

The life of a call: it waits; it leaves in an exchange with all others that wait; the exchange is
answered, and so is the call; or the exchange breaks, and the call waits again, or fails. The
caller holds a future and nothing else, so a caller may be cancelled at any moment.

A lone call goes out at once; calls that come while others wait or are under way leave in the
loop's next turn or with the next free connection. There is no timer that delays one.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final, Protocol

from async_redis_cache._common.backoff import RetryBackoff
from async_redis_cache._common.errors import UNANSWERED, CacheStateError
from async_redis_cache._common.failures import TIMED_OUT, TOO_LARGE, Failure
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._connection.connection import RedisConnection
from async_redis_cache._connection.pool import ConnectionPool
from async_redis_cache._protocol.command import Command

from .demotion import Demotion
from .pipeline import Pipeline, Request, ScriptCache
from .request_queue import RequestQueue

__all__ = ["Batcher"]

_WATCH_INTERVAL: Final = 0.005
_DEMOTED: Final = "READONLY"
_NO_MASTER: Final = {_DEMOTED, "MASTERDOWN"}
_NOT_YET: Final = "TRYAGAIN"
"""Some of a call's keys have moved to another node, and some have not: nothing was done, and soon will be."""
_NO_RETRY_SHARE: Final = 0.25
"""Of a call's time, in which it is not tried again on a server that is no master."""
_UNTIL_DEADLINE: Final = {_NOT_YET, _DEMOTED}
_CLOSED: Final = Failure(CacheStateError, "NOT_OPENED", "the cache was closed")


class Router(Protocol):
    """Finds the node of a request, in a cluster."""

    def follow_redirect(self, sender: Batcher, request: Request, failure: Failure) -> bool:
        """Send a request to the node that its MOVED or ASK error names. Return False where that is not possible."""
        ...

    def owner_of(self, request: Request) -> Batcher:
        """Return the batcher for the next attempt of a request."""
        ...


class Batcher:
    """The calls that wait for one server, and the exchanges under way.

    Args:
        counters: where round trips, batched calls and retries are counted.
        budget: seconds that a call may take in all.
        retries: how often a call is tried again.
        waiting: those that wait.
        heard: told when the server has answered.
        failed: told, with the code of its error, when a call has ended for want of an answer.
        silent: told when it has not, for as long as anybody waited.
        unanswered: told when a call under way has reached its deadline, and no byte has come on its connection.
        may_move: whether another connection may lead to another server, as sentinels say.
        demotion: what to do when the server is no master, where no sentinels say who is.
        router: who knows the other servers, where there are some.
        server: its name, for the errors.
        backoff: the pauses after answers that say that the server does not serve for now.
    """

    max_keys_per_request = 256

    def __init__(
        self,
        counters: CacheStats,
        *,
        budget: float,
        retries: int,
        queue: RequestQueue,
        backoff: RetryBackoff,
        on_answer: Callable[[], None] = lambda: None,
        on_failure: Callable[[str], None] = lambda _: None,
        on_silence: Callable[[], None] = lambda: None,
        on_timeout: Callable[[], None] = lambda: None,
        may_move: bool = False,
        demotion: Demotion | None = None,
        router: Router | None = None,
        server: str = "",
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._counters = counters
        self._budget = budget
        self._retries = retries
        self._queue = queue
        self._backoff = backoff
        self._on_answer = on_answer
        self._on_failure = on_failure
        self._on_silence = on_silence
        self._on_timeout = on_timeout
        self._may_move = may_move
        self._demotion = demotion
        self._router = router
        self._server = server
        self._scripts = ScriptCache()
        self._pool: ConnectionPool
        self._in_flight: dict[Pipeline, RedisConnection] = {}
        self._scheduled_flush: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._last_was_single = True
        self._closed = False

    def __repr__(self) -> str:
        return f"<Batcher {len(self._queue)} waiting, {len(self._in_flight)} under way>"

    def use_pool(self, transport: ConnectionPool) -> None:
        """Where exchanges go; said once, before the first call."""
        self._pool = transport

    def execute(
        self,
        command: Command,
        argument: Any,
        size: int,
        *,
        keys: int = 1,
        budget: float | None = None,
        retries: int | None = None,
    ) -> asyncio.Future[Any]:
        """A future of the answer. It ends by the deadline, in an answer or a `CacheError`.

        Args:
            command: what kind of call.
            argument: what the verb takes.
            size: about how many bytes will be sent.
            keys: how many keys it is about.
            budget: seconds that it may take, where that is not the budget of every call.
            retries: where they are not those of every call.

        Raises:
            CacheOverloaded: too many calls are waiting.
            CacheStateError: NOT_OPENED, when the batcher was closed since its caller looked.
        """
        if self._closed:
            raise _CLOSED.error()
        future = self._loop.create_future()
        if command.coalesces and self._queue.coalesce(command, argument, future):
            return future
        deadline = self._loop.time() + (self._budget if budget is None else budget)
        tries = self._retries if retries is None else retries
        call = Request(command, argument, size, keys, deadline, tries, future)
        if budget is not None:
            call.short_deadline = budget < self._budget
        if deadline < self._timer_at:
            self._set_timer(deadline)
        if self._last_was_single and not self._queue and not self._backoff.has_failed:
            wire = self._pool.checkout()
            if wire is not None:
                self._send(wire, [call])
                return future
        self._queue.append(call)
        if self._scheduled_flush is None:
            self._scheduled_flush = self._loop.call_soon(self._flush, context=Context())
        return future

    def enqueue(self, call: Request) -> None:
        """Let a call wait here that another server was asked."""
        if self._closed:
            call.fail(_CLOSED)
            return
        if call.deadline < self._timer_at:
            self._set_timer(call.deadline)
        self._queue.put_back(call)
        self.ready()

    def ready(self) -> None:
        """Let what waits leave in the loop's next turn, after callers just answered have spoken."""
        if self._queue and self._scheduled_flush is None:
            self._scheduled_flush = self._loop.call_soon(self._flush, context=Context())

    def unreachable(self, failure: Failure) -> None:
        """There is no connection, and none to be had: that was a try of every call that waits."""
        self._retry(self._queue.take_all(), failure)

    def close(self) -> None:
        """End every call: those that wait, and those under way."""
        self._closed = True
        for handle in (self._scheduled_flush, self._timer):
            if handle is not None:
                handle.cancel()
        for exchange, wire in tuple(self._in_flight.items()):
            self._forget_pipeline(exchange)
            # Before the connections are closed the loop may run: a reply would find nobody.
            wire.abort()
            for call in exchange.requests:
                call.fail(_CLOSED)
        for call in self._queue.take_all():
            call.fail(_CLOSED)

    def _flush(self) -> None:
        self._scheduled_flush = None
        pause = self._backoff.remaining()
        if pause:
            self._scheduled_flush = self._loop.call_later(pause, self._flush, context=Context())
            return
        while self._queue:
            if self._in_flight and self._backoff.has_failed:
                # One question is enough to see whether the server serves again.
                return
            wire = self._pool.checkout()
            if wire is None:
                return
            calls = self._queue.take_pipeline()
            if not calls:
                self._pool.release(wire)
                return
            self._send(wire, calls)

    def _send(self, wire: RedisConnection, calls: list[Request]) -> None:
        self._last_was_single = len(calls) == 1
        exchange = Pipeline(calls, self._scripts, self._on_replies, self._on_connection_lost)
        self._in_flight[exchange] = wire
        self._counters.round_trips += 1
        if not self._last_was_single:
            self._counters.batched_calls += len(calls)
        exchange.send_on(wire)

    def _on_replies(self, exchange: Pipeline, refused: list[tuple[Request, Failure]]) -> None:
        wire = self._in_flight[exchange]
        if exchange.is_read_only:
            self._queue.observe_reply_size(wire.received_bytes / exchange.keys)
        if self._may_move and any(failure.code == _DEMOTED for _, failure in refused):
            # It is no master any more. What it refused to change can be tried on the one that is, and what
            # others ask is not to be asked of it.
            self._pool.drop_address(wire.address)
            refused = [(call, failure._replace(retryable=True)) for call, failure in refused]
        if self._demotion is not None and (refused or not self._demotion.is_over):
            refused = self._after_demotion(
                self._demotion,
                refused,
                is_change=not (exchange.is_read_only or exchange.not_executed),
            )
        if refused and any(failure.retryable and not call.isolated for call, failure in refused):
            self._backoff.failed()
        else:
            self._backoff.succeeded()
            self._on_answer()
        # The last one first, since each goes to the front.
        for call, failure in reversed(refused):
            if not self._is_redirected(call, failure):
                self._retry([call], failure)
        # This is no retry: nothing was executed.
        for call in reversed(exchange.not_executed):
            if not call.is_done():
                self.enqueue(call)
        # Last: where anything above fails, the deadline still finds whoever has no answer yet.
        del self._in_flight[exchange]

    def _after_demotion(
        self, demotion: Demotion, refused: list[tuple[Request, Failure]], *, is_change: bool
    ) -> list[tuple[Request, Failure]]:
        """The refused calls, where those that were refused by what is no master may be tried again."""
        if not refused:
            demotion.is_over = demotion.is_over or is_change
        elif any(failure.code in _NO_MASTER for _, failure in refused):
            again = demotion.refused()
            # Not shortly before the deadline: if that came amid another try, the outcome would be unknown.
            until = self._loop.time() + self._budget * _NO_RETRY_SHARE if again else math.inf
            return [
                (call, failure._replace(retryable=until < call.deadline))
                if failure.code == _DEMOTED
                else (call, failure)
                for call, failure in refused
            ]
        return refused

    def _is_redirected(self, call: Request, failure: Failure) -> bool:
        if failure.address is None or self._router is None or call.is_done():
            return False
        return self._router.follow_redirect(self, call, failure)

    def _on_connection_lost(self, exchange: Pipeline, failure: Failure) -> None:
        self._forget_pipeline(exchange)
        if failure is TOO_LARGE and len(exchange.requests) > 1:
            # One key may hold too much for all of them: each is sent once more by itself, which is no retry.
            for call in exchange.requests:
                call.isolated = True
                call.retries += 1
            failure = failure._replace(retryable=True)
        elif failure is TOO_LARGE:
            # It was answered: a removal, by the value that it has removed.
            exchange.requests[0].maybe_executed = False
        self._retry(exchange.requests, failure)

    def _forget_pipeline(self, exchange: Pipeline) -> None:
        del self._in_flight[exchange]
        for call in exchange.requests:
            call.maybe_executed = call.command.is_write

    def _retry(self, calls: list[Request], failure: Failure) -> None:
        now = self._loop.time()
        # In front, in their order: they have waited longest.
        for call in reversed(calls):
            if call.is_done():
                continue
            if call.deadline <= now:
                self._fail(call, failure)
            elif failure.retryable and (call.retries > 0 or failure.code in _UNTIL_DEADLINE):
                call.reason = failure
                if failure.code == _NOT_YET:
                    call.redirects = 0
                else:
                    call.retries -= failure.code != _DEMOTED
                    self._counters.retries += 1
                home = self if self._router is None else self._router.owner_of(call)
                home.enqueue(call)
            else:
                self._fail(call, failure)
        self.ready()

    def _fail(self, call: Request, failure: Failure) -> None:
        call.fail(failure if failure.server else failure._replace(server=self._server))
        # Who could wait for less than others says nothing of the server by not having waited longer.
        if issubclass(failure.kind, UNANSWERED) and not (
            failure is TIMED_OUT and call.short_deadline
        ):
            self._on_failure(failure.code)

    def _set_timer(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_at(deadline, self._expire, context=Context())

    def _expire(self) -> None:
        """End what is overdue. The one timer, set for the call that is due first."""
        # A loop may fire a timer by less than its clock can tell too soon: uvloop counts whole milliseconds.
        now = max(self._loop.time(), self._timer_at)
        due = math.inf
        is_unanswered = False
        for exchange, wire in tuple(self._in_flight.items()):
            for call in exchange.requests:
                if call.deadline <= now and not call.is_done():
                    call.maybe_executed = call.command.is_write
                    self._fail(call, TIMED_OUT)
                    is_unanswered |= not wire.received_bytes
            if exchange.deadline <= now:
                # Nobody waits for it any more: end it, so that the server gets no more of it.
                # While somebody does, it may be well and only have begun late.
                self._forget_pipeline(exchange)
                wire.abort()
                self._on_silence()
            else:
                due = min(
                    due, *(call.deadline for call in exchange.requests if call.deadline > now)
                )
        for call in self._queue.take_all():
            if call.deadline <= now:
                # Where it waits for another try, what the last one met says more.
                self._fail(call, call.reason or TIMED_OUT)
            else:
                self._queue.append(call, is_new=False)
                due = min(due, call.deadline)
        if is_unanswered:
            self._on_timeout()
        self._timer = None
        self._timer_at = math.inf
        if due < math.inf:
            self._set_timer(max(due, now + _WATCH_INTERVAL))
