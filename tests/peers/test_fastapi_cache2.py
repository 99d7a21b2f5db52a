"""What `docs/how-to/from-fastapi-cache2.md` says about fastapi-cache2 is what fastapi-cache2 does."""

from __future__ import annotations

import asyncio
import sys
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import pytest
import redis
from fastapi import Depends, FastAPI, Request, Response
from pydantic import BaseModel
from redis.asyncio import Connection, Redis

from async_redis_cache import AsyncRedisCache
from harness import await_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from harness import Client, Proxy, Server, StartProxy, StartServer

FastAPICache: Any = import_module("fastapi_cache").FastAPICache
RedisBackend: Any = import_module("fastapi_cache.backends.redis").RedisBackend
decorator: Any = import_module("fastapi_cache.decorator")

F = TypeVar("F", bound="Callable[..., Any]")

CONCURRENT = 100


def cached(**options: Any) -> Callable[[F], F]:
    """Return the decorator of fastapi-cache2; it is untyped where that is not installed."""
    decorate: Callable[[F], F] = decorator.cache(**options)
    return decorate


class Product(BaseModel):
    """A value whose class matters."""

    name: str


class Session:
    """A dependency without a text of its own."""


async def init(server: Server | Proxy, **options: Any) -> Redis:
    client = Redis(host=server.host, port=server.port, **options)
    FastAPICache.reset()
    FastAPICache.init(RedisBackend(client), prefix="prefix")
    return client


@pytest.fixture(autouse=True)
async def client(server: Server) -> AsyncIterator[Redis]:
    client = await init(server)
    yield client
    await client.aclose()
    FastAPICache.reset()


def user_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def serving(endpoint: Callable[..., Any]) -> httpx.AsyncClient:
    """Return a user of an application with this cached endpoint."""
    app = FastAPI()
    app.get("/")(cached(expire=60, namespace="ns")(endpoint))
    return user_of(app)


async def test_concurrent_requests_all_call_the_endpoint() -> None:
    """Each that misses."""
    calls: list[int] = []

    async def endpoint() -> int:
        calls.append(1)
        await await_until(lambda: len(calls) == CONCURRENT)
        return 1

    async with serving(endpoint) as user:
        await asyncio.gather(*(user.get("/") for _ in range(CONCURRENT)))
    assert len(calls) == CONCURRENT


async def test_value_cleared_while_it_is_loaded_is_stored(raw: Client) -> None:
    """The old value stays until it expires; here it is not stored."""

    async def endpoint() -> str:
        await FastAPICache.clear(namespace="ns")
        return "old"

    async with serving(endpoint) as user:
        await user.get("/")
    assert raw.mget(raw.keys()) == [b'"old"']


async def test_model_is_a_dict_when_it_comes_from_the_cache() -> None:
    """Where the function is not an endpoint."""

    @cached(expire=60)
    async def find() -> Product:
        return Product(name="kettle")

    assert [await find(), await find()] == [Product(name="kettle"), {"name": "kettle"}]


async def test_request_is_not_part_of_the_key(server: Server) -> None:
    """One user gets the response of another; here, such a function is refused."""

    async def endpoint(request: Request) -> str:
        return request.headers["user"]

    # Annotations are text in this module, and fastapi-cache2 compares them with the class.
    endpoint.__annotations__["request"] = Request
    async with serving(endpoint) as user:
        answers = [await user.get("/", headers={"user": name}) for name in ("Ada", "Bob")]
    assert [answer.json() for answer in answers] == ["Ada", "Ada"]
    ours = AsyncRedisCache.from_url(server.url).namespace("ns")
    with pytest.raises(TypeError, match="request"):
        ours.cached()(endpoint)


async def test_address_of_a_dependency_is_part_of_the_key(raw: Client) -> None:
    """So each request is a miss, and leaves another value."""
    kept: list[Session] = []

    def session() -> Session:
        kept.append(Session())
        return kept[-1]

    async def endpoint(session: object = Depends(session)) -> int:
        return 1

    async with serving(endpoint) as user:
        answers = [await user.get("/") for _ in range(3)]
    assert [answer.headers["X-FastAPI-Cache"] for answer in answers] == ["MISS"] * 3
    assert len(raw.keys()) == 3


async def test_spellings_of_a_call_have_different_keys(raw: Client) -> None:
    """By position and by name."""

    @cached(expire=60)
    async def find(number: int) -> int:
        return number

    await find(7)
    await find(number=7)
    assert len(raw.keys()) == 2


async def test_arguments_are_the_key_of_an_endpoint() -> None:
    """URIs that call it with the same arguments share a response, and its header is not stored; here, both are kept."""
    calls: list[int] = []

    async def endpoint(response: Response, page: int = 1, size: int = 10) -> int:
        calls.append(page)
        response.headers["Own"] = "1"
        return size

    endpoint.__annotations__["response"] = Response
    async with serving(endpoint) as user:
        answers = [
            await user.get(uri) for uri in ("/", "/?page=1", "/?size=10&page=1", "/?other=1")
        ]
    assert len(calls) == 1
    assert [answer.headers.get("Own") for answer in answers] == ["1", None, None, None]


@pytest.mark.parametrize("directive", ["no-cache", "no-store"])
async def test_clients_can_bypass_the_cache(directive: str) -> None:
    """With a header of the request."""
    calls: list[int] = []

    async def endpoint() -> int:
        calls.append(1)
        return 1

    async with serving(endpoint) as user:
        for _ in range(3):
            await user.get("/", headers={"Cache-Control": directive})
    assert len(calls) == 3


async def test_etag_is_a_hash_of_this_process() -> None:
    """Python hashes bytes differently in each process."""

    async def endpoint() -> int:
        return 1

    async with serving(endpoint) as user:
        answer = await user.get("/")
    assert answer.headers["ETag"] == f"W/{hash(b'1')}"
    assert sys.flags.hash_randomization


async def test_none_is_stored(raw: Client) -> None:
    """And never expires without `expire`."""

    @cached()
    async def none() -> None:
        pass

    await none()
    (key,) = raw.keys()
    assert (raw.get(key), raw.ttl(key)) == (b"null", -1)


async def test_clear_of_a_key_removes_all(raw: Client) -> None:
    """With the prefix; other keys stay."""
    raw.mset({"prefix::a": 1, "prefix::b": 1, "other": 1})
    await FastAPICache.clear(key="prefix::a")
    assert raw.keys() == [b"other"]


async def test_request_waits_twice_for_a_frozen_server(private_server: StartServer) -> None:
    """For the time limit of a command each, which is that of redis-py: 5 seconds; here scaled down."""
    limit = 0.2
    server = private_server()
    client = await init(server, socket_timeout=limit, retry=None)

    @cached(expire=60)
    async def find() -> int:
        return 1

    server.freeze()
    started = time.monotonic()
    assert await find() == 1
    assert time.monotonic() - started >= 2 * limit
    server.thaw()
    await client.aclose()
    assert Connection().socket_timeout == 5


async def test_failed_clear_is_forgotten(server: Server, proxy: StartProxy) -> None:
    """It raises the error of redis-py, and the old value is served afterwards."""
    link = proxy(server)
    client = await init(link)

    @cached(expire=60, namespace="ns")
    async def find() -> str:
        return values.pop(0)

    values = ["old", "new"]
    await find()
    link.refuse()
    link.cut()
    with pytest.raises(redis.ConnectionError):
        await FastAPICache.clear(namespace="ns")
    link.heal()
    assert await find() == "old"
    await client.aclose()
