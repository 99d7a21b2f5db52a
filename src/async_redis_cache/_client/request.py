"""Requests, and the queue in which they wait for a connection."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from async_redis_cache._common.errors import CacheOverloaded
from async_redis_cache._common.failures import UNKNOWN, Failure
from async_redis_cache._protocol.command import Command

__all__ = ["Request", "RequestQueue"]

_PIPELINE_BYTES: Final = 1024 * 1024
_PIPELINE_KEYS: Final = 1024
_REPLY_BYTES: Final = 4 * 1024 * 1024
"""Limits of one pipeline. That of the replies is estimated."""
_OVERLOADED: Final = (
    "more requests are waiting for the server than options.max_waiting_calls or max_waiting_bytes allow: the "
    "server is slow, or the load is higher than it can handle"
)


class Request:
    """A command and its argument, from `execute` until the futures of its callers are done."""

    __slots__ = (
        "_waiters",
        "argument",
        "command",
        "deadline",
        "future",
        "isolated",
        "keys",
        "maybe_executed",
        "needs_source",
        "reason",
        "redirects",
        "retries",
        "short_deadline",
        "size",
        "waiters",
    )

    def __init__(  # noqa: PLR0917  once per operation: keyword arguments would double its cost
        self,
        command: Command,
        argument: Any,
        size: int,
        keys: int,
        deadline: float,
        retries: int,
        future: asyncio.Future[Any],
    ) -> None:
        self.command = command
        self.argument = argument
        self.size = size
        self.keys = keys
        self.deadline = deadline
        self.retries = retries
        self.future = future
        self.waiters = 1
        """Number of futures."""
        self.redirects = 0
        """Number of redirections since the request last waited."""
        self.short_deadline = False
        """Whether the deadline is earlier than that of other requests."""
        self.isolated = False
        """Whether it must be alone in a pipeline, because its last one failed for an unknown key."""
        self.maybe_executed = False
        """Whether an earlier attempt was sent whose reply is lost."""
        self.needs_source = False
        """Whether it must be sent as EVAL: the server has refused its EVALSHA, and executed nothing."""
        self.reason: Failure | None = None
        """Why the last attempt failed."""
        self._waiters: list[asyncio.Future[Any]] | None = None

    def add_waiter(self, future: asyncio.Future[Any]) -> None:
        """Complete this future too."""
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(future)
        self.waiters += 1

    def is_done(self) -> bool:
        """Whether no future is pending: completed, or cancelled by its caller."""
        return self.future.done() and (
            self._waiters is None or all(waiter.done() for waiter in self._waiters)
        )

    def resolve(self, value: Any) -> None:
        """Complete every pending future with this result."""
        future = self.future
        if not future.done():
            future.set_result(value)
        if self._waiters is not None:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(value)

    def fail(self, failure: Failure) -> None:
        """Complete every pending future with an error of its own: OUTCOME_UNKNOWN if an attempt may have run."""
        if self.maybe_executed:
            failure = UNKNOWN._replace(server=failure.server)
        for waiter in (self.future, *(self._waiters or ())):
            if not waiter.done():
                waiter.set_exception(failure.error())


class RequestQueue:
    """First in, first out. Requests that are retried go to the front.

    Args:
        max_requests: maximum number of waiting callers.
        max_bytes: maximum size of the waiting requests.
    """

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._requests: deque[Request] = deque()
        self._waiters = 0
        self._bytes = 0
        self._keys = 0
        self._isolated = 0
        self._reads: dict[bytes, Request] = {}
        """By key, the waiting read that others can join."""
        self._reply_bytes = 0.0

    def __len__(self) -> int:
        return len(self._requests)

    def coalesce(self, command: Command, key: bytes, future: asyncio.Future[Any]) -> bool:
        """Add a future to a waiting read of the same key; return False if there is none.

        A read that has been sent cannot be joined: its reply may be older than what the caller has already seen.

        Raises:
            CacheOverloaded: too many callers are waiting.
        """
        read = self._reads.get(key)
        if read is None or read.command is not command:
            return False
        if self._waiters >= self._max_requests or self._bytes > self._max_bytes:
            raise CacheOverloaded("OVERLOADED", _OVERLOADED)
        read.add_waiter(future)
        self._waiters += 1
        return True

    def append(self, request: Request, *, is_new: bool = True) -> None:
        """Add a request, which can be joined if it is a read.

        Raises:
            CacheOverloaded: the request is new, and too many callers or bytes are waiting.
        """
        if is_new and (
            self._waiters >= self._max_requests or self._bytes + request.size > self._max_bytes
        ):
            raise CacheOverloaded("OVERLOADED", _OVERLOADED)
        self._requests.append(request)
        self._waiters += request.waiters
        self._bytes += request.size
        self._keys += request.keys
        self._isolated += request.isolated
        if request.command.coalesces:
            self._reads[request.argument] = request

    def put_back(self, request: Request) -> None:
        """Add a request that was sent before at the front. It cannot be joined."""
        self._requests.appendleft(request)
        self._waiters += request.waiters
        self._bytes += request.size
        self._keys += request.keys
        self._isolated += request.isolated

    def take_all(self) -> list[Request]:
        """Remove and return all requests, in order."""
        requests = list(self._requests)
        self._requests.clear()
        self._reads.clear()
        self._waiters = self._bytes = self._keys = self._isolated = 0
        return requests

    def take_pipeline(self) -> list[Request]:
        """Remove and return the requests for the next pipeline, without those whose callers were all cancelled.

        Its size, its keys and the estimated size of its replies are limited: a single MGET of all waiting keys could
        take longer than their deadlines.
        """
        room = _PIPELINE_BYTES
        keys = min(_PIPELINE_KEYS, _REPLY_BYTES / (self._reply_bytes + 1))
        if self._bytes <= room and self._keys <= keys and not self._isolated:
            # Most futures are pending, for which `is_done` need not be called.
            return [
                request
                for request in self.take_all()
                if not (request.future.done() and request.is_done())
            ]
        return self._take(room, keys)

    def _take(self, room: int, keys: float) -> list[Request]:
        taken: list[Request] = []
        requests = self._requests
        while requests:
            request = requests[0]
            is_full = request.size > room or request.keys > keys
            if taken and (is_full or request.isolated or taken[0].isolated):
                break
            requests.popleft()
            self._waiters -= request.waiters
            self._bytes -= request.size
            self._keys -= request.keys
            self._isolated -= request.isolated
            if request.command.coalesces:
                self._reads.pop(request.argument, None)
            if not request.is_done():
                room -= request.size
                keys -= request.keys
                taken.append(request)
        return taken

    def observe_reply_size(self, reply_bytes: float) -> None:
        """Update the estimate with the bytes per key of a reply: at once if it grows, slowly if it shrinks."""
        estimate = self._reply_bytes
        self._reply_bytes = max(reply_bytes, estimate + (reply_bytes - estimate) / 8)
