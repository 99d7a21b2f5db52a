"""The clients of a simulated process."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from harness.simulated_calls import KEYS, TAGS
from harness.simulated_loads import Loads

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from harness.simulated_processes import Place, Process

__all__ = ["Clients"]


class Clients(Loads):
    """Those who make the calls."""

    async def act(self, place: Place) -> None:
        """Until all that is to be done there has been."""
        deeds: list[tuple[float, Callable[[Process], Coroutine[Any, Any, None]]]] = [
            (5, self._retrieve),
            (2, self._retrieve_many),
            (0.5, self._retrieve_entry),
            (0.5, self._time_to_live),
            (1, self._contains),
            (3, self._store),
            (1, self._store_many),
            (2, self._remove),
            (1, self._remove_many),
            (1, self._touch),
            (2, self._invalidate),
            (4, self.load),
            (1, self.load_entry),
            (2, self.load_many),
            (0.5, self.load_together),
            (1, self.call_function),
            (1, self.refresh),
            (0.1, self._clear),
        ]
        weights = [weight for weight, _ in deeds]
        while place.deeds_left > 0:
            place.deeds_left -= 1
            ((_, deed),) = self.chance.choices(deeds, weights)
            if self.chance.random() < 0.12:
                await self._cancelled(self._done(place, deed))
            else:
                await deed(place.process)
            if self.chance.random() < 0.7:
                await asyncio.sleep(self.chance.choice((0, 0, 0.0005, 0.002, 0.005, 0.02, 0.1)))

    async def _done(
        self, place: Place, deed: Callable[[Process], Coroutine[Any, Any, None]]
    ) -> None:
        # Who runs there is seen when it begins, not before.
        await deed(place.process)

    async def _cancelled(self, deed: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(deed)
        try:
            await asyncio.wait((task,), timeout=self.chance.choice((0, 0.0002, 0.002, 0.01, 0.1)))
        finally:
            task.cancel()
            await asyncio.wait((task,))
        if not task.cancelled():
            task.result()

    async def _retrieve(self, process: Process) -> None:
        key = self.key()
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

    async def _retrieve_entry(self, process: Process) -> None:
        key = self.key()
        asked = partial(process.cache.retrieve_entry, None, key)
        call, entry = await self.made(process, "retrieve_entry", (key,), asked)
        if call.error is None:
            self.judge(process, call, call.keys[0], entry.value)

    async def _time_to_live(self, process: Process) -> None:
        key = self.key()
        asked = partial(process.cache.time_to_live, None, key)
        await self.made(process, "time_to_live", (key,), asked)

    async def _contains(self, process: Process) -> None:
        key = self.key()
        await self.made(process, "contains", (key,), partial(process.cache.contains, None, key))

    async def _touch(self, process: Process) -> None:
        key = self.key()
        touch = partial(process.cache.touch, None, key, self.life())
        await self.made(process, "touch", (key,), touch)

    async def _store(self, process: Process) -> None:
        key, tags = self.key(), self.some_tags()
        origin = self.number(process, key, by_load=False, tags=tags)
        value = {"number": origin.number}
        store = partial(process.cache.store, None, key, value, self.life(), tags=tags)
        call, _ = await self.made(process, "store", (key,), store)
        process.judge.stored(call, origin.number)

    async def _store_many(self, process: Process) -> None:
        tags = self.some_tags()
        origins = {key: self.number(process, key, by_load=False, tags=tags) for key in KEYS[:2]}
        values = {key: {"number": origin.number} for key, origin in origins.items()}
        store = partial(process.cache.store_many, None, values, self.life(), tags=tags)
        call, _ = await self.made(process, "store_many", tuple(values), store)
        process.judge.changed(call)

    async def _remove(self, process: Process) -> None:
        key = self.key()
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
