"""`AsyncRedisCache(any_loop=True)`, beside what a program with many event loops would use otherwise."""

from collections.abc import Awaitable, Mapping, Sequence

from asgiref.sync import sync_to_async

from .peers import EVERYTHING, AsyncPeer
from .peers_ours import Ours, without_uvloop
from .peers_redis import RedisPy, RedisPyInThreads
from .servers import Target
from .workloads import ONE_LOOP, SYNC_TO_ASYNC


class OursOnAnyLoop(Ours):
    """Its private loop is asyncio's own, as for `OursInThreads`."""

    def __init__(self) -> None:
        super().__init__(any_loop=True)

    async def open(self, server: Target) -> None:
        with without_uvloop():
            await super().open(server)


class RedisPyInExecutor:
    """redis.Redis by `sync_to_async`, which has one thread for the calls of an event loop, as a view of Django does."""

    name = SYNC_TO_ASYNC
    operations = EVERYTHING

    def __init__(self) -> None:
        self._client = RedisPyInThreads()
        self.store = sync_to_async(self._client.store)
        self.retrieve = sync_to_async(self._client.retrieve)
        self.remove = sync_to_async(self._client.remove)
        self._retrieve_many = sync_to_async(self._client.retrieve_many)

    async def open(self, server: Target) -> None:
        self._client.open(server)

    async def close(self) -> None:
        self._client.close()

    def retrieve_many(self, keys: Sequence[str]) -> Awaitable[Mapping[str, object]]:
        return self._retrieve_many(keys)

    async def fill(self, values: Mapping[str, object]) -> None:
        self._client.fill(values)


def on_any_loop() -> list[AsyncPeer]:
    """With any_loop and without, and redis-py by both of its APIs."""
    return [OursOnAnyLoop(), Ours(ONE_LOOP), RedisPyInExecutor(), RedisPy()]
