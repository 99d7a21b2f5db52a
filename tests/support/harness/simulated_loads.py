"""Calls that load missing keys, one or many, in the simulation."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from async_redis_cache import CacheError, CacheStateError, CoalescingLoader, Load, cached
from harness.simulated_calls import KEYS, Calls, LoadFailedError
from harness.simulated_history import Origin, ViolationError
from harness.simulated_processes import PREFIX, Process

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from harness.simulated_checker import Call

__all__ = ["Loads", "Source"]


@dataclass(eq=False)
class Source:
    """Where values are loaded from, by one call.

    Attributes:
        takes: seconds.
        end: in a `value`, in `none` or in an `error`.
        forced: whether that is done whatever is stored, and whoever else loads.
        tags: that the call has named.
        late_tags: that the loader adds.
    """

    calls: Calls
    process: Process
    takes: float
    end: str = "value"
    forced: bool = False
    tags: tuple[str, ...] = ()
    late_tags: tuple[str, ...] = ()

    async def one(self, key: str, load: Load | None = None) -> Any:
        """Load a key."""
        tags = self.tags if load is None else (*self.tags, *self.late_tags)
        value = (await self._loaded([key], tags)).get(key)
        if load is not None:
            load.tags = tags
        return value

    async def many(self, keys: list[str]) -> Mapping[str, Any]:
        """Load keys."""
        return await self._loaded(keys, self.tags)

    async def _loaded(self, keys: list[str], tags: tuple[str, ...]) -> dict[str, Any]:
        origins = {
            key: self.calls.number(self.process, key, by_load=True, tags=tags) for key in keys
        }
        for origin in origins.values():
            self._begins(origin)
        await asyncio.sleep(self.takes)
        if self.end == "error":
            raise LoadFailedError
        for origin in origins.values():
            origin.ended = self.calls.loop.time()
        values = {key: {"number": origin.number} for key, origin in origins.items()}
        return values if self.end == "value" else {}

    def _begins(self, origin: Origin) -> None:
        loading = self.process.engine.single_flight
        of_key = [one for one in loading._running if one.lease._key == origin.key]
        mine = [flight for flight in of_key if flight.task is asyncio.current_task()]
        # Which load of a key has asked for a batch is not known where there are several.
        flights = mine or of_key
        origin.holds_right = bool(flights) and all(flight.holds_lease for flight in flights)
        # One that nobody can join any more says nothing of those that come after it.
        if not self.forced and flights == [loading._in_flight.get(origin.key)]:
            self.process.judge.loading(origin, flights[0].task)


class Loads(Calls):
    """Makes calls that load."""

    async def load(self, process: Process) -> None:
        """One key, from a loader that may say more."""
        await self.load_one(self.source(process, late_tags=self.some_tags()), self.key())

    async def load_one(self, source: Source, key: str) -> None:
        """This key, from there."""
        await self._one(source, key, "retrieve_or_load", source.process.cache.retrieve_or_load)

    async def refresh(self, process: Process) -> None:
        """One key, whatever is stored."""
        source = self.source(process, late_tags=self.some_tags(), forced=True)
        await self._one(source, self.key(), "refresh", process.cache.refresh)

    async def load_entry(self, process: Process) -> None:
        """One key, with what is known about it."""
        entry: Any = process.cache.retrieve_or_load_entry

        async def value_of_entry(*args: Any, **options: Any) -> Any:
            return (await entry(*args, **options)).value

        source = self.source(process, late_tags=self.some_tags())
        await self._one(source, self.key(), "retrieve_or_load_entry", value_of_entry)

    async def call_function(self, process: Process) -> None:
        """A function whose results are cached."""
        key, source = self.key(), self.source(process)

        @cached(process.cache, key="{key}", timeout=self.life(), tags=source.tags)
        async def function(key: str) -> Any:
            return await source.one(key)

        call, value = await self.made(process, "cached", (key,), partial(function, key), loads=True)
        self._judge_all(process, call, {key: value}, (key,))

    async def load_many(self, process: Process) -> None:
        """Some keys in one call, from a loader of many."""
        keys = tuple(self.chance.sample(KEYS, self.chance.choice((1, 2, 3))))
        source, life = self.source(process), self.life()
        many = process.cache.retrieve_or_load_many
        asked = partial(many, None, keys, source.many, life, tags=source.tags)
        call, values = await self.made(process, "retrieve_or_load_many", keys, asked, loads=True)
        self._judge_all(process, call, values or {}, keys)

    async def load_together(self, process: Process) -> None:
        """Some keys at once, each by a call of its own, from a loader that puts them together."""
        source, method = self.source(process), process.cache.retrieve_or_load
        together = CoalescingLoader(source.many, max_keys=self.chance.choice((None, 2)))
        await asyncio.gather(
            *(self._one(source, key, "retrieve_or_load", method, together) for key in KEYS)
        )

    def source(self, process: Process, **about: Any) -> Source:
        """Any."""
        takes = self.chance.choice((0, 0.001, 0.005, 0.02, 0.05, 0.1, 0.7))
        end = self.chance.choice(("value",) * 8 + ("none", "error"))
        return Source(self, process, takes, end, tags=self.some_tags(), **about)

    async def _one(
        self, source: Source, key: str, operation: str, method: Any, loader: Any = None
    ) -> None:
        process = source.process

        async def load(load: Load) -> Any:
            return await source.one(key, load)

        asked = partial(method, None, key, loader or load, self.life(), tags=source.tags)
        call, value = await self.made(process, operation, (key,), asked, loads=True)
        self._judge_all(process, call, {key: value}, (key,))

    def _judge_all(
        self, process: Process, call: Call, values: Mapping[str, Any], keys: Iterable[str]
    ) -> None:
        error = call.error
        if error is None:
            for key in keys:
                self.judge(process, call, f"{PREFIX}{key}".encode(), values.get(key))
        elif (
            isinstance(error, CacheError)
            and not isinstance(error, CacheStateError)
            and error.code != "LOAD_TIMEOUT"
        ):
            raise ViolationError(f"{process.name}: {call} did not go on without the server")
