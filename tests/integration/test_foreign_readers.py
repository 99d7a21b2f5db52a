"""`options.foreign_readers`: a JSON parser of another program can read every stored value."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import (
    AsyncRedisCache,
    CacheConfigError,
    CacheInputError,
    CacheUnsupported,
    RedisCache,
    cached,
)
from harness.apis import APIS, Api, configured

if TYPE_CHECKING:
    from harness import Client, Server

pytestmark = pytest.mark.depends_on("api")

Call = Callable[[AsyncRedisCache], Awaitable[Any]]


def _load() -> int:
    return 1


async def _cached(cache: AsyncRedisCache) -> Any:
    @cached(cache, key="cached")
    async def load() -> int:
        return 1

    return await load()


REFUSED: dict[str, Call] = {
    "store with tags": lambda cache: cache.store(None, "tagged", 1, tags=["a"]),
    "store_many with tags": lambda cache: cache.store_many(None, {"tagged": 1}, tags=["a"]),
    "invalidate_tags": lambda cache: cache.invalidate_tags(None, "a"),
    "retrieve_or_load": lambda cache: cache.retrieve_or_load(None, "loaded", _load),
    "retrieve_or_load of what is there": lambda cache: cache.retrieve_or_load(None, "key", _load),
    "retrieve_or_load_entry": lambda cache: cache.retrieve_or_load_entry(None, "loaded", _load),
    "retrieve_or_load_many": lambda cache: cache.retrieve_or_load_many(
        None, ["loaded"], lambda keys: dict.fromkeys(keys, 1)
    ),
    "refresh": lambda cache: cache.refresh(None, "loaded", _load),
}
TAKEN: list[Call] = [
    lambda cache: cache.store(None, "key", {"day": dt.date(2024, 2, 29), "ids": (1, 2.5, None)}),
    lambda cache: cache.store_many(None, {"text": "\u2028 \x00 ž", "number": -0.0}, 60_000),
    lambda cache: cache.store(None, "large", ["x" * 100] * 1000),
    lambda cache: cache.touch(None, "key", 50_000),
    lambda cache: cache.retrieve(None, "key"),
    lambda cache: cache.retrieve_many(None, ["key", "text"]),
    lambda cache: cache.retrieve_entry(None, "key"),
    lambda cache: cache.contains(None, "key"),
    lambda cache: cache.time_to_live(None, "key"),
    lambda cache: cache.remove(None, "large"),
    lambda cache: cache.remove_many(None, ["number"]),
    lambda cache: cache.store(None, "gone", None),
]
MODES: dict[str, dict[str, Any]] = {
    "unbounded": {"max_size": 0},
    "bounded": {"max_size": 100},
    "near": {"max_size": 0, "near_cache_enabled": True},
}


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _written(raw: Client, prefix: bytes) -> list[bytes]:
    """Every value under the prefix; the index of a bounded cache is no string."""
    keys: list[bytes] = [key for key in raw.keys(prefix + b"*") if raw.type(key) == b"string"]
    return [value for key in keys if (value := raw.get(key)) is not None]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("api", APIS)
async def test_all_that_is_written_is_json(
    server: Server, raw: Client, api: Api, mode: str
) -> None:
    """After every method was called, each value on the server is JSON, to the letter."""
    options = MODES[mode]
    async with configured(
        server.url, api, key_prefix="foreign:", foreign_readers=True, **options
    ) as cache:
        for call in TAKEN:
            await call(cache)
        for call in (*REFUSED.values(), *((_cached,) if api == "async" else ())):
            with pytest.raises(CacheUnsupported) as caught:
                await call(cache)
            assert caught.value.code == "UNSUPPORTED"
            assert "options.foreign_readers" in caught.value.message
        for bad in (float("nan"), b"bytes", [float("inf")]):
            with pytest.raises(CacheInputError):
                await cache.store(None, "bad", bad)
        written = _written(raw, b"foreign:")
        assert len(written) == 2
        for value in written:
            json.loads(value.decode("utf-8"), parse_constant=_no_constant)
        assert await cache.retrieve(None, "key") == {"day": "2024-02-29", "ids": [1, 2.5, None]}
        await cache.clear(None)


async def test_all_that_is_written_is_not_json_without_the_option(
    server: Server, raw: Client
) -> None:
    """What is refused would have written a header: so the check above can fail."""
    async with configured(server.url, key_prefix="foreign:", max_size=0) as cache:
        for call in REFUSED.values():
            await call(cache)
        with contextlib.suppress(UnicodeDecodeError, ValueError):
            for value in _written(raw, b"foreign:"):
                json.loads(value.decode("utf-8"), parse_constant=_no_constant)
            pytest.fail("everything was JSON")
        await cache.clear(None)


async def test_records_of_others_are_read(server: Server) -> None:
    """What a cache without the option has loaded or tagged is read all the same."""
    async with (
        configured(server.url, key_prefix="foreign:") as other,
        configured(server.url, key_prefix="foreign:", foreign_readers=True) as cache,
    ):
        assert await other.retrieve_or_load(None, "loaded", lambda: [1]) == [1]
        assert await cache.retrieve(None, "loaded") == [1]
        assert (await cache.retrieve_entry(None, "loaded")).status == "hit"
        await other.clear(None)


@pytest.mark.parametrize("make", [AsyncRedisCache.from_url, RedisCache.from_url])
@pytest.mark.parametrize(
    "options",
    [
        {"serializer": "msgpack"},
        {"serializer": "raw"},
        {"serializer": "pickle", "signing_key": "sixteen letters."},
        {"serializer": json},
        {"compression": "zlib"},
        {"signing_key": "sixteen letters."},
    ],
    ids=str,
)
def test_option_refuses_what_would_not_write_json(
    make: Callable[..., object], options: dict[str, Any]
) -> None:
    """Found when it is configured."""
    with pytest.raises(CacheConfigError) as caught:
        make("redis://localhost", foreign_readers=True, **options)
    assert caught.value.code == "BAD_OPTION"
    assert "options.foreign_readers" in str(caught.value)
    make("redis://localhost", foreign_readers=False, **options)
