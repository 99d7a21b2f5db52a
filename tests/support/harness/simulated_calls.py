"""Calls of all kinds in the simulation, and the checks of their results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from async_redis_cache import CacheError, CacheStateError
from harness.simulated_checker import Call
from harness.simulated_history import Origin, ViolationError, Witness
from harness.simulated_loop import SimulatedLoop, owned_by
from harness.simulated_processes import PREFIX, Process

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

__all__ = ["KEYS", "TAGS", "Calls", "LoadFailedError"]

KEYS: Final = ("a", "b", "c")
TAGS: Final = ("red", "blue")
_WATCH: Final = 0.010
"""Seconds by which a call may be late: the watch goes round every five milliseconds, and a call may ask twice."""


class LoadFailedError(Exception):
    """The origin is in trouble."""


class Calls:
    """Makes calls, and holds them to what is promised.

    Args:
        loop: simulated.
        chance: decides what is asked for.
        witness: of what happens on the server.
    """

    def __init__(self, loop: SimulatedLoop, chance: random.Random, witness: Witness) -> None:
        self.loop = loop
        self.chance = chance
        self.witness = witness
        self.outcomes: list[str] = []
        self.under_way: set[str] = set()
        self._numbers = 0

    async def made(
        self,
        process: Process,
        operation: str,
        keys: tuple[str, ...],
        asked: Callable[[], Awaitable[Any]],
        *,
        loads: bool = False,
    ) -> tuple[Call, Any]:
        """A call and what it gave; it ends in time, and in nothing but what is promised."""
        wire_keys = tuple(f"{PREFIX}{key}".encode() for key in keys)
        call = Call(operation, wire_keys, self.loop.time(), loads=loads, stale=process.stale)
        process.judge.begins(call)
        pending = process.engine._pending
        call.was_pending = any(key in pending.keys or key in pending.flushes for key in wire_keys)
        result = None
        asking = f"{process.name} {operation} {keys} since {call.begin}"
        came_late = process.ended
        self.under_way.add(asking)
        process.calls.add(call)
        try:
            with owned_by(process):
                result = await asked()
        except LoadFailedError as error:
            call.error = error
        except CacheStateError as error:
            if error.code != "NOT_OPENED" or not process.ended:
                raise
            call.error = error
        except CacheError as error:
            call.error = error
        finally:
            self.under_way.discard(asking)
            process.calls.discard(call)
            call.end = self.loop.time()
            timeouts = (
                process.options["command_timeout"] + loads * process.options["loading_hard_timeout"]
            )
            budget = timeouts / 1000 + _WATCH + self.loop.stalled(call.begin, call.end)
            if call.end - call.begin > budget:
                raise ViolationError(
                    f"{process.name}: {call} took {call.end - call.begin} of {budget}"
                )
        if came_late and not isinstance(call.error, CacheStateError):
            raise ViolationError(f"{process.name}: {call} was answered by a cache that is closed")
        said = f"{call.begin:.6f} {call.end:.6f} {process.name} {operation} {keys} {result!r} {call.error!r}"
        self.outcomes.append(said)
        return call, result

    def number(
        self, process: Process, key: str, *, by_load: bool, tags: tuple[str, ...] = ()
    ) -> Origin:
        """Of a new value."""
        self._numbers += 1
        wire_key = f"{PREFIX}{key}".encode()
        origin = Origin(self._numbers, wire_key, process.name, self.loop.time(), by_load, tags)
        self.witness.origins[self._numbers] = origin
        return origin

    def key(self) -> str:
        """Any."""
        return self.chance.choices(KEYS, (8, 2, 1))[0]

    def life(self) -> int:
        """Any, in milliseconds."""
        return self.chance.choice((40, 300, 5000, 5000))

    def some_tags(self) -> tuple[str, ...]:
        """Any, or none."""
        return tuple(self.chance.sample(TAGS, self.chance.choice((0, 0, 1, 2))))

    def judge(self, process: Process, call: Call, key: bytes, value: Any) -> None:
        """Look at what a call has given for a key."""
        if value is not None:
            process.judge.given(call, key, value["number"])
        elif not call.loads:
            process.judge.missed(call, key)
