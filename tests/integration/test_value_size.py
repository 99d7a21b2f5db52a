"""`options.max_value_size`: the bound of a serialized value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import CacheInputError
from harness.apis import APIS, Api, configured
from harness.figures import report

if TYPE_CHECKING:
    from harness import Client, Server, StartProxy

pytestmark = pytest.mark.depends_on("api")

LIMIT = 1_000
WAYS: list[dict[str, Any]] = [
    {},
    {"max_size": 0},
    {"compression": "zlib", "compression_threshold": 0},
    {"serializer": "msgpack"},
    {"serializer": "raw"},
    {"serializer": "pickle", "signing_key": "sixteen letters."},
]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("options", WAYS, ids=str)
async def test_a_value_over_the_limit_is_not_sent(
    server: Server, proxy: StartProxy, api: Api, options: dict[str, Any]
) -> None:
    """30. A value over the limit is refused before anything is sent, by its size before compression, alone or in a batch."""
    network = proxy(server)
    async with configured(network.url, api, max_value_size=LIMIT, **options) as cache:
        network.forget()
        connects = cache.stats().connects
        for size in (LIMIT + 1, LIMIT * 100, LIMIT * 10_000):
            value = "secret" + "x" * size
            for call in (
                cache.store("t", "key", value),
                cache.store_many("t", {"fine": "x", "key": value}),
            ):
                with pytest.raises(CacheInputError) as caught:
                    await call
                assert (caught.value.code, caught.value.trace_id) == ("VALUE_TOO_LARGE", "t")
                assert str(LIMIT) in str(caught.value)
                assert "secret" not in f"{caught.value!r}"
        assert network.bytes_to_server == 0
        assert network.commands == []
        assert cache.stats().connects == connects
        assert await cache.retrieve_many(None, ["key", "fine"]) == {}
    report(30, "0 bytes sent")


async def test_the_limit_itself_fits(server: Server, raw: Client) -> None:
    """A value of exactly as many bytes as are allowed is stored; one byte more is not."""
    async with configured(server.url, max_value_size=LIMIT) as cache:
        fitting = "x" * (LIMIT - 2)  # JSON puts quotes around it.
        await cache.store(None, "key", fitting)
        assert raw.strlen("key") == LIMIT
        assert await cache.retrieve(None, "key") == fitting
        with pytest.raises(CacheInputError):
            await cache.store(None, "key", fitting + "x")
        with pytest.raises(CacheInputError):
            await cache.store(None, "key", "é" * (LIMIT // 2))
        assert await cache.retrieve(None, "key") == fitting


async def test_the_default_limit_is_a_mebibyte(server: Server) -> None:
    """Without the option it is 1,048,576 bytes, also when many such values come at once."""
    async with configured(server.url, serializer="raw", command_timeout=20_000) as cache:
        largest = {f"key{number}": b"%d" % number * 2**20 for number in range(8)}
        await cache.store_many(None, largest)
        assert await cache.retrieve_many(None, largest) == largest
        with pytest.raises(CacheInputError) as caught:
            await cache.store(None, "key", b"x" * (2**20 + 1))
        assert caught.value.code == "VALUE_TOO_LARGE"


async def test_what_others_stored_larger_is_read(server: Server, raw: Client) -> None:
    """The limit is for what this cache stores; plain values of others are read whole."""
    raw.set("key", b'"' + b"x" * (LIMIT * 10) + b'"')
    async with configured(server.url, max_value_size=LIMIT) as cache:
        assert await cache.retrieve(None, "key") == "x" * (LIMIT * 10)
