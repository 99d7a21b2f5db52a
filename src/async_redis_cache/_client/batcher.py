"""Batching: requests that wait for the same server are sent together. Callbacks drive it; nothing here awaits.

A request waits in the queue, is sent in a pipeline with all others that wait, and completes with its reply. If the
connection of the pipeline ends first, the request waits again, or fails. A caller only holds a future, so it can be
cancelled at any time.

A request that arrives alone is sent at once. Requests that arrive while others wait or are in flight are sent in the
next turn of the event loop, or on the next free connection. No timer delays them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final, Protocol

from async_redis_cache._common.backoff import LOADING_PAUSE, RetryBackoff
from async_redis_cache._common.errors import CONNECTION_FAILURES, CacheLoginError, CacheStateError
from async_redis_cache._common.failures import TIMED_OUT, TOO_LARGE, Failure
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._connection.connection import RedisConnection
from async_redis_cache._connection.pool import ConnectionPool
from async_redis_cache._protocol.command import Command

from .demotion import DEMOTED, Demotion, drain
from .pipeline import Pipeline, ScriptCache
from .request import Request, RequestQueue

__all__ = ["Batcher", "Router"]

_TIMER_RESOLUTION: Final = 0.005
"""Minimum number of seconds between two runs of the deadline timer."""
_TRY_AGAIN: Final = "TRYAGAIN"
"""Some keys of a request have moved to another node, and some have not. Nothing was executed; soon all have moved."""
_RETRIED_UNTIL_DEADLINE: Final = {_TRY_AGAIN, DEMOTED}
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
    """The requests of one server: those that wait, and those in flight.

    Args:
        counters: `round_trips`, `batched_calls` and `retries` are counted.
        budget: seconds for a request, retries included.
        retries: number of retries of a request.
        queue: the requests that wait.
        backoff: pauses after replies that say that the server cannot serve requests at present.
        on_answer: called when the server replies, for the first time after `on_failure`.
        on_failure: called with the error code when a request has failed because the server did not reply.
        on_silence: called when no reply has arrived by the last deadline of a pipeline.
        on_timeout: called when a request in flight has timed out, and its connection has received nothing.
        has_sentinels: whether another connection may lead to another server.
        demotion: handles READONLY, where there is no Sentinel.
        router: finds the node of a request, in a cluster.
        server: name of the server, for errors.
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
        has_sentinels: bool = False,
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
        self._has_failed = False
        """Whether a request has failed since the server last replied."""
        self._on_failure = on_failure
        self._on_silence = on_silence
        self._on_timeout = on_timeout
        self._has_sentinels = has_sentinels
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
        return f"<Batcher {len(self._queue)} waiting, {len(self._in_flight)} in flight>"

    def use_pool(self, pool: ConnectionPool) -> None:
        """Set the connections, before the first request."""
        self._pool = pool

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
        """Return a future of the answer. It completes by the deadline, with the answer or a `CacheError`.

        Args:
            command: the kind of request.
            argument: of the command.
            size: approximate number of bytes to send.
            keys: number of keys.
            budget: seconds, if not those of other requests.
            retries: number of retries, if not that of other requests.

        Raises:
            CacheOverloaded: too many requests are waiting.
            CacheStateError: NOT_OPENED, if the cache was closed meanwhile.
        """
        if self._closed:
            raise _CLOSED.error()
        future = self._loop.create_future()
        if command.coalesces and self._queue.coalesce(command, argument, future):
            return future
        deadline = self._loop.time() + (self._budget if budget is None else budget)
        retries = self._retries if retries is None else retries
        request = Request(command, argument, size, keys, deadline, retries, future)
        if budget is not None:
            request.short_deadline = budget < self._budget
        if deadline < self._timer_at:
            self._set_timer(deadline)
        if self._last_was_single and not self._queue and not self._backoff.has_failed:
            connection = self._pool.checkout()
            if connection is not None:
                self._send_pipeline(connection, [request])
                return future
        self._queue.append(request)
        if self._scheduled_flush is None:
            self._scheduled_flush = self._loop.call_soon(self._flush, context=Context())
        return future

    def enqueue(self, request: Request) -> None:
        """Send a request again that this or another server has not executed. It goes to the front of the queue."""
        if self._closed:
            request.fail(_CLOSED)
            return
        if request.deadline < self._timer_at:
            self._set_timer(request.deadline)
        self._queue.put_back(request)
        self.flush_soon()

    def flush_soon(self) -> None:
        """Send what waits in the next turn of the loop: callers that have just got a reply may add requests first."""
        if self._queue and self._scheduled_flush is None:
            self._scheduled_flush = self._loop.call_soon(self._flush, context=Context())

    def on_unreachable(self, failure: Failure) -> None:
        """Count a failed attempt of every waiting request: no connection could be opened."""
        self._retry(self._queue.take_all(), failure)

    def drain(self) -> None:
        """Use the open connections no longer. See `demotion.drain`."""
        for request in reversed(drain(self._in_flight, self._pool)):
            self.enqueue(request)

    def close(self) -> None:
        """Fail every request with NOT_OPENED; those in flight with OUTCOME_UNKNOWN if they are writes."""
        self._closed = True
        for handle in (self._scheduled_flush, self._timer):
            if handle is not None:
                handle.cancel()
        for pipeline, connection in tuple(self._in_flight.items()):
            self._forget_pipeline(pipeline)
            # At once: until the pool closes the connection, a reply could arrive for the forgotten pipeline.
            connection.abort()
            for request in pipeline.requests:
                request.fail(_CLOSED)
        for request in self._queue.take_all():
            request.fail(_CLOSED)

    def _flush(self) -> None:
        self._scheduled_flush = None
        pause = self._backoff.remaining()
        if pause:
            self._scheduled_flush = self._loop.call_later(pause, self._flush, context=Context())
            return
        while self._queue:
            if self._backoff.has_failed and not all(
                pipeline.is_draining for pipeline in self._in_flight
            ):
                # One pipeline is enough to find out whether the server can serve requests again.
                return
            connection = self._pool.checkout()
            if connection is None:
                return
            requests = self._queue.take_pipeline()
            if not requests:
                self._pool.checkin(connection)
                return
            self._send_pipeline(connection, requests)

    def _send_pipeline(self, connection: RedisConnection, requests: list[Request]) -> None:
        self._last_was_single = len(requests) == 1
        pipeline = Pipeline(requests, self._scripts, self._on_replies, self._on_connection_lost)
        self._in_flight[pipeline] = connection
        self._counters.round_trips += 1
        if not self._last_was_single:
            self._counters.batched_calls += len(requests)
        pipeline.send_on(connection)

    def _on_replies(self, pipeline: Pipeline, refused: list[tuple[Request, Failure]]) -> None:
        connection = self._in_flight[pipeline]
        if pipeline.is_read_only:
            self._queue.observe_reply_size(connection.received_bytes / pipeline.keys)
        if refused or not (self._demotion is None or self._demotion.is_over):
            refused = self._review(pipeline, connection, refused)
        temporary = _temporary_refusals(refused) if refused else None
        if temporary:
            self._pause(pipeline, temporary)
        else:
            # Most pipelines follow one that succeeded: they call neither.
            if self._backoff.has_failed:
                self._backoff.succeeded()
            if self._has_failed:
                self._has_failed = False
                self._on_answer()
        # In reverse, as each goes to the front of the queue.
        for request, failure in reversed(refused):
            if not self._is_redirected(request, failure):
                self._retry([request], failure)
        for request in reversed(pipeline.not_executed):
            if not request.is_done():
                self.enqueue(request)
        # Last: if anything above raises, `_expire` still finds the requests that are not done.
        del self._in_flight[pipeline]

    def _pause(self, pipeline: Pipeline, codes: set[str]) -> None:
        # What a former master refuses after another refusal says nothing of the next one.
        if not pipeline.is_draining:
            self._backoff.failed(LOADING_PAUSE if "LOADING" in codes else 0.0)

    def _review(
        self,
        pipeline: Pipeline,
        connection: RedisConnection,
        refused: list[tuple[Request, Failure]],
    ) -> list[tuple[Request, Failure]]:
        """The refused requests, those as retryable that another master, or another connection, may accept."""
        if any(failure.kind is CacheLoginError for _, failure in refused):
            # The server has ended the login of this connection. If it accepted commands before, a new one may do.
            connection.retires_at = -math.inf
            refused = [
                (request, failure._replace(retryable=connection.has_served))
                if failure.kind is CacheLoginError
                else (request, failure)
                for request, failure in refused
            ]
        if self._has_sentinels and any(failure.code == DEMOTED for _, failure in refused):
            # The server is no longer a master: retry on the new one, and read nothing more from this one.
            self._pool.drop_address(connection.address)
            refused = [(request, failure._replace(retryable=True)) for request, failure in refused]
        if self._demotion is not None:
            refused = self._demotion.review(
                refused,
                has_writes=not (pipeline.is_read_only or pipeline.not_executed),
                is_draining=pipeline.is_draining,
            )
        return refused

    def _is_redirected(self, request: Request, failure: Failure) -> bool:
        if failure.address is None or self._router is None or request.is_done():
            return False
        return self._router.follow_redirect(self, request, failure)

    def _on_connection_lost(self, pipeline: Pipeline, failure: Failure) -> None:
        self._forget_pipeline(pipeline)
        if failure is TOO_LARGE and len(pipeline.requests) > 1:
            # One value may be too large for all of them. Sending each alone is no retry.
            for request in pipeline.requests:
                request.isolated = True
                request.retries += 1
            failure = failure._replace(retryable=True)
        elif failure is TOO_LARGE and not pipeline.is_draining:
            # A reply has arrived, so a write was executed: a GETDEL replies with the value that it has removed.
            pipeline.requests[0].maybe_executed = False
        self._retry(pipeline.requests, failure)

    def _forget_pipeline(self, pipeline: Pipeline) -> None:
        del self._in_flight[pipeline]
        for request in pipeline.requests:
            request.maybe_executed = request.command.is_write

    def _retry(self, requests: list[Request], failure: Failure) -> None:
        now = self._loop.time()
        # In reverse, as each goes to the front of the queue.
        for request in reversed(requests):
            if request.is_done():
                continue
            is_final = request.maybe_executed and request.command.runs_once
            if request.deadline <= now or is_final:
                self._fail(request, failure)
            elif failure.retryable and (
                request.retries > 0 or failure.code in _RETRIED_UNTIL_DEADLINE
            ):
                request.reason = failure
                if failure.code == _TRY_AGAIN:
                    request.redirects = 0
                else:
                    request.retries -= failure.code != DEMOTED
                    self._counters.retries += 1
                owner = self if self._router is None else self._router.owner_of(request)
                owner.enqueue(request)
            else:
                self._fail(request, failure)
        self.flush_soon()

    def _fail(self, request: Request, failure: Failure) -> None:
        request.fail(failure if failure.server else failure._replace(server=self._server))
        # A timeout that is shorter than `command_timeout` does not show that the server fails to reply.
        if issubclass(failure.kind, CONNECTION_FAILURES) and not (
            failure is TIMED_OUT and request.short_deadline
        ):
            self._has_failed = True
            self._on_failure(failure.code)

    def _set_timer(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_at(deadline, self._expire, context=Context())

    def _expire(self) -> None:
        """Fail overdue requests, and set the timer, of which there is one, for the next deadline."""
        # uvloop counts whole milliseconds, so the timer may fire slightly before its time.
        now = max(self._loop.time(), self._timer_at)
        next_deadline = math.inf
        is_unanswered = False
        for pipeline, connection in tuple(self._in_flight.items()):
            for request in pipeline.requests:
                if request.deadline <= now and not request.is_done():
                    request.maybe_executed = request.command.is_write
                    self._fail(request, TIMED_OUT)
                    is_unanswered |= not connection.received_bytes
            if pipeline.deadline <= now:
                # All of its requests are done. Abort, so that the server does not receive the rest of it. Before
                # that, the connection may work: the first deadline may have been short.
                self._forget_pipeline(pipeline)
                connection.abort()
                self._on_silence()
            else:
                next_deadline = min(
                    next_deadline,
                    *(request.deadline for request in pipeline.requests if request.deadline > now),
                )
        for request in self._queue.take_all():
            if request.deadline <= now:
                # The failure of the last attempt says more than a timeout.
                self._fail(request, request.reason or TIMED_OUT)
            else:
                self._queue.append(request, is_new=False)
                next_deadline = min(next_deadline, request.deadline)
        if is_unanswered:
            self._on_timeout()
        self._timer = None
        self._timer_at = math.inf
        if next_deadline < math.inf:
            self._set_timer(max(next_deadline, now + _TIMER_RESOLUTION))


def _temporary_refusals(refused: list[tuple[Request, Failure]]) -> set[str]:
    """The error codes of what the server cannot serve at present."""
    return {
        failure.code for request, failure in refused if failure.retryable and not request.isolated
    }
