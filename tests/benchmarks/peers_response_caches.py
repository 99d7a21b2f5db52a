"""Requests for a stored response: this library, in front of an application and in FastAPI, and other caches.

All but the first two answer with the same page, in the application that their cache is made for, as
docs/explanation/http-peers.md describes it. What the application alone costs is measured beside them.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import msgspec

from harness.response_services import (
    SERVICES,
    Reply,
    Service,
    Site,
    application,
    serve_fastapi_alcazaba,
    serve_ours,
)

from .peers import AsyncPeer
from .peers_responses import Responses, request
from .servers import Target
from .workloads import OURS, Operation

HITS = frozenset({Operation.RETRIEVE_HIT})
ALONE = "ASGI, no cache"


class Served:
    """The page of a service, by its query: the caches that leave the query out of their keys have one value."""

    operations = HITS

    def __init__(
        self,
        name: str,
        start: Callable[[Site, str], AbstractAsyncContextManager[Service]],
        path: str = "/page",
    ) -> None:
        self.name = name
        self._start = start
        self._path = path
        self._content: Any = None

    async def open(self, server: Target) -> None:
        self._opened = AsyncExitStack()
        site = Site(self._read, lambda: None, ttl=60, has_values=True)
        service = await self._opened.enter_async_context(self._start(site, server.url))
        self._app = service.app

    async def close(self) -> None:
        await self._opened.aclose()

    async def _read(self, fields: Mapping[str, str]) -> Reply:
        return Reply(self._content)

    async def retrieve(self, key: str) -> object:
        return await request(self._app, self._path, key)

    async def fill(self, values: Mapping[str, object]) -> object:
        body: Any
        (body,) = set(values.values())
        self._content = msgspec.json.decode(body)
        for key in values:
            await self.retrieve(key)
        return None

    async def store(self, key: str, value: object) -> object:
        raise NotImplementedError

    async def remove(self, key: str) -> object:
        raise NotImplementedError

    async def retrieve_many(self, keys: Sequence[str]) -> Mapping[str, object]:
        raise NotImplementedError


class Alone(Responses):
    """The bare ASGI application."""

    operations = HITS

    def __init__(self) -> None:
        super().__init__(ALONE, near=False)

    async def retrieve(self, key: str) -> object:
        return await request(self._respond, f"/{key}")


@asynccontextmanager
async def fastapi_alone(site: Site, url: str) -> AsyncGenerator[Service]:
    yield Service(application(site))


def response_caches() -> list[AsyncPeer]:
    """This library, what applications cost without a cache, and the other caches."""
    served = [Served(cache, start) for cache, start in SERVICES.items() if cache != OURS]
    return [
        Responses(near=False),
        Responses(f"{OURS}, near cache", near=True),
        Served(f"{OURS}, in FastAPI", partial(serve_ours, tags=())),
        Served(f"{OURS}, in FastAPI, with a tag", serve_ours),
        *served,
        Served("fastapi-alcazaba, tiered", partial(serve_fastapi_alcazaba, is_tiered=True)),
        Alone(),
        Served("FastAPI, no cache", fastapi_alone),
        Served("Litestar, no cache", SERVICES["litestar"], "/plain"),
    ]
