"""For any sequence of events, calls end in time and with a true result."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from typing import Any
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from async_redis_cache import CacheError, CacheOutcomeUnknown, CacheOverloaded, CacheServerError
from async_redis_cache._client import request as _request
from async_redis_cache._common.failures import LOST
from async_redis_cache._protocol.commands import GET, GETDEL, SET
from harness.fake_connection import FakeWire, Wires
from harness.virtual_time import in_virtual_time, turns

BUDGET = 0.1
WATCH_SECONDS = 0.005
MOST_CALLS = 12
KEYS = [b"a", b"b"]


class Server:
    """A dict, and all it has ever held."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.clock = itertools.count(1)
        self.history: defaultdict[bytes, list[tuple[int, bytes | None]]]
        self.history = defaultdict(lambda: [(0, None)])

    def execute(self, commands: list[tuple[bytes, ...]]) -> list[Any]:
        """What it replies."""
        return [self._execute(name, *words) for name, *words in commands]

    def _execute(self, name: bytes, *words: bytes) -> Any:
        if name == b"MGET":
            return [self.data.get(key) for key in words]
        if name == b"SET":
            self.data[words[0]] = words[1]
            self._note(words[0])
            return b"OK"
        assert name == b"GETDEL"
        found = self.data.pop(words[0], None)
        self._note(words[0])
        return found

    def _note(self, key: bytes) -> None:
        self.history[key].append((next(self.clock), self.data.get(key)))

    def held(self, key: bytes, start: int, end: int) -> set[bytes | None]:
        """All values that the key had between two moments."""
        history = self.history[key]
        before = [value for moment, value in history if moment <= start][-1]
        return {before, *(value for moment, value in history if start < moment <= end)}


class Asked:
    """A call, and what it may be told."""

    def __init__(self, wires: Wires, server: Server, kind: str, key: bytes, data: bytes) -> None:
        self._server = server
        self._loop = wires.loop
        self._kind = kind
        self._key = key
        self._data = data
        self._asked = next(server.clock)
        self._deadline = self._loop.time() + BUDGET
        self._ended = self._ended_at = 0.0
        self.executed: list[Any] = []
        """What each execution of it replied; reads may share one, and say nothing here."""
        arguments: dict[str, tuple[Any, Any]] = {
            "read": (GET, key),
            "store": (SET, ((key, data, 1000),)),
            "take": (GETDEL, (key,)),
        }
        self.future = wires.batcher.execute(*arguments[kind], 10)
        self.future.add_done_callback(self._end)

    def _end(self, _: object) -> None:
        self._ended = next(self._server.clock)
        self._ended_at = self._loop.time()

    def check(self) -> None:
        """See whether it ended in time and in the truth."""
        assert self.future.done()
        assert self._ended_at <= self._deadline + WATCH_SECONDS + 1e-6
        if self.future.cancelled():
            return
        error = self.future.exception()
        if error is None:
            self._check_answer(self.future.result())
        else:
            assert isinstance(error, CacheError)
            assert not isinstance(error, CacheServerError)
            if self._kind != "read" and not isinstance(error, CacheOutcomeUnknown):
                # It did not happen, and it never will.
                assert self.executed == []

    def _check_answer(self, answer: Any) -> None:
        if self._kind == "read":
            held = self._server.held(self._key, self._asked, int(self._ended))
            assert answer in held
        elif self._kind == "store":
            assert self.executed
            assert answer is None
        elif answer is None:
            # Nobody took anything, neither now nor when the reply was lost.
            assert set(self.executed) == {None}
        else:
            assert answer == self.executed[-1]


class World:
    """Calls, connections and a server, to which a script happens."""

    def __init__(self) -> None:
        self.wires = Wires(wires=2, budget=BUDGET, most_calls=MOST_CALLS)
        self.server = Server()
        self._asked: dict[asyncio.Future[Any], Asked] = {}
        self._numbers = itertools.count()
        self._executed: dict[FakeWire, list[Any]] = {}

    def execute(self, kind: str, key: bytes) -> None:
        data = b"%d" % next(self._numbers)
        before = self.waiting
        try:
            asked = Asked(self.wires, self.server, kind, key, data)
            self._asked[asked.future] = asked
            # Those whose exchange broke come back in any case, and make it more for a while.
            assert before < MOST_CALLS or self.waiting == before
        except CacheOverloaded:
            assert before >= MOST_CALLS

    @property
    def calls(self) -> list[Asked]:
        """All that were not refused."""
        return list(self._asked.values())

    @property
    def waiting(self) -> int:
        return sum(call.waiters for call in self.wires.batcher._queue._requests)

    def on_exchange(self, what: str, number: int) -> None:
        exchanges = self.wires.pool.exchanges
        if not exchanges:
            return
        wire = exchanges[number % len(exchanges)]
        if what == "execute":
            self._execute(wire)
        elif what == "answer":
            replies = self._execute(wire)
            del self._executed[wire]
            wire.answer(*replies)
        elif what in {"lose", "lose executed"}:
            if what == "lose executed":
                self._execute(wire)
            self._executed.pop(wire, None)
            wire.lose()
        elif wire not in self._executed:
            wire.answer(*(["MASTERDOWN"] * len(wire.commands)))

    def _execute(self, wire: FakeWire) -> list[Any]:
        if wire not in self._executed:
            self._executed[wire] = self.server.execute(wire.commands)
            exchange: Any = wire._handler
            replies = iter(self._executed[wire])
            for operation, calls, _, count, _ in exchange._sent:
                own = list(itertools.islice(replies, count))
                for call, reply in zip(calls, own, strict=False):
                    if operation is not GET:
                        self._asked[call.future].executed.append(reply)
        return self._executed[wire]

    def cancel(self, number: int) -> None:
        if calls := self.calls:
            calls[number % len(calls)].future.cancel()

    def refuse_connections(self) -> None:
        if not self.wires.pool.wires:
            self.wires.pool.fail(LOST)


numbers = st.integers(0, 20)
steps = st.one_of(
    st.tuples(
        st.just("execute"), st.sampled_from(["read", "store", "take"]), st.sampled_from(KEYS)
    ),
    st.tuples(
        st.just("on_exchange"),
        st.sampled_from(["answer", "execute", "lose", "lose executed", "refuse"]),
        numbers,
    ),
    st.tuples(st.just("cancel"), numbers),
    st.tuples(st.just("refuse_connections")),
    st.tuples(st.just("pass"), st.sampled_from([0.0, 0.0, 0.001, 0.02, 0.08])),
)


@given(st.lists(steps, min_size=20, max_size=100), st.sampled_from([2, 1024]))
@in_virtual_time
async def test_every_call_ends_in_time_with_a_true_result(
    script: list[tuple[Any, ...]], keys_together: int
) -> None:
    """A read returns a value that was there meanwhile; a change reported as failed was not executed."""
    with patch.object(_request, "_PIPELINE_KEYS", keys_together):
        await play(script)


async def play(script: list[tuple[Any, ...]]) -> None:
    world = World()
    for name, *arguments in script:
        if name == "pass":
            await asyncio.sleep(*arguments)
            await turns()
        else:
            getattr(world, name)(*arguments)
    await asyncio.sleep(BUDGET + 2 * WATCH_SECONDS)
    await turns()
    for call in world.calls:
        call.check()
    assert world.wires.pool.exchanges == []
    assert repr(world.wires.batcher) == "<Batcher 0 waiting, 0 in flight>"
    assert world.wires.timers == 0
