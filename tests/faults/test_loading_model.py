"""Whatever two processes load, change and look at, in whatever order: all are given what a plain model says.

Time is controlled as follows. The caches run on a `VirtualTimeLoop`, whose clock stands still while anything is
to be done. The server is fakeredis in this process, without a network, so that its Lua scripts are the library's.
What it calls the time, by which values expire and leases end, and the monotonic clock by which the caches know
the server's, are that of the loop (see `harness.loading_server`). So no time passes in a call that need not wait,
each rule lets a few milliseconds pass at its end, and ages and lives are told to the millisecond.

No two things happen at the same moment: what the rules let pass are multiples of 5 ms, what lasts is none, and
the loop's clock stands at half a millisecond, so that rounding makes no difference.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from harness.loading_model import World
from harness.loading_server import LocalServer
from harness.loading_states import LEASE, SETTLING, Call, Failed, Flight, Outcome, as_given, same
from harness.virtual_time import VirtualTimeLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from async_redis_cache import CacheEntry

PROCESSES = st.integers(0, 1)
KEYS = st.sampled_from(["a", "a", "a", "b"])
CHANGES = st.sampled_from(["store", "remove", "touch", "invalidate"])
TAGS = st.sampled_from([(), ("red",), ("red", "round")])
LIVES = st.sampled_from([103, 203, 503])
"""Milliseconds, longer than it takes to see that a value was stored."""
TERMS = st.fixed_dictionaries(
    {
        "life": LIVES,
        "tags": TAGS,
        "refresh_at": st.sampled_from([0.5, 0.5, 0.0]),
        "stale": st.sampled_from([304, 304, 0]),
        "missing": st.sampled_from([0, 153]),
    }
)
WHICH = st.integers(0, 9)
OUTCOMES = st.sampled_from(["value", "value", "none", "failure"])
PAUSE = 25
"""Milliseconds that each rule lets pass."""


class Loaders:
    """What the calls load with: at once what is said now, later what is said then."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop
        self._held: dict[int, asyncio.Future[Outcome]] = {}
        self.at_once: dict[int, Outcome] = {}
        self.called: list[tuple[int, float]] = []
        """By which calls, and when."""

    def of(self, call: Call) -> Any:
        """The loader of this call."""

        async def load() -> Outcome:
            self.called.append((call.number, self._loop.time() * 1000))
            if call.number in self.at_once:
                outcome = self.at_once[call.number]
            else:
                outcome = await self._held.setdefault(call.number, self._loop.create_future())
            if isinstance(outcome, Failed):
                raise outcome
            return outcome

        return load

    def end(self, call: Call, outcome: Outcome) -> None:
        """A held load returns a value, None, or an error, to all its waiters."""
        self._held[call.number].set_result(outcome)


