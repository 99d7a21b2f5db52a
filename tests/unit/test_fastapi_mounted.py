"""`CacheDep` in mounted applications: the cache of the nearest application that has one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from async_redis_cache import AsyncRedisCache
from async_redis_cache.fastapi import CacheDep, cache_lifespan


def cache_of(name: str) -> AsyncRedisCache:
    """A cache that is identified by its prefix and needs no server."""
    return AsyncRedisCache.from_url("fake://", key_prefix=f"{name}:")


async def mine(cache: CacheDep) -> str:
    """Whose cache a handler has."""
    return await cache.store(None, "whose", repr(cache._lifecycle.settings.options.key_prefix))  # pyright: ignore[reportPrivateUsage]


def application(**inside: ASGIApp) -> FastAPI:
    """One without a lifespan, with others mounted in it."""
    app = FastAPI()
    app.get("/mine")(mine)
    for path, other in inside.items():
        app.mount(f"/{path}", other)
    return app


@asynccontextmanager
async def running(
    app: FastAPI, *opened: tuple[FastAPI, AsyncRedisCache]
) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of the outermost, in whose lifespan these caches are opened for these applications."""
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://app"
    ) as client:
        if not opened:
            yield client
            return
        (of, cache), *others = opened
        async with cache_lifespan(cache)(of), running(app, *others) as inner:
            yield inner


async def whose(client: httpx.AsyncClient, path: str) -> str:
    """The answer of a handler."""
    answer = await client.get(path)
    assert answer.status_code == 200
    return str(answer.json()).strip("'")


async def test_mounted_application_has_the_cache_of_the_outer_one() -> None:
    """At any depth, and in the outer application as ever."""
    deep = application()
    sub = application(deep=deep)
    app = application(sub=sub)
    async with running(app, (app, cache_of("app"))) as client:
        for path in ("/mine", "/sub/mine", "/sub/deep/mine"):
            assert await whose(client, path) == "app:"


async def test_nearest_application_with_a_cache_has_its_way() -> None:
    """A mounted application's own cache is its, and that of what is mounted in it; siblings keep the outer one."""
    deep, sibling = application(), application()
    sub = application(deep=deep)
    app = application(sub=sub, sibling=sibling)
    async with running(app, (app, cache_of("app")), (sub, cache_of("sub"))) as client:
        assert await whose(client, "/mine") == "app:"
        assert await whose(client, "/sub/mine") == "sub:"
        assert await whose(client, "/sub/deep/mine") == "sub:"
        assert await whose(client, "/sibling/mine") == "app:"


async def test_one_application_mounted_in_two_has_the_cache_of_the_request() -> None:
    """Which of the two serves the request decides, also for requests at the same time."""
    shared = application()
    one, two = application(sub=shared), application(sub=shared)
    async with (
        running(one, (one, cache_of("one"))) as first,
        running(two, (two, cache_of("two"))) as second,
    ):
        answers = await asyncio.gather(
            *(whose(client, "/sub/mine") for _ in range(5) for client in (first, second))
        )
    assert answers == ["one:", "two:"] * 5


async def test_application_mounted_by_an_included_router_has_the_cache() -> None:
    """Routers, and middleware around what is mounted, are passed through."""
    sub = application()

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        await sub(scope, receive, send)

    router = APIRouter()
    router.get("/mine")(mine)
    app = application(wrapped=wrapped, starlette=Starlette(routes=[Mount("/sub", sub)]))
    app.include_router(router, prefix="/v1")
    async with running(app, (app, cache_of("app"))) as client:
        for path in ("/v1/mine", "/wrapped/mine", "/starlette/sub/mine"):
            assert await whose(client, path) == "app:"


async def test_cache_of_a_mounted_application_is_not_the_outer_ones() -> None:
    """Mounted applications use the outer cache, not the reverse: an outer application without one gets an error."""
    sub = application()
    app = application(sub=sub)
    async with running(app, (sub, cache_of("sub"))) as client:
        assert await whose(client, "/sub/mine") == "sub:"
        with pytest.raises(LookupError, match="mounted"):
            await client.get("/mine")


async def test_mounted_application_has_no_cache_after_the_end() -> None:
    """A cache that was closed with its application is not given to handlers; a second start works."""
    app = application(sub=application())
    for _ in range(2):
        async with running(app, (app, cache_of("app"))) as client:
            assert await whose(client, "/sub/mine") == "app:"
        async with running(app) as client:
            with pytest.raises(LookupError, match="'default'"):
                await client.get("/sub/mine")


@asynccontextmanager
async def started(app: FastAPI) -> AsyncGenerator[None]:
    """As a server starts and ends an application."""
    received: asyncio.Queue[Message] = asyncio.Queue()
    sent: asyncio.Queue[Message] = asyncio.Queue()
    received.put_nowait({"type": "lifespan.startup"})
    scope: Scope = {"type": "lifespan", "state": {}}
    serving = asyncio.create_task(app(scope, received.get, sent.put))
    assert await sent.get() == {"type": "lifespan.startup.complete"}
    yield
    received.put_nowait({"type": "lifespan.shutdown"})
    await serving


async def test_mounted_application_has_the_cache_in_a_started_server() -> None:
    """Where the server runs the lifespan of the outermost application, over HTTP and WebSockets."""
    sub = application()

    async def told(socket: WebSocket, cache: CacheDep) -> None:
        await socket.accept()
        await socket.send_text(await mine(cache))
        await socket.close()

    sub.websocket("/socket")(told)
    app = FastAPI(lifespan=cache_lifespan(cache_of("app")))
    app.mount("/sub", sub)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    async with started(app):
        async with running(app) as client:
            assert await whose(client, "/sub/mine") == "app:"
        scope: Scope = {
            "type": "websocket",
            "path": "/sub/socket",
            "headers": [],
            "query_string": b"",
        }
        await app(scope, receive, send)
    assert sent[1]["text"] == "'app:'"
