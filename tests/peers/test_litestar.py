"""`ResponseCache` under Litestar: rules, decorated handlers, guards, and what the framework tells of a route."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from async_redis_cache import AsyncRedisCache
from async_redis_cache.asgi import (
    ResponseCache,
    ResponseOptions,
    add_response_tags,
    cache_response,
    invalidate_url,
)

if TYPE_CHECKING:
    from harness import Server

# Untyped where it is not installed.
litestar: Any = pytest.importorskip("litestar")
define_middleware: Any = import_module("litestar.middleware").DefineMiddleware
exceptions: Any = import_module("litestar.exceptions")

pytestmark = [
    pytest.mark.depends_on(),
    # Older releases have no other style.
    pytest.mark.filterwarnings(
        "ignore:.*(deprecated inferred style|Reserved kwarg):DeprecationWarning"
    ),
]

RULES: dict[str, ResponseOptions] = {"/list/*": {"ttl": 60}}


def get(path: str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return the decorator of a route for GET."""
    decorator: Callable[[Callable[..., Any]], Any] = litestar.get(path, **options)
    return decorator


def post(path: str) -> Callable[[Callable[..., Any]], Any]:
    """Return the decorator of a route for POST."""
    decorator: Callable[[Callable[..., Any]], Any] = litestar.post(path)
    return decorator


class Shop:
    """The handlers, which count their runs."""

    def __init__(self, cache: AsyncRedisCache) -> None:
        self.runs = Counter[str]()
        self.cache = cache

    def app(self, middleware: list[Any]) -> Any:
        """The application."""
        shop = self

        @get("/stock/{item:str}", name="product", guards=[must_be_ann])
        @cache_response(ttl=60)
        async def read(item: str) -> dict[str, int]:
            add_response_tags(f"item:{item}")
            shop.runs[item] += 1
            return {item: shop.runs[item]}

        @get("/list/{item:str}", sync_to_thread=False)
        def listed(item: str) -> str:
            shop.runs[item] += 1
            return f"{item} {shop.runs[item]}"

        @get("/sync")
        @cache_response(ttl=60)
        def sync() -> str:
            shop.runs["sync"] += 1
            return str(shop.runs["sync"])

        @get("/{number:int}")
        @cache_response(ttl=60)
        async def page(_: Any, number: int) -> int:
            shop.runs["page"] += 1
            return number

        pages = type("Pages", (litestar.Controller,), {"path": "/pages", "page": page})

        @cache_response(ttl=60)
        async def shared() -> str:
            return "shared"

        @get("/personal")
        async def personal() -> str:
            shop.runs["personal"] += 1
            return str(await shared())

        @get("/mine")
        @cache_response(ttl=60, vary_on=user_of)
        async def mine(request: Any) -> str:
            return user_of(request)

        @post("/deliveries/{item:str}")
        async def deliver(request: Any, item: str) -> None:
            await invalidate_url(shop.cache, request.url_for("product", item=item))

        handlers = [read, listed, sync, pages, personal, mine, deliver]
        return litestar.Litestar(handlers, middleware=middleware, openapi_config=None)


def user_of(request: Any) -> str:
    """For `vary_on`."""
    assert isinstance(request, litestar.Request)
    return str(request.headers["user"])


def must_be_ann(connection: Any, _: Any) -> None:
    """A guard."""
    if connection.headers.get("user") != "ann":
        raise exceptions.PermissionDeniedException


@pytest.fixture(params=["inside", "outside"])
async def serving(
    request: pytest.FixtureRequest, any_server: Server, key_prefix: str
) -> AsyncGenerator[tuple[Shop, httpx.AsyncClient]]:
    """The shop, with the middleware in the application or around it, and a client."""
    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        shop = Shop(cache)
        if request.param == "inside":
            app = shop.app([define_middleware(ResponseCache, cache=cache, rules=RULES)])
        else:
            app = ResponseCache(shop.app([]), cache=cache, rules=RULES)
        async with client_of(app) as client:
            yield shop, client


@asynccontextmanager
async def client_of(app: Any) -> AsyncGenerator[httpx.AsyncClient]:
    transport, headers = httpx.ASGITransport(app), {"user": "ann"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://shop", headers=headers
    ) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "counted"),
    [("/stock/tea", "tea"), ("/list/tea", "tea"), ("/sync", "sync"), ("/pages/1", "page")],
)
async def test_opted_in_handler_runs_once(
    serving: tuple[Shop, httpx.AsyncClient],
    path: str,
    counted: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A rule and a decorator work for functions, coroutine functions and controllers, and no error is logged."""
    shop, client = serving
    first, second = [await client.get(path) for _ in range(2)]
    assert (first.status_code, first.headers["cache-status"]) == (
        200,
        "async-redis-cache; fwd=uri-miss; stored",
    )
    assert second.headers["cache-status"].startswith("async-redis-cache; hit; ttl=")
    assert (second.status_code, second.content) == (200, first.content)
    assert second.headers["content-type"] == first.headers["content-type"]
    assert shop.runs[counted] == 1
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_guard_runs_before_a_hit(serving: tuple[Shop, httpx.AsyncClient]) -> None:
    """A client without the right gets 403 for a response that is stored."""
    _, client = serving
    await client.get("/stock/tea")
    assert (await client.get("/stock/tea", headers={"user": "bob"})).status_code == 403


async def test_identity_is_that_of_the_request(serving: tuple[Shop, httpx.AsyncClient]) -> None:
    """`vary_on` gets a request of the framework."""
    _, client = serving
    users = ["ann", "bob", "ann"]
    responses = [await client.get("/mine", headers={"user": user}) for user in users]
    assert [response.text for response in responses] == users
    assert responses[-1].headers["cache-status"].startswith("async-redis-cache; hit")


async def test_decorated_function_in_a_handler_opts_in_nothing(
    serving: tuple[Shop, httpx.AsyncClient],
) -> None:
    """The response of a handler that calls a decorated one may be for one client, and is not stored."""
    shop, client = serving
    for run in (1, 2):
        assert (await client.get("/personal")).text == "shared"
        assert shop.runs["personal"] == run


async def test_responses_are_invalidated(serving: tuple[Shop, httpx.AsyncClient]) -> None:
    """By tags of the handler, and by the URL that the framework makes of a route."""
    shop, client = serving
    await client.get("/stock/tea")
    await shop.cache.invalidate_tags(None, "item:tea")
    assert (await client.get("/stock/tea")).json() == {"tea": 2}
    await client.post("/deliveries/tea")
    assert (await client.get("/stock/tea")).json() == {"tea": 3}
