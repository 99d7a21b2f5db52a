"""The values that a cache may hold after changes with unknown outcomes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Stored(NamedTuple):
    """A value as it may stand there."""

    value: str
    life: int
    """Milliseconds from when it was stored or touched."""


State = Stored | None
GONE: set[State] = {None}


def stored(value: Any, life: int) -> State:
    """A value that was stored; None removes."""
    return None if value is None else Stored(json.dumps(value), life)


class Possibilities:
    """A dict of what may stand under each key, for several caches that share the keys.

    A change that failed leaves its cache in debt: it removes the key as soon as it can, so the key
    may be gone from one moment to the next, also when another cache has changed it meanwhile.
    """

    def __init__(self, caches: int) -> None:
        self.of: defaultdict[str, set[State]] = defaultdict(GONE.copy)
        self._owed: list[set[str]] = [set() for _ in range(caches)]

    def paid(self, cache: int) -> None:
        """This cache has no debts left."""
        self._owed[cache].clear()

    def changed(self, cache: int, changes: Mapping[str, State]) -> None:
        """It was told that these changes were made."""
        self._owed[cache].difference_update(changes)
        for key, state in changes.items():
            self.of[key] = self._or_removed(key, {state})

    def cleared(self) -> None:
        """All of them are gone; what a cache owes, it still does."""
        for key in self.of:
            self.of[key] = GONE.copy()

    def failed(self, cache: int, changes: Mapping[str, State], *, unknown: bool) -> None:
        """It was told that they were not, or that this is not known."""
        self._owed[cache].update(changes)
        for key, state in changes.items():
            self.of[key] |= {state, None} if unknown else GONE

    def expect(self, key: str, states: Iterable[State]) -> None:
        """One of these was seen there."""
        seen = self.of[key] & set(states)
        assert seen, f"{key!r} can only be {self.of[key]}"
        self.of[key] = self._or_removed(key, seen)

    def found(self, key: str, value: Any) -> None:
        """This value was given."""
        self.expect(key, GONE if value is None else self._with(key, json.dumps(value)))

    def is_there(self, key: str, there: object) -> None:
        """It was said whether there is one."""
        self.expect(key, {*self.of[key]} - GONE if there else GONE)

    def lives(self, key: str, left: int | None, late: int) -> None:
        """It was said how long it lives; that may have begun so many milliseconds ago."""
        fits = (
            state
            for state in self.of[key]
            if state is not None and left is not None and state.life - late < left <= state.life
        )
        self.expect(key, GONE if left is None else fits)

    def touched(self, key: str, life: int, *, unknown: bool = False) -> None:
        """It got, or may have got, a new life."""
        new: set[State] = {state and state._replace(life=life) for state in self.of[key]}
        self.of[key] = self.of[key] | new if unknown else new

    def counted(self, keys: Iterable[str], count: int) -> None:
        """So many of them were there."""
        states = [self.of[key] for key in set(keys)]
        least = sum(None not in possible for possible in states)
        most = sum(possible != GONE for possible in states)
        assert least <= count <= most, f"{count} of {keys}, which can only be {states}"

    def _with(self, key: str, value: str) -> set[State]:
        return {state for state in self.of[key] if state is not None and state.value == value}

    def _or_removed(self, key: str, states: set[State]) -> set[State]:
        return states | GONE if any(key in owed for owed in self._owed) else states