class Model(RuleBasedStateMachine):
    """Two caches on one server, and the model."""

    @initialize(bound=st.sampled_from([0, 100]))
    def begin(self, bound: int) -> None:
        """Both are empty."""
        self.runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        loop: Any = self.runner.get_loop()
        loop.pass_time(0.0005)
        self.server = LocalServer(loop)
        self.server.__enter__()
        options = {
            "key_prefix": "p:",
            "max_size": bound,
            "loading_lease_timeout": LEASE,
            "loading_hard_timeout": 3_600_000,
        }
        self.caches = [self.runner.run(self.server.open(**options)) for _ in range(2)]
        self.world = World(lambda: loop.time() * 1000)
        self.loaders = Loaders(loop)
        self.numbers = 0
        self.tasks: dict[Call, asyncio.Task[CacheEntry[int]]] = {}

    def teardown(self) -> None:
        """Close what was opened."""
        if hasattr(self, "tasks"):
            self.runner.run(self._end())
            self.server.__exit__()
            self.runner.close()

    async def _end(self) -> None:
        for cache in self.caches:
            await cache.close(None)
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)

    @property
    def loading(self) -> list[Flight]:
        """The loads that were begun and have not ended."""
        return [flight for flight in self.world.flights if flight.begun_at is not None]

    def at_once(self, call: Coroutine[Any, Any, Any]) -> Any:
        """The result of a call that does not wait."""
        before = self.world.now
        given = self.runner.run(call)
        assert self.world.now == before
        return given

    def go_on(self, milliseconds: int = PAUSE) -> None:
        """Let time pass, and compare what came of it."""
        if any(flight.begun_at is None for flight in self.world.flights):
            milliseconds = max(milliseconds, SETTLING)
        self.runner.run(asyncio.sleep(milliseconds / 1000))
        known = set(self.world.begun)
        self.world.settle([one for one in self.loaders.called if one[0] not in known])
        assert sorted(number for number, _ in self.loaders.called) == sorted(self.world.begun)
        for call, task in tuple(self.tasks.items()):
            expected = self.world.given.get(call)
            assert task.done() == (expected is not None), (call, expected)
            if expected is None:
                continue
            del self.tasks[call]
            if isinstance(expected, Failed):
                # Callers that joined the load get equal copies of its exception.
                assert repr(task.exception()) == repr(expected)
            else:
                found = as_given(task.result())
                assert same(found, expected), (call, found, expected)

    @rule(process=PROCESSES, key=KEYS, how=CHANGES, life=LIVES, tags=TAGS)
    def change(self, process: int, key: str, how: str, life: int, tags: tuple[str, ...]) -> None:
        """By one of the methods that change keys: one rule, for more of the others."""
        self.change_by(process, key, how, life, tags)

    def change_by(self, process: int, key: str, how: str, life: int, tags: tuple[str, ...]) -> None:
        changes: dict[str, Callable[[], None]] = {
            "store": partial(self.store, process, key, life, tags),
            "remove": partial(self.remove, process, key),
            "touch": partial(self.touch, process, key, life),
            "invalidate": partial(self.invalidate, process, tags),
        }
        changes[how]()
        self.go_on()

    def store(self, process: int, key: str, life: int, tags: tuple[str, ...]) -> None:
        """A new value; no call returns another one from then on."""
        self.numbers += 1
        value = self.numbers
        self.world.store(process, key, value, life, tags)
        store = self.caches[process].store(None, key, value, life, tags=tags)
        assert self.at_once(store) == value

    def remove(self, process: int, key: str) -> None:
        """Returns a fresh value, and neither a stale one nor a placeholder."""
        expected = self.world.remove(process, key)
        assert self.at_once(self.caches[process].remove(None, key)) == expected

    def touch(self, process: int, key: str, life: int) -> None:
        """Returns whether there was a fresh value, and changes no other."""
        expected = self.world.touch(key, life)
        assert self.at_once(self.caches[process].touch(None, key, life)) is expected

    def invalidate(self, process: int, tags: tuple[str, ...]) -> None:
        """Values with one of these tags are gone."""
        self.world.invalidate(process, tags)
        self.at_once(self.caches[process].invalidate_tags(None, *tags))

    @rule(process=PROCESSES, key=KEYS)
    def look(self, process: int, key: str) -> None:
        """Methods that do not load return fresh values only: nothing stale, missing or superseded."""
        cache, value = self.caches[process], self.world.value(key)
        assert self.at_once(cache.retrieve(None, key)) == value
        found = self.at_once(cache.retrieve_many(None, [key, "none"]))
        assert found == ({} if value is None else {key: value})
        assert self.at_once(cache.contains(None, key)) is (value is not None)
        entry = self.world.entry(key)
        assert same(as_given(self.at_once(cache.retrieve_entry(None, key))), entry)
        left = self.at_once(cache.time_to_live(None, key))
        if value is None or entry.remaining is None:
            assert left is None
        else:
            assert entry.remaining - 1 <= left <= entry.remaining

    @rule(process=PROCESSES, key=KEYS, terms=TERMS, outcome=OUTCOMES)
    def load(self, process: int, key: str, terms: dict[str, Any], outcome: str) -> None:
        """Returns the stored value, fresh or stale, or one that is loaded at once; a fresh value is not loaded."""
        self.numbers += 1
        self.execute(Call(self.numbers, process, key, **terms), [self.outcome(outcome)])

    @rule(process=PROCESSES, key=KEYS, terms=TERMS)
    def begin_to_load(self, process: int, key: str, terms: dict[str, Any]) -> None:
        """The same with a load that runs until it is ended: callers that need it wait."""
        self.numbers += 1
        self.execute(Call(self.numbers, process, key, **terms))

    def execute(self, call: Call, at_once: Sequence[Outcome] = ()) -> None:
        """Let a call begin, whose loader may end at once; where it has to wait, it is held."""
        if self.world.is_open(call):
            return
        flight = self.world.execute(call)
        for outcome in at_once:
            self.loaders.at_once[call.number] = outcome
            if flight is not None:
                self.world.end(flight, outcome)
        asked = self.caches[call.process].retrieve_or_load_entry(
            None,
            call.key,
            self.loaders.of(call),
            call.life,
            tags=call.tags,
            refresh_at=call.refresh_at,
            stale_timeout=call.stale,
            missing_timeout=call.missing,
        )
        self.tasks[call] = self.runner.get_loop().create_task(asked)
        self.go_on()
        self.loaders.at_once.pop(call.number, None)

    @precondition(lambda self: self.loading)
    @rule(which=WHICH, own=st.booleans(), how=CHANGES, life=LIVES)
    def overtake(self, which: int, how: str, life: int, *, own: bool) -> None:
        """The key of a load that was begun is changed, or one of its tags is invalidated."""
        call = self.loading[which % len(self.loading)].call
        self.change_by(call.process if own else 1 - call.process, call.key, how, life, call.tags)

    @precondition(lambda self: self.loading)
    @rule(which=WHICH, outcome=OUTCOMES)
    def end(self, which: int, outcome: str) -> None:
        """A held load returns a value, None, or an error, to all its waiters."""
        flight = self.loading[which % len(self.loading)]
        self.numbers += 1
        ended = self.outcome(outcome)
        self.world.end(flight, ended)
        self.loaders.end(flight.call, ended)
        self.go_on()

    @rule(milliseconds=st.sampled_from([100, 200, 600]))
    def time_passes(self, milliseconds: int) -> None:
        """Values age, end and go; leases are renewed."""
        self.go_on(milliseconds)

    @invariant()
    def all_is_counted(self) -> None:
        """Loads, refreshes, failed and superseded loads are counted exactly."""
        if hasattr(self, "tasks"):
            stats = [cache.stats() for cache in self.caches]
            for name in ("loads", "refreshes", "load_failures", "superseded_loads", "stale_hits"):
                counted = sum(getattr(one, name) for one in stats)
                assert counted == self.world.stats[name], name

    def outcome(self, kind: str) -> Outcome:
        """One that no other call has."""
        return {"value": self.numbers, "none": None, "failure": Failed(str(self.numbers))}[kind]


@pytest.mark.timeout(3_600)
def test_entries_match_the_model() -> None:
    """Fresh, ageing, stale, missing, leased: no divergence, in as many runs as the profile has."""
    run_state_machine_as_test(
        Model,
        settings=settings(
            stateful_step_count=50,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
