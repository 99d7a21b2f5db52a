"""What processes do with their caches, and what each call is held to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from async_redis_cache import AsyncRedisCache, CacheError, CacheStateError, Load
from harness.simulated_judge import Call, Judge
from harness.simulated_witness import Origin, ViolationError, Witness

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Coroutine

    from harness.simulated_loop import SimulatedLoop

__all__ = ["KEYS", "PREFIX", "Clients", "Process"]

PREFIX: Final = "p:"
KEYS: Final = ("a", "b", "c")
TAGS: Final = ("red", "blue")
_CHANGES: Final = frozenset({"store", "store_many", "remove", "remove_many", "invalidate"})
_WATCH: Final = 0.010
"""Seconds by which a call may be late: the watch goes round every five milliseconds, and a call may ask twice."""


class LoadFailedError(Exception):
    """The origin is in trouble."""


@dataclass(eq=False)
class Process:
    """A process with a cache."""

    name: str
    cache: AsyncRedisCache
    judge: Judge
    options: dict[str, Any]
    stale: float = 0.0

    @property
    def engine(self) -> Any:
        """Its engine, where it is open."""
        return self.cache._lifecycle.engine()


class Clients:
    """Those who make the calls.

    Args:
        loop: simulated.
        chance: decides what they do.
        witness: of what happens on the server.
    """

    def __init__(self, loop: SimulatedLoop, chance: random.Random, witness: Witness) -> None:
        self.loop = loop
        self.chance = chance
        self.witness = witness
        self.outcomes: list[str] = []
        self.under_way: set[str] = set()
        self._numbers = 0

    async def act(self, process: Process) -> None:
        deeds = [
            (5, self._retrieve),
            (2, self._retrieve_many),
            (1, self._contains),
            (3, self._store),
            (1, self._store_many),
            (2, self._remove),
            (1, self._remove_many),
            (1, self._touch),
            (1, self._invalidate),
            (5, self._load),
            (1, self._refresh),
            (0.1, self._clear),
        ]
        weights = [weight for weight, _ in deeds]
        for _ in range(self.chance.randint(8, 20)):
            ((_, deed),) = self.chance.choices(deeds, weights)
            if self.chance.random() < 0.12:
                await self._cancelled(deed(process))
            else:
                await deed(process)
            if self.chance.random() < 0.7:
                await asyncio.sleep(self.chance.choice((0, 0, 0.0005, 0.002, 0.005, 0.02, 0.1)))

    async def _cancelled(self, deed: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(deed)
        await asyncio.wait((task,), timeout=self.chance.choice((0, 0.0002, 0.002, 0.01, 0.1)))
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled():
            task.result()

    async def made(
        self,
        process: Process,
        verb: str,
        keys: tuple[str, ...],
        asked: Callable[[], Awaitable[Any]],
        *,
        loads: bool = False,
    ) -> tuple[Call, Any]:
        """A call and what it gave; it ends in time, and in nothing but what is promised."""
        wire_keys = tuple(f"{PREFIX}{key}".encode() for key in keys)
        call = Call(verb, wire_keys, self.loop.time(), loads=loads, stale=process.stale)
        if verb in _CHANGES:
            process.judge.changing(call)
        owed = process.engine._debts if process.engine else None
        call.was_owed = owed is not None and any(
            key in owed.owed or key in owed.payments for key in wire_keys
        )
        result = None
        asking = f"{process.name} {verb} {keys} since {call.begin}"
        self.under_way.add(asking)
        try:
            result = await asked()
        except LoadFailedError as error:
            call.error = error
        except CacheStateError:
            raise  # No cache is closed while somebody uses it.
        except CacheError as error:
            call.error = error
        finally:
            self.under_way.discard(asking)
            call.end = self.loop.time()
            timeouts = (
                process.options["command_timeout"] + loads * process.options["loading_hard_timeout"]
            )
            budget = timeouts / 1000 + _WATCH + self.loop.stalled(call.begin, call.end)
            if call.end - call.begin > budget:
                raise ViolationError(
                    f"{process.name}: {call} took {call.end - call.begin} of {budget}"
                )
        said = f"{call.begin:.6f} {call.end:.6f} {process.name} {verb} {keys} {result!r} {call.error!r}"
        self.outcomes.append(said)
        return call, result

    def _number(
        self, process: Process, key: str, *, by_load: bool, tags: tuple[str, ...] = ()
    ) -> Origin:
        self._numbers += 1
        wire_key = f"{PREFIX}{key}".encode()
        origin = Origin(self._numbers, wire_key, process.name, self.loop.time(), by_load, tags)
        self.witness.origins[self._numbers] = origin
        return origin

    def _key(self) -> str:
        return self.chance.choices(KEYS, (8, 2, 1))[0]

    def _life(self) -> int:
        return self.chance.choice((40, 300, 5000, 5000))

    def _some_tags(self) -> tuple[str, ...]:
        return tuple(self.chance.sample(TAGS, self.chance.choice((0, 0, 1, 2))))

    def judge(self, process: Process, call: Call, key: bytes, value: Any) -> None:
        if value is not None:
            process.judge.given(call, key, value["number"])
        elif not call.loads:
            process.judge.missed(call, key)

    async def _retrieve(self, process: Process) -> None:
        key = self._key()
        call, value = await self.made(
            process, "retrieve", (key,), partial(process.cache.retrieve, None, key)
        )
        if call.error is None:
            self.judge(process, call, call.keys[0], value)

    async def _retrieve_many(self, process: Process) -> None:
        call, values = await self.made(
            process, "retrieve_many", KEYS, partial(process.cache.retrieve_many, None, KEYS)
        )
        if call.error is None:
            for key, wire_key in zip(KEYS, call.keys, strict=True):
                self.judge(process, call, wire_key, values.get(key))

    async def _contains(self, process: Process) -> None:
        key = self._key()
        await self.made(process, "contains", (key,), partial(process.cache.contains, None, key))

    async def _touch(self, process: Process) -> None:
        key = self._key()
        touch = partial(process.cache.touch, None, key, self._life())
        await self.made(process, "touch", (key,), touch)

    async def _store(self, process: Process) -> None:
        key, tags = self._key(), self._some_tags()
        origin = self._number(process, key, by_load=False, tags=tags)
        value = {"number": origin.number}
        store = partial(process.cache.store, None, key, value, self._life(), tags=tags)
        call, _ = await self.made(process, "store", (key,), store)
        process.judge.stored(call, origin.number)

    async def _store_many(self, process: Process) -> None:
        origins = {key: self._number(process, key, by_load=False) for key in KEYS[:2]}
        values = {key: {"number": origin.number} for key, origin in origins.items()}
        store = partial(process.cache.store_many, None, values, self._life())
        call, _ = await self.made(process, "store_many", tuple(values), store)
        process.judge.changed(call)

    async def _remove(self, process: Process) -> None:
        key = self._key()
        call, _ = await self.made(
            process, "remove", (key,), partial(process.cache.remove, None, key)
        )
        process.judge.changed(call)

    async def _remove_many(self, process: Process) -> None:
        keys = KEYS[1:]
        call, _ = await self.made(
            process, "remove_many", keys, partial(process.cache.remove_many, None, keys)
        )
        process.judge.changed(call)

    async def _invalidate(self, process: Process) -> None:
        tag = self.chance.choice(TAGS)
        call, _ = await self.made(
            process,
            "invalidate",
            (f"\0tag:{tag}",),
            partial(process.cache.invalidate_tags, None, tag),
        )
        process.judge.changed(call)

    async def _clear(self, process: Process) -> None:
        await self.made(process, "clear", (), partial(process.cache.clear, None))

    async def _load(self, process: Process) -> None:
        await self._loaded(process, "retrieve_or_load", process.cache.retrieve_or_load)

    async def _refresh(self, process: Process) -> None:
        await self._loaded(process, "refresh", process.cache.refresh)

    async def _loaded(self, process: Process, verb: str, method: Any) -> None:
        key, tags, late_tags = self._key(), self._some_tags(), self._some_tags()
        life, takes = self._life(), self.chance.choice((0, 0, 0.001, 0.005, 0.02, 0.1, 0.7))
        end = self.chance.choice(("value",) * 8 + ("none", "error"))

        async def load(load: Load) -> Any:
            origin = self._number(process, key, by_load=True, tags=(*tags, *late_tags))
            flights = process.engine._loading._in_the_air if process.engine else ()
            origin.holds_right = any(
                flight.holds_right for flight in flights if flight.task is asyncio.current_task()
            )
            await asyncio.sleep(takes)
            if end == "error":
                raise LoadFailedError
            load.tags = origin.tags
            origin.ended = self.loop.time()
            return {"number": origin.number} if end == "value" else None

        asked = partial(method, None, key, load, life, tags=tags)
        call, value = await self.made(process, verb, (key,), asked, loads=True)
        if call.error is None:
            self.judge(process, call, call.keys[0], value)
