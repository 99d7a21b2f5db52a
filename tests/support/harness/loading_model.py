"""A plain model, with a clock, of what two processes get that load, change and read the same keys.

A key is fresh, ageing, stale, known to have none, or nothing at all, and somebody may have the right to load it,
which is its lease. The model says what each call gives and which loads there are, and nothing of how.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

from harness.loading_states import Call, Entry, Failed, Flight, Given, Key, Outcome

if TYPE_CHECKING:
    from async_redis_cache._api.cache_entry import Status


class World:
    """All keys, and both processes.

    Args:
        clock: milliseconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.keys: dict[str, Key] = {}
        self.flights: list[Flight] = []
        """Those in the air."""
        self._joinable: dict[tuple[int, str], Flight] = {}
        self._tags: Counter[str] = Counter()
        self.given: dict[Call, Given | Failed] = {}
        self.begun: list[int] = []
        """The calls whose loaders were called."""
        self.stats: Counter[str] = Counter()

    @property
    def now(self) -> int:
        """In whole milliseconds, as the server says it."""
        return math.floor(self._clock())

    # What is there

    def found(self, key: str) -> Entry | None:
        """What is stored under a key and valid, whether fresh or not."""
        entry = self._kept(key).entry
        return entry if entry and entry.tags == self._versions(entry.tags) else None

    def fresh(self, key: str) -> Entry | None:
        """What every method may give, or know that there is none."""
        entry = self.found(key)
        return entry if entry and self.now < entry.fresh_until else None

    def value(self, key: str) -> int | None:
        """What plain methods give."""
        entry = self.fresh(key)
        return entry.value if entry else None

    def entry(self, key: str, *, late: bool = False) -> Given:
        """What is fresh, with what is known about it."""
        entry = self.fresh(key)
        if entry is None:
            return Given(None, "missing", None, None)
        age = None if entry.stored_at is None else self.now - entry.stored_at
        status: Status = "missing" if entry.value is None else "hit"
        return Given(entry.value, status, age, entry.fresh_until - self.now, late)

    # What changes it

    def store(self, process: int, key: str, value: int, life: int, tags: Iterable[str]) -> None:
        """A value with tags says when it was stored, a plain one does not."""
        self._overtake(process, key)
        versions = self._versions(tags)
        stored_at = self.now if versions else None
        self.keys[key] = Key(self._stored(value, stored_at, life, 0, versions))

    def remove(self, process: int, key: str) -> int | None:
        """Gives what was there."""
        removed = self.value(key)
        self._overtake(process, key)
        self.keys[key] = Key()
        return removed

    def touch(self, key: str, life: int) -> bool:
        """Gives a new life to what is fresh, and to nothing else; no load is overtaken."""
        entry = self.fresh(key)
        if entry is None or entry.value is None:
            return False
        entry.fresh_until = self.now + life
        entry.tags_until = entry.fresh_until + entry.slack
        return True

    def invalidate(self, process: int, tags: Collection[str]) -> None:
        """What bears one of them is gone; a load of this process with one gives its right back."""
        self._tags.update(tags)
        for (where, key), flight in tuple(self._joinable.items()):
            if where == process and not set(tags).isdisjoint(flight.call.tags):
                self._overtake(process, key)
                if self._kept(key).holder is flight:
                    self.keys[key].holder = None

    # What loads

    def is_open(self, call: Call) -> bool:
        """Whether it is not said what the call is given, so that it is not made.

        A value with tags is stale, and was stored to be gone by now; it is still there since it is loaded anew, but
        its tags may be gone.
        """
        entry = self.found(call.key)
        return entry is not None and bool(entry.tags) and self.now >= entry.tags_until

    def execute(self, call: Call, *, again: bool = False) -> Flight | None:
        """Notes what the call is given, if it need not wait, and gives the load that it begins.

        Who asks again joins what was begun since for others; otherwise he is given what is fresh, or waits for it,
        and does not load ahead of time.
        """
        key = self._kept(call.key)
        since = self._joinable.get((call.process, call.key))
        if again and since is not None and not since.is_ahead:
            since.waiting.append(call)
            return None
        entry, now = self.found(call.key), self.now
        if entry and now < entry.fresh_until:
            self.given[call] = self.entry(call.key)
            is_ageing = (
                call.refresh_at > 0
                and entry.stored_at is not None
                and now >= entry.stored_at + call.refresh_at * (entry.fresh_until - entry.stored_at)
            )
            return self._ahead(call, key) if is_ageing and not again else None
        if entry and entry.stored_at is not None and entry.value is not None and not again:
            left = entry.fresh_until - now
            if -left < call.stale:
                self.stats["stale_hits"] += 1
                self.given[call] = Given(entry.value, "stale", now - entry.stored_at, left)
                return self._ahead(call, key)
        flight = self._joinable.get((call.process, call.key))
        if flight is None or (flight.begun_at is not None and key.holder is not flight):
            is_alone = not self._waiting(call.key)
            flight = self._take_off(call, is_ahead=False)
            flight.waiting.append(call)
            if key.holder is None and is_alone:
                return self._begin(flight, self._clock())
        else:
            (flight.waiting if flight.begun_at is None else flight.late).append(call)
        return None

    def end(self, flight: Flight, outcome: Outcome) -> None:
        """The loader of a flight has ended."""
        call = flight.call
        key = self._kept(call.key)
        stands = key.holder is flight
        self._land(flight)
        if isinstance(outcome, Failed):
            self.stats["load_failures"] += 1
            if stands:
                key.holder = None
                key.alone_until = flight.held_until(self._clock()) if key.entry else 0
            self._give(flight, outcome)
            return
        life = call.missing if outcome is None else call.life
        keep = life > 0
        is_valid = flight.tags == self._versions(flight.tags)
        if keep and stands and is_valid and not flight.is_void:
            slack = call.stale if outcome is not None else 0
            entry = self._stored(outcome, self.now, life, slack, flight.tags)
            self.keys[call.key] = Key(entry)
        else:
            self.stats["superseded_loads"] += keep
            if stands:
                key.holder = None
                key.entry = key.entry if keep else None
        status: Status = "missing" if outcome is None else "loaded"
        # Who came late may have come after its tags were invalidated.
        to_ask, flight.late = ([], flight.late) if is_valid else (flight.late, [])
        self._give(flight, Given(outcome, status, 0, life or None))
        for late in to_ask:
            self.execute(late, again=True)

    def settle(self, begun: list[tuple[int, float]]) -> None:
        """Who waited for another process has seen what became of it.

        Args:
            begun: calls whose loaders were called meanwhile, and when: of several who wait for a
                right that is given back, one gets it, and it is not said which.
        """
        for name in tuple(self.keys):
            waiting = self._waiting(name)
            if self._kept(name).holder is not None or not waiting:
                continue
            if self.fresh(name):
                for flight in waiting:
                    self._land(flight)
                    self._give(flight, self.entry(name, late=True))
            else:
                by_call = {flight.call.number: flight for flight in waiting}
                ((winner, at),) = [one for one in begun if one[0] in by_call]
                self._begin(by_call[winner], at)

    def _kept(self, name: str) -> Key:
        """A key, without what has gone by now; what somebody loads anew stays for that."""
        key = self.keys.setdefault(name, Key())
        entry = key.entry
        if entry and key.holder:
            stays = key.holder.held_until(self._clock()) - entry.fresh_until
            entry.slack = max(entry.slack, stays)
        elif entry and self.now >= entry.fresh_until + entry.slack:
            key.entry = None
            key.alone_until = 0
        return key

    def _waiting(self, name: str) -> list[Flight]:
        """Who wants to load a key, and has not got the right."""
        return [one for one in self.flights if one.call.key == name and one.begun_at is None]

    def _stored(
        self, value: int | None, stored_at: int | None, life: int, slack: int, tags: dict[str, int]
    ) -> Entry:
        fresh_until = self.now + life
        return Entry(value, stored_at, fresh_until, slack, tags, fresh_until + slack)

    def _versions(self, tags: Iterable[str]) -> dict[str, int]:
        return {tag: self._tags[tag] for tag in tags}

    def _overtake(self, process: int, key: str) -> None:
        flight = self._joinable.pop((process, key), None)
        if flight is not None:
            flight.is_void = True

    def _ahead(self, call: Call, key: Key) -> Flight | None:
        is_leased = key.holder is not None or key.alone_until > self.now
        if is_leased or (call.process, call.key) in self._joinable:
            return None
        return self._begin(self._take_off(call, is_ahead=True), self._clock())

    def _take_off(self, call: Call, *, is_ahead: bool) -> Flight:
        flight = self._joinable[call.process, call.key] = Flight(call, is_ahead)
        self.flights.append(flight)
        return flight

    def _begin(self, flight: Flight, at: float) -> Flight:
        key = self._kept(flight.call.key)
        key.holder, key.alone_until = flight, 0
        flight.begun_at = at
        flight.tags = self._versions(flight.call.tags)
        self.begun.append(flight.call.number)
        self.stats["loads"] += 1
        self.stats["refreshes"] += flight.is_ahead
        return flight

    def _land(self, flight: Flight) -> None:
        self.flights.remove(flight)
        where = flight.call.process, flight.call.key
        if self._joinable.get(where) is flight:
            del self._joinable[where]

    def _give(self, flight: Flight, given: Given | Failed) -> None:
        for call in (*flight.waiting, *flight.late):
            self.given[call] = given
