"""Malformed replies raise a typed error, and the connection is never used again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheError, CacheOutcomeUnknown, CacheServerError
from harness import await_until
from harness.apis import configured
from harness.scripted_server import ScriptedServer

if TYPE_CHECKING:
    from harness import Server, StartProxy

pytestmark = pytest.mark.depends_on()

Ask = Callable[[AsyncRedisCache], Coroutine[Any, Any, Any]]

NONSENSE = [
    b"garbage\r\n",
    b"\x00\x01\x02\xff",
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    b"$x\r\n",
    b"*-7\r\n",
    b":twelve\r\n",
    b"_\r\n",
    b"%1\r\n+a\r\n+b\r\n",
    b"*1\r\n*1\r\n$1\r\na\r\n",
    b"*3\r\n:1\r\n:2\r\n:3\r\n",
]
OPERATIONS: dict[str, Ask] = {
    "MGET": lambda cache: cache.retrieve(None, "key"),
    "MGET many": lambda cache: cache.retrieve_many(None, ["key", "other"]),
    "SET": lambda cache: cache.store(None, "key", 1),
    "SET many": lambda cache: cache.store_many(None, {"key": 1, "other": 2}),
    "GETDEL": lambda cache: cache.remove(None, "key"),
    "UNLINK": lambda cache: cache.remove_many(None, ["key"]),
    "MGET whether": lambda cache: cache.contains(None, "key"),
    "PEXPIRE": lambda cache: cache.touch(None, "key"),
    "PTTL": lambda cache: cache.time_to_live(None, "key"),
    "SCAN": lambda cache: cache.clear(None),
}
BOUNDED_OPERATIONS: dict[str, Ask] = {
    name: OPERATIONS[name] for name in ("SET", "SET many", "GETDEL", "UNLINK", "PEXPIRE")
}
CHANGES = {"SET", "SET many", "GETDEL", "UNLINK", "PEXPIRE"}
NO_ANSWER_TO: dict[str, list[bytes]] = {
    "MGET": [
        b"*0\r\n",
        b"*-1\r\n",
        b"$1\r\n1\r\n",
        b"*2\r\n$1\r\n1\r\n$1\r\n1\r\n",
        b"*1\r\n:5\r\n",
    ],
    "MGET many": [b"*1\r\n$1\r\n1\r\n", b"*2\r\n:1\r\n:2\r\n", b"+OK\r\n"],
    "SET": [b":1\r\n", b"$-1\r\n", b"*0\r\n", b"+QUEUED\r\n", b"$5\r\nvalue\r\n"],
    "GETDEL": [b":1\r\n", b"*1\r\n$1\r\n1\r\n"],
    "UNLINK": [b"+OK\r\n", b"$1\r\n1\r\n", b":-1\r\n", b":2\r\n"],
    "MGET whether": [b"*0\r\n", b"+OK\r\n", b":1\r\n"],
    "PEXPIRE": [b"+OK\r\n", b":2\r\n"],
    "PTTL": [b"$2\r\n10\r\n", b":-3\r\n"],
    "SCAN": [
        b"*0\r\n",
        b"*1\r\n$1\r\n0\r\n",
        b"*2\r\n:0\r\n*0\r\n",
        b"*2\r\n$1\r\n0\r\n$1\r\na\r\n",
        b"*2\r\n$1\r\n0\r\n*1\r\n:5\r\n",
        b"*2\r\n*1\r\n$1\r\n0\r\n*0\r\n",
        b"*2\r\n$1\r\nx\r\n*0\r\n",
    ],
}
NO_SCRIPT_ANSWER_TO: dict[str, list[bytes]] = {
    "SET": [b"+OK\r\n", b"*0\r\n", b"$-1\r\n"],
    "SET many": [b"+OK\r\n"],
    "GETDEL": [b"*1\r\n:5\r\n", b"*2\r\n$-1\r\n$-1\r\n", b"*1\r\n*0\r\n", b"$-1\r\n"],
    "UNLINK": [b"*1\r\n$-1\r\n", b"*1\r\n$1\r\na\r\n", b":1\r\n", b"*0\r\n"],
    "PEXPIRE": [b"*1\r\n$1\r\na\r\n", b"*1\r\n$-1\r\n", b":1\r\n"],
}


async def _is_typed(command: str, name: str, reply: bytes, **options: Any) -> None:
    async with ScriptedServer() as server:
        cache = configured(server.url, retries=1, **options)
        async with cache:
            server.answers[command] = reply
            before, asked = server.connections, server.asked(command)
            with pytest.raises((CacheServerError, CacheOutcomeUnknown)) as caught:
                await OPERATIONS[name](cache)
            unknown = "OUTCOME_UNKNOWN" if name in CHANGES else "PROTOCOL_ERROR"
            assert caught.value.code == unknown
            assert caught.value.__cause__ is caught.value.__context__ is None
            # Tried twice, on two connections, and both are gone; one more may wait for calls.
            assert server.asked(command) - asked in (2, 4)
            await await_until(lambda: server.connections - server.open_now >= 2)
            assert server.connections <= before + 2


@pytest.mark.parametrize("name", OPERATIONS)
async def test_malformed_reply_raises_a_typed_error(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """16. A reply that is not RESP, or does not fit the command, is a typed error, and the event loop logs nothing."""
    caplog.set_level(logging.WARNING)
    command, _, _ = name.partition(" ")
    for reply in NONSENSE + NO_ANSWER_TO.get(name, []):
        if (name, reply) != ("GETDEL", b"_\r\n"):  # That one is "nothing there".
            await _is_typed(command, name, reply, max_size=0, key_prefix="p:")
    # The cache says that it owes a change; the loop has nothing to complain of.
    assert {record.name for record in caplog.records} <= {"async_redis_cache"}


@pytest.mark.parametrize("name", BOUNDED_OPERATIONS)
async def test_malformed_script_reply_raises_a_typed_error(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """16. The same for replies to the scripts of a bounded cache."""
    caplog.set_level(logging.WARNING)
    for reply in NONSENSE + NO_SCRIPT_ANSWER_TO[name]:
        await _is_typed("EVAL", name, reply)
    # The cache says that it owes a change; the loop has nothing to complain of.
    assert {record.name for record in caplog.records} <= {"async_redis_cache"}


@pytest.mark.parametrize("reply", NONSENSE)
async def test_malformed_reply_fails_its_own_call_alone(
    server: Server, proxy: StartProxy, reply: bytes
) -> None:
    """16. After a desynchronised reply the connection is closed; all calls in its pipeline are served on another."""
    network = proxy(server)
    async with configured(network.url) as cache:
        await cache.store_many(None, {f"key{number}": number for number in range(50)})
        opened = network.opened
        network.replace_replies(reply)
        reads = [cache.retrieve(None, f"key{number}") for number in range(50)]
        stores = [cache.store(None, f"new{number}", number) for number in range(50)]
        assert await asyncio.gather(*reads, *stores) == [*range(50), *range(50)]
        found = await cache.retrieve_many(None, [f"new{number}" for number in range(50)])
        assert list(found.values()) == list(range(50))
        assert network.opened > opened
        await await_until(lambda: network.open_now < network.opened)


async def test_surplus_reply_closes_the_connection(server: Server, proxy: StartProxy) -> None:
    """After a surplus reply, later replies could not be assigned to their commands."""
    network = proxy(server)
    async with configured(network.url) as cache:
        await cache.store(None, "key", "mine")
        network.replace_replies(b'*1\r\n$8\r\n"other\'s"\r\n+OK\r\n')
        assert await cache.retrieve(None, "key") == "mine"
        assert await cache.retrieve(None, "key") == "mine"
        assert network.opened >= 2


@pytest.mark.parametrize("reply", [b"$100\r\nbegun", b"*1\r\n", b"", b"*1\r\n$1\r\n"])
async def test_incomplete_reply_raises_at_the_deadline(reply: bytes) -> None:
    """16. A reply that never completes raises TIMEOUT, and the connection is closed."""
    async with (
        ScriptedServer(MGET=reply) as server,
        configured(server.url, command_timeout=100) as cache,
    ):
        with pytest.raises(TimeoutError) as caught:
            await cache.retrieve("t", "key")
        assert isinstance(caught.value, CacheError)
        assert (caught.value.code, caught.value.trace_id) == ("TIMEOUT", "t")
        await await_until(lambda: server.open_now == 0)


@pytest.mark.parametrize("greeting", NONSENSE)
async def test_malformed_handshake_fails_open(greeting: bytes) -> None:
    """What is no Redis is found out by `open`, typed, and left in peace after one attempt."""
    async with ScriptedServer(PING=greeting) as server:
        cache = configured(server.url, connect_timeout=2_000)
        with pytest.raises(CacheError) as caught:
            await cache.open("t")
        assert caught.value.code in {"CONNECT_FAILED", "PROTOCOL_ERROR"}
        assert caught.value.trace_id == "t"
        assert caught.value.__cause__ is caught.value.__context__ is None
        assert not cache.is_open()
        assert server.connections == 1
        await await_until(lambda: server.open_now == 0)
