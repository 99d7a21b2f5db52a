"""Which values a process may return, given its own calls and the history of the server."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from async_redis_cache import CacheError, CacheOutcomeUnknown, CacheTimeout, CacheUnavailable
from harness.simulated_history import Origin, Version, ViolationError, Witness

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

__all__ = ["Call", "Judge"]

_UNHEARD: Final = 0.020
"""Seconds for which what is near is given without a look at what the link has brought."""
_ROUNDING: Final = 0.002
_CLOCK_ERROR: Final = 0.200
"""Seconds by which a process may be wrong about the server's clock: half a slow round trip."""
_OF_ANY_KEY: Final = frozenset({"clear", "invalidate"})
_CHANGES: Final = frozenset({"store", "store_many", "remove", "remove_many", *_OF_ANY_KEY})
_OVERTAKING: Final = frozenset({"refresh", *_CHANGES})
_OWED: Final = (CacheUnavailable, CacheTimeout, CacheOutcomeUnknown)


@dataclass(eq=False)
class Call:
    """One call of one process, that has ended."""

    operation: str
    keys: tuple[bytes, ...]
    begin: float
    end: float = math.inf
    error: BaseException | None = None
    was_pending: bool = False
    loads: bool = False
    stale: float = 0.0


class Judge:
    """Of one process.

    Args:
        process: its name.
        witness: of what has happened.
        tags: the prefix of the keys of tags.
        lag: seconds for which what is near may be given though another process has changed it,
            where no news came.
        opened_at: when its cache was opened: what was near before is not any more.
    """

    def __init__(
        self, process: str, witness: Witness, tags: bytes, lag: float, opened_at: float
    ) -> None:
        self._process = process
        self._witness = witness
        self._tags = tags
        self._lag = lag
        self._opened_at = opened_at
        self._own: defaultdict[bytes, list[tuple[float, float]]] = defaultdict(list)
        """By key its acknowledged changes: when they ended, and what must be seen from then on."""
        self._failed: defaultdict[bytes, list[tuple[float, float]]] = defaultdict(list)
        self._begun: list[Call] = []
        """Its changes."""
        self._overtaking: list[Call] = []
        """Calls after which a load that was begun before is not joined any more."""
        self._loads: list[tuple[Origin, asyncio.Task[object]]] = []
        """Those that were begun without the right, and who makes them."""
        self.without_server: list[float] = []
        """When a call that loads went on without."""

    def begins(self, call: Call) -> None:
        """A call has."""
        if call.operation in _CHANGES:
            self._begun.append(call)
        if call.operation in _OVERTAKING:
            self._overtaking.append(call)

    def changed(self, call: Call) -> None:
        """A change has ended."""
        if isinstance(call.error, _OWED):
            for key in call.keys:
                self._failed[key].append((call.begin, call.end))
        if call.error is not None:
            return
        for key in call.keys:
            at = self._witness.changed_between(key, call.begin - 1e-9, call.end + 1e-9)
            if at is None:
                raise ViolationError(f"{self._process}: {call} was acknowledged, and not made")
            self._own[key].append((call.end, at))

    def stored(self, call: Call, number: int) -> None:
        """A store has ended."""
        self.changed(call)
        seen = self._witness.first_seen.get(number)
        if call.error is None:
            if seen is None or not call.begin <= seen <= call.end:
                raise ViolationError(f"{self._process}: {call} stored {number} at {seen}")
        elif isinstance(call.error, CacheError) and not isinstance(call.error, CacheOutcomeUnknown):
            self._witness.origins[number].never = True

    def missed(self, call: Call, key: bytes) -> None:
        """None was given where nothing is loaded."""
        if call.was_pending or any(call.begin <= end <= call.end for _, end in self._failed[key]):
            return
        # What is near may be a placeholder, or that there is none, a little longer.
        at = self._floor(key, call.begin)
        for version, until in self._witness.held(key, at, call.end):
            margin = _CLOCK_ERROR if version.slack else _ROUNDING
            ends = min(until, version.fresh_until - margin)
            if version.number is None or version.tags or version.at > at:
                return
            at = ends
            if ends < until:
                break
        if at > call.end:
            raise ViolationError(f"{self._process}: {call} missed what was there all the time")

    def given(self, call: Call, key: bytes, number: int) -> None:
        """A value was."""
        origin = self._witness.origins.get(number)
        if origin is None or origin.key != key:
            raise ViolationError(f"{self._process}: {call} was given another key's {origin}")
        floor = self._floor(key, call.begin)
        found = [
            version
            for version, _ in self._witness.held(key, floor, call.end)
            if version.number == number and self._is_valid(key, version, call)
        ]
        if not found and not (call.loads and self._was_loaded_for(call, origin, floor)):
            raise ViolationError(
                f"{self._process}: {call} was given {origin}, which it must not be since {floor}; "
                f"there was {[*self._witness.held(key, floor - 0.1, call.end)]}"
            )
        self._is_not_owed(call, [key, *(self._tags + tag.encode() for tag in origin.tags)], origin)

    def loading(self, origin: Origin, task: asyncio.Task[object]) -> None:
        """A load has begun. Where the server was not asked for the right, one serves all who ask here."""
        for other, maker in self._loads:
            if (
                other.key == origin.key
                and not (maker.done() or maker.cancelling())
                and not any(self._overtakes(change, other) for change in self._overtaking)
            ):
                raise ViolationError(f"{self._process}: {origin} is loaded while {other} is")
        if not origin.holds_right:
            self._loads.append((origin, task))

    def _overtakes(self, change: Call, origin: Origin) -> bool:
        # Any tag may be one that its loader will give it.
        return change.end >= origin.begun and (
            origin.key in change.keys or change.operation in _OF_ANY_KEY
        )

    def _floor(self, key: bytes, begin: float) -> float:
        """What the server held at this moment or later may be given to a call that begins so."""
        if not self._lag:
            return begin
        own = (at for end, at in self._own[key] if end <= begin)
        known = self._witness.known(self._process, key, begin - _UNHEARD)
        return max(begin - self._lag, self._opened_at, known, *own)

    def _is_valid(self, key: bytes, version: Version, call: Call) -> bool:
        margin = _CLOCK_ERROR if version.slack else _ROUNDING
        if self._lag and self._witness.replaced_between(key, version.at, call.begin):
            # How long it is to stay near may have been asked of what came after it, until the news come.
            margin += self._lag
        stays = version.fresh_until + margin + (min(version.slack, call.stale))
        return stays >= call.begin and all(
            self._witness.tag_was(
                self._tags + tag, stamp, self._floor(self._tags + tag, call.begin), call.end
            )
            for tag, stamp in version.tags.items()
        )

    def _was_loaded_for(self, call: Call, origin: Origin, floor: float) -> bool:
        """Whether it is what a load gave, which nobody has overtaken as far as one could know."""
        if not origin.by_load or origin.process != self._process or origin.ended > call.end:
            return False
        if origin.begun < self._opened_at:
            return False  # Closing has ended it.
        own = max((at for end, at in self._own[origin.key] if end <= call.begin), default=0.0)
        # Who cannot ask the server does not know what others have changed.
        asked = not any(call.begin <= at <= call.end for at in self.without_server)
        seen = floor if origin.holds_right and asked else own
        if self._witness.changed_between(origin.key, origin.begun, seen) is not None:
            return False
        for tag in origin.tags:
            key = self._tags + tag.encode()
            own = max((at for end, at in self._own[key] if end <= call.begin), default=0.0)
            seen = self._floor(key, call.begin) if origin.holds_right and asked else own
            if self._witness.changed_between(key, origin.begun, seen) is not None:
                return False
        return True

    def _is_not_owed(self, call: Call, keys: Sequence[bytes], origin: Origin) -> None:
        first = self._witness.first_seen.get(origin.number, origin.begun)
        seen = self._witness.last_stored.get(origin.number, first)
        for key in keys:
            for begin, end in self._failed[key]:
                # While it is changed anew, the reader may as well come before that.
                anew = any(
                    key in one.keys and end <= one.begin <= call.end and call.begin <= one.end
                    for one in self._begun
                )
                if end < call.begin and seen < begin and origin.begun < begin and not anew:
                    raise ViolationError(
                        f"{self._process}: {call} was given {origin}, last stored at {seen}, which "
                        f"a change of {key!r} from {begin} to {end} had failed to make old"
                    )
