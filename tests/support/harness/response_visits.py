"""A visit to a service with a cached page, and the observations that are made on one."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import httpx

from .proxy import Proxy
from .response_services import SERVICES, App, Handler, Reply, Site

__all__ = ["OBSERVATIONS", "Visit", "Visiting", "echoing", "observe", "replying", "row", "yes_if"]


@dataclass(frozen=True, slots=True)
class Visit:
    """A service that runs, and a client of it."""

    cache: str
    app: App
    client: httpx.AsyncClient
    link: Proxy
    invalidation: tuple[str, str]

    async def get(self, **fields: str) -> httpx.Response:
        """Request the page; an underscore in the name of a field is a hyphen."""
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        return await self.client.get("/page", headers=headers)


Visiting = Callable[..., AbstractAsyncContextManager[Visit]]
Observation = Callable[[Visiting], Awaitable[str]]
OBSERVATIONS: dict[str, Observation] = {}
"""By the first cell of the row; each returns the cell of a cache."""


async def observe(row: str, cache: str, link: Proxy) -> str:
    """Return what the cache does, as the page says it.

    Args:
        row: the first cell of its row.
        cache: the name of the package.
        link: to the server of the cache.
    """
    return await OBSERVATIONS[row](partial(visiting, cache, link))


@asynccontextmanager
async def visiting(
    cache: str,
    link: Proxy,
    read: Handler,
    *,
    write: Callable[[], None] = lambda: None,
    ttl: int = 60,
    has_values: bool = True,
) -> AsyncGenerator[Visit]:
    """Run a service. See `Site`."""
    async with SERVICES[cache](Site(read, write, ttl, has_values), link.url) as service:
        transport = httpx.ASGITransport(service.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://site") as client:
            yield Visit(cache, service.app, client, link, service.invalidation)


def row(text: str) -> Callable[[Observation], Observation]:
    """Make a function the observation of a row."""

    def add(observation: Observation) -> Observation:
        OBSERVATIONS[text] = observation
        return observation

    return add


def replying(*replies: Reply) -> tuple[Handler, list[Mapping[str, str]]]:
    """Return a handler that gives these replies, the last one again and again; and the fields of its requests."""
    runs: list[Mapping[str, str]] = []

    async def read(fields: Mapping[str, str]) -> Reply:
        runs.append(fields)
        return replies[min(len(runs), len(replies)) - 1]

    return read, runs


def echoing(field: str, **headers: str) -> Handler:
    """Return a handler whose content is a field of the request."""

    async def read(fields: Mapping[str, str]) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Reply(fields.get(field, ""), named)

    return read


def yes_if(holds: object) -> str:
    return "yes" if holds else "no"
