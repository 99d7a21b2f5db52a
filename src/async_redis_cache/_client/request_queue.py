"""The calls that wait for a connection: in order, and no more than were agreed."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from async_redis_cache._common.errors import CacheOverloaded
from async_redis_cache._protocol.command import Command

from .pipeline import Request

__all__ = ["RequestQueue"]

_EXCHANGE_BYTES: Final = 1024 * 1024
_EXCHANGE_KEYS: Final = 1024
_REPLY_BYTES: Final = 4 * 1024 * 1024


_PROBLEM: Final = (
    "more calls wait for the server than options.max_waiting_calls or max_waiting_bytes allow: the server is slow, "
    "or there is more to do than it can"
)


class RequestQueue:
    """First in, first out; those that are tried again go to the front, having waited longest.

    Args:
        most_calls: how many callers may wait.
        most_bytes: how many bytes of calls may wait.
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
        self._reply_bytes = 0.0

    def __len__(self) -> int:
        return len(self._requests)

    def coalesce(self, verb: Command, key: bytes, future: asyncio.Future[Any]) -> bool:
        """Answer this future too when that is asked for already, and say whether it is.

        Only a question that has not left yet is joined: the answer to one under way may be older
        than what the asker has already seen.

        Raises:
            CacheOverloaded: too many callers are waiting.
        """
        asked = self._reads.get(key)
        if asked is None or asked.command is not verb:
            return False
        self.make_room(0)
        asked.add_waiter(future)
        self._waiters += 1
        return True

    def make_room(self, size: int) -> None:
        """See whether one more may wait.

        Raises:
            CacheOverloaded: too many are waiting.
        """
        if self._waiters >= self._max_requests or self._bytes + size > self._max_bytes:
            raise CacheOverloaded("OVERLOADED", _PROBLEM)

    def append(self, call: Request, *, is_new: bool = True) -> None:
        """Let a call wait, and be joined.

        Raises:
            CacheOverloaded: it is new, and too many are waiting.
        """
        # As `make_room` does, without a call: caches do this all day.
        if is_new and (
            self._waiters >= self._max_requests or self._bytes + call.size > self._max_bytes
        ):
            raise CacheOverloaded("OVERLOADED", _PROBLEM)
        self._requests.append(call)
        self._waiters += call.waiters
        self._bytes += call.size
        self._keys += call.keys
        self._isolated += call.isolated
        if call.command.coalesces:
            self._reads[call.argument] = call

    def put_back(self, call: Request) -> None:
        """Let a call wait again, in front."""
        self._requests.appendleft(call)
        self._waiters += call.waiters
        self._bytes += call.size
        self._keys += call.keys
        self._isolated += call.isolated

    def take_all(self) -> list[Request]:
        """All that wait, in order, who then do not."""
        calls = list(self._requests)
        self._requests.clear()
        self._reads.clear()
        self._waiters = self._bytes = self._keys = self._isolated = 0
        return calls

    def take_pipeline(self) -> list[Request]:
        """The next calls that are to travel together; those whose callers have left do not.

        Replies are weighed too, by those that came before: an MGET of all that is asked for could
        take longer than anybody waits.
        """
        room = _EXCHANGE_BYTES
        keys = min(_EXCHANGE_KEYS, _REPLY_BYTES / (self._reply_bytes + 1))
        if self._bytes <= room and self._keys <= keys and not self._isolated:
            # Most futures are pending, which needs no second look.
            return [call for call in self.take_all() if not (call.future.done() and call.is_done())]
        return self._take(room, keys)

    def _take(self, room: int, keys: float) -> list[Request]:
        taken: list[Request] = []
        calls = self._requests
        while calls:
            call = calls[0]
            full = call.size > room or call.keys > keys
            if taken and (full or call.isolated or taken[0].isolated):
                break
            calls.popleft()
            self._waiters -= call.waiters
            self._bytes -= call.size
            self._keys -= call.keys
            self._isolated -= call.isolated
            if call.command.coalesces:
                self._reads.pop(call.argument, None)
            if not call.is_done():
                room -= call.size
                keys -= call.keys
                taken.append(call)
        return taken

    def observe_reply_size(self, reply_bytes: float) -> None:
        """What a key's data weighed last: believed at once when it is more, slowly when less."""
        weight = self._reply_bytes
        self._reply_bytes = max(reply_bytes, weight + (reply_bytes - weight) / 8)
