"""Many keys loaded by one call of a loader."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from ._errors import CacheInputError
from ._loaders import run

__all__ = ["Batch", "BatchLoader"]

BatchLoader = Callable[[list[str]], Any]
"""A function of a list of keys that gives a mapping from keys to values, or something to await for it.
Of keys that it leaves out there is no value."""


class Batch:
    """The keys of one call, until it is known of each whether it has to be loaded here.

    Then the loader is called once for those that have. A key that another process loads is not
    waited for; should that one die, the loader is called again for it.

    Args:
        keys: of which that is not known yet.
        loader: see `BatchLoader`.
        in_thread: call a plain loader in a worker thread.
    """

    def __init__(self, keys: Iterable[str], loader: BatchLoader, *, in_thread: bool) -> None:
        self._undecided = set(keys)
        self._loader = loader
        self._in_thread = in_thread
        self._wanted: dict[str, asyncio.Future[Any]] = {}
        # The loop keeps only weak references to tasks.
        self._tasks: set[asyncio.Task[None]] = set()

    def decided(self, key: str) -> None:
        """It is known of this key; if it was the last, the loader is called."""
        self._undecided.discard(key)
        if self._wanted and not self._undecided:
            wanted, self._wanted = self._wanted, {}
            task = asyncio.get_running_loop().create_task(self._load(wanted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            left = set(wanted)

            def leave(key: str, _: asyncio.Future[Any]) -> None:
                left.discard(key)
                if not left:
                    # All have what they wanted, or nobody wants it any more.
                    task.cancel()

            for one, future in wanted.items():
                future.add_done_callback(partial(leave, one))

    async def value(self, key: str) -> Any:
        """The value of a key that has to be loaded here."""
        future = self._wanted[key] = asyncio.get_running_loop().create_future()
        self.decided(key)
        return await future

    async def _load(self, wanted: dict[str, asyncio.Future[Any]]) -> None:
        values: Mapping[str, Any] = {}
        failure: BaseException | None = None
        try:
            call = partial(self._loader, list(wanted))
            values = await run(call, in_thread=self._in_thread)
            if not isinstance(values, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
                problem = "a loader of many keys gives a mapping of keys to values"
                failure = CacheInputError("NOT_SERIALIZABLE", problem)
        except Exception as error:  # noqa: BLE001  it goes to all who wait
            failure = error
        for key, future in wanted.items():
            if future.done():
                continue
            if failure is None:
                future.set_result(values.get(key))
            else:
                future.set_exception(failure)
