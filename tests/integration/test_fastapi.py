"""The cache inside a FastAPI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, MutableMapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, WebSocket

from async_redis_cache import AsyncRedisCache
from async_redis_cache.fastapi import CacheDep, cache_lifespan, cache_named, get_cache
from harness import Server, await_until

CartCache = Annotated[AsyncRedisCache, Depends(cache_named("carts"))]


@asynccontextmanager
async def running(app: FastAPI) -> AsyncGenerator[httpx.AsyncClient]:
    """An application that has been started, and a client of it."""
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://app") as client,
    ):
        yield client


async def read(cache: CacheDep, key: str) -> object:
    return await cache.retrieve(None, key)


async def write(cache: CacheDep, key: str, value: str) -> object:
    return await cache.store(None, key, value)


def serving(app: FastAPI) -> FastAPI:
    app.get("/{key}")(read)
    app.put("/{key}")(write)
    return app


async def test_lifespan_opens_the_cache_for_the_handlers_and_closes_it(
    any_server: Server, key_prefix: str
) -> None:
    """A cache given to `cache_lifespan` is open exactly while the application runs."""
    cache = AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix)
    app = serving(FastAPI(lifespan=cache_lifespan(cache)))

    assert not cache.is_open()
    async with running(app) as client:
        assert cache.is_open()
        assert (await client.put("/a", params={"value": "ABC"})).json() == "ABC"
        assert (await client.get("/a")).json() == "ABC"
        assert (await client.get("/b")).json() is None
    assert not cache.is_open()


async def test_application_starts_again(any_server: Server, key_prefix: str) -> None:
    """A second start of the application opens the same cache again."""
    cache = AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix)
    app = serving(FastAPI(lifespan=cache_lifespan(cache)))

    for _ in range(2):
        async with running(app) as client:
            assert (await client.get("/a")).status_code == 200


async def test_several_caches_live_in_a_lifespan_of_ones_own(any_server: Server) -> None:
    """Each name leads to its own cache, and one's own lifespan may open any number of them."""
    pages = AsyncRedisCache.from_url(any_server.url, key_prefix="pages:")
    carts = AsyncRedisCache.from_url(any_server.url, key_prefix="carts:")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with cache_lifespan(pages)(app), cache_lifespan(carts, name="carts")(app):
            yield

    async def is_wired(page_cache: CacheDep, cart_cache: CartCache) -> bool:
        return page_cache is pages and cart_cache is carts

    app = FastAPI(lifespan=lifespan)
    app.get("/")(is_wired)
    async with running(app) as client:
        assert (await client.get("/")).json() is True


async def test_websocket_handlers_depend_on_the_cache_too(
    any_server: Server, key_prefix: str
) -> None:
    """The dependency serves WebSocket handlers as it serves HTTP handlers."""
    app = FastAPI(
        lifespan=cache_lifespan(AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix))
    )

    async def echo(socket: WebSocket, cache: CacheDep) -> None:
        await socket.accept()
        await socket.send_json(await cache.store(None, "a", "ABC"))
        await socket.close()

    app.websocket("/")(echo)
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "websocket", "path": "/", "headers": [], "query_string": b""}
    async with running(app):
        await app(scope, receive, send)
    assert [message["type"] for message in sent] == [
        "websocket.accept",
        "websocket.send",
        "websocket.close",
    ]
    assert sent[1]["text"] == '"ABC"'


async def test_missing_cache_is_named() -> None:
    """The error of a handler whose cache is not open names the cache and where to open it."""
    async with running(serving(FastAPI())) as client:
        with pytest.raises(LookupError, match=r"'default'.*cache_lifespan"):
            await client.get("/a")


async def test_two_caches_of_one_name_are_refused(any_server: Server, key_prefix: str) -> None:
    """One cache does not take another's place unnoticed: the application does not start."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        first, second = (
            AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) for _ in range(2)
        )
        async with cache_lifespan(first)(app), cache_lifespan(second)(app):
            yield

    app = FastAPI(lifespan=lifespan)
    with pytest.raises(RuntimeError, match=r"already .* 'default'"):
        await app.router.lifespan_context(app).__aenter__()


async def test_tests_put_their_own_cache_in_its_place(any_server: Server, key_prefix: str) -> None:
    """`dependency_overrides` reaches a cache by `get_cache`, and a named one by its name."""
    assert cache_named("default") is get_cache
    stand_in = AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix)
    app = FastAPI()

    async def is_stand_in(cache: CacheDep, carts: CartCache) -> bool:
        return cache is stand_in and carts is stand_in

    app.get("/")(is_stand_in)
    app.dependency_overrides[get_cache] = lambda: stand_in
    app.dependency_overrides[cache_named("carts")] = lambda: stand_in
    async with running(app) as client:
        assert (await client.get("/")).json() is True


async def test_http_exception_of_a_loader_reaches_every_request_that_joined(
    any_server: Server, key_prefix: str
) -> None:
    """Unchanged: its status, detail and headers are the response of each."""
    cache = AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix)
    app = FastAPI(lifespan=cache_lifespan(cache))

    async def refused() -> str:
        await await_until(lambda: cache.stats().misses == 3)
        raise HTTPException(status_code=418, detail="teapot", headers={"x-why": "tea"})

    @app.get("/")
    async def handler(cache: CacheDep) -> str:
        return str(await cache.retrieve_or_load(None, "a", refused))

    async with running(app) as client:
        first = asyncio.create_task(client.get("/"))
        # A request that has read before the lease was acquired may wait for that in a load of its own.
        await await_until(lambda: cache.stats().loads == 1)
        answers = [*await asyncio.gather(client.get("/"), client.get("/")), await first]
    for answer in answers:
        assert (answer.status_code, answer.json()) == (418, {"detail": "teapot"})
        assert answer.headers["x-why"] == "tea"
    assert (cache.stats().loads, cache.stats().load_failures) == (1, 1)
