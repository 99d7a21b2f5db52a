"""Replies that no server sends: typed errors, bounded memory, and nothing in the loop's own log."""

from __future__ import annotations

import asyncio
import logging
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pip_services4_components.config import ConfigParams

from async_redis_cache import AsyncRedisCache, CacheError, CacheServerError, RedisCache
from harness import await_until
from harness.apis import configured
from harness.loop_errors import no_loop_errors
from harness.scripted_server import Endless, ScriptedServer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.resp import Command

MIB = 1024 * 1024
HUGE_ARRAY = b"*400000000\r\n"
IMPOSSIBLE: dict[str, bytes] = {
    "an array of 400,000,000": HUGE_ARRAY,
    "the same inside another": b"*1\r\n" + HUGE_ARRAY,
    "the same behind a text": b"*2\r\n$1\r\na\r\n" + HUGE_ARRAY,
    "the same behind a text without an end": b"*2\r\n$1\r\naXX" + HUGE_ARRAY,
    "a map of 200,000,000": b"%200000000\r\n",
    "a set of 400,000,000": b"~400000000\r\n",
    "a push of 400,000,000": b">400000000\r\n",
    "a map with a list as key": b"%1\r\n*0\r\n+a\r\n",
    "a map with a map as key": b"*1\r\n%1\r\n%0\r\n+a\r\n",
    "lists in lists, 100,000 deep": b"*1\r\n" * 100_000 + b":1\r\n",
    "a number of 1,000,000 digits": b":" + b"9" * 1_000_000 + b"\r\n",
    "a big number": b"*1\r\n(" + b"9" * 60_000 + b"\r\n:1\r\n",
    "a double that is none": b",abc\r\n",
    "a push of an unknown kind": b">2\r\n+a\r\n+b\r\n",
    "an attribute": b"|1\r\n+a\r\n+b\r\n:5\r\n",
    "an error without a text": b"-\r\n",
    "a long error": b"-ERR " + b"x" * MIB + b"\r\n",
    "a long code": b"-" + b"A" * 60_000 + b"\r\n",
    "an error that is no UTF-8": b"-ERR \xff\xfe\r\n",
}
MOMENTS = ("handshake", "data", "script", "loading")


async def _outcome(operation: Any) -> object:
    try:
        return await operation
    except CacheError as error:
        return error


async def _load() -> int:
    return 1


async def _answered_at(moment: str, reply: bytes) -> object:
    commands = {
        "handshake": ["PING"],
        "data": ["MGET"],
        "script": ["EVAL"],
        "loading": ["MGET", "EVAL", "TIME"],
    }
    async with ScriptedServer(**dict.fromkeys(commands[moment], reply)) as server:
        # Only one that never ends is waited for.
        limit = 2_000 if reply.startswith(b">2") else 20_000
        cache = configured(server.url, retries=1, command_timeout=limit, connect_timeout=limit)
        try:
            opened = await _outcome(cache.open(None))
            if isinstance(opened, CacheError):
                return opened
            if moment == "data":
                return await _outcome(cache.retrieve(None, "key"))
            if moment == "script":
                return await _outcome(cache.store(None, "key", 1))
            return await _outcome(
                cache.retrieve_or_load(None, "key", _load, stale_timeout=1000, tags=("tag",))
            )
        finally:
            await cache.close(None)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("reply", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
async def test_reply_raises_typed_error_when_it_is_impossible(moment: str, reply: bytes) -> None:
    """40. A malformed reply: a typed error, or the loaded value, and the event loop logs nothing."""
    with no_loop_errors():
        outcome = await _answered_at(moment, reply)
    if moment == "loading":
        assert outcome == 1 or isinstance(outcome, CacheError)
    else:
        assert isinstance(outcome, CacheError)
        # redis-py reads past pushes; everything else is found out before the deadline.
        assert outcome.code != "TIMEOUT" or reply.startswith(b">2")
        assert len(str(outcome)) < 300
        assert str(outcome).isprintable()


def test_sync_cache_raises_typed_error_when_reply_is_impossible() -> None:
    """The same through `RedisCache`."""

    async def ask() -> None:
        async with ScriptedServer(MGET=HUGE_ARRAY) as server:
            await asyncio.to_thread(ask_sync, server.url)

    def ask_sync(url: str) -> None:
        with RedisCache.from_url(url, retries=0) as cache:
            with pytest.raises(CacheServerError) as caught:
                cache.retrieve(None, "key")
            assert caught.value.code == "REPLY_TOO_LARGE"

    asyncio.run(ask())


ENDLESS = {
    "a text": Endless(b"*1\r\n$4000000000\r\n", b"x" * 65_536),
    "a text of no known length": Endless(b"*1\r\n", b"$65000\r\n" + b"x" * 65_000 + b"\r\n"),
    "a line": Endless(b"+", b"x" * 65_536),
    "small lists": Endless(b"*300000\r\n", b"*0\r\n" * 16_000),
    "small maps": Endless(b"*300000\r\n", b"%1\r\n_\r\n_\r\n" * 6_000),
    "errors": Endless(b"*300000\r\n", b"-\r\n" * 20_000),
    "lists in lists": Endless(b"*9\r\n", b"*9\r\n" * 16_000),
}
FACTOR = 4
ELEMENT_BYTES = 300
"""As docs/explanation/security.md says it: memory for each byte, and for each element."""


@pytest.mark.parametrize("command", ["MGET", "PING"])
@pytest.mark.parametrize("endless", ENDLESS.values(), ids=ENDLESS.keys())
async def test_memory_stays_bounded_when_reply_is_endless(command: str, endless: Endless) -> None:
    """40. The memory for a reply is bounded by the request, and the connection is closed."""
    size = MIB
    most, elements = 2 * size + 192 * 1024, 66 + 64 * 1024 // 3
    if command == "PING":
        most, elements = 256 * 1024, 16 * 1024
    async with ScriptedServer(**{command: endless}) as server:
        cache = configured(server.url, retries=0, command_timeout=20_000, max_value_size=size)
        tracemalloc.start()
        try:
            with no_loop_errors():
                outcome = await _outcome(cache.open(None))
                if command == "MGET":
                    outcome = await _outcome(cache.retrieve(None, "key"))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        await cache.close(None)
        assert isinstance(outcome, CacheError)
        await await_until(lambda: server.open_now == 0)
    assert peak < FACTOR * most + ELEMENT_BYTES * elements + MIB


async def test_values_of_the_largest_size_pass_when_many_are_read_at_once() -> None:
    """The bound is for each key that was requested: a batch of the largest values passes."""
    value = b'"' + b"x" * (1024 - 2) + b'"'

    def values(command: Command) -> bytes:
        count = len(command.arguments)
        return b"*%d\r\n" % count + b"$1024\r\n%s\r\n" % value * count

    keys = [f"key{number}" for number in range(600)]
    async with (
        ScriptedServer(MGET=values) as server,
        configured(server.url, max_value_size=1024) as cache,
    ):
        found = await cache.retrieve_many(None, keys)
        assert len(found) == len(keys)


async def test_other_keys_are_served_when_one_holds_too_much() -> None:
    """40. A value of another program that exceeds the limit fails its own call, and no other in the pipeline."""

    def values(command: Command) -> bytes:
        parts = [
            b"$1000000\r\n%s\r\n" % (b"x" * 1_000_000) if key == b"p:big" else b"$1\r\n1\r\n"
            for key in command.arguments
        ]
        return b"*%d\r\n" % len(parts) + b"".join(parts)

    async with (
        ScriptedServer(MGET=values) as server,
        configured(server.url, max_value_size=1000, key_prefix="p:", retries=0) as cache,
    ):
        keys = ["a", "b", "big", "c"]
        outcomes = await asyncio.gather(*(_outcome(cache.retrieve(None, key)) for key in keys))
        codes = [getattr(outcome, "code", outcome) for outcome in outcomes]
        assert codes == [1, 1, "REPLY_TOO_LARGE", 1]


async def test_value_is_returned_when_it_looks_like_a_huge_array() -> None:
    """Bytes in a value that look like a header are no header, however they arrive."""
    value = b"a\r\n*400000000\r\n%99999999\r\n" * 1000
    reply = b"*1\r\n$%d\r\n%s\r\n" % (len(value), value)
    async with (
        ScriptedServer(MGET=reply) as server,
        configured(server.url, serializer="raw", max_value_size=100_000) as cache,
    ):
        assert await cache.retrieve(None, "key") == value


@pytest.mark.parametrize("surplus", [b"+OK\r\n", b"*5\r\n", b"$100\r\nhalf"])
async def test_open_fails_when_handshake_has_a_reply_too_many(surplus: bytes) -> None:
    """A reply more than was asked for would be taken for the reply to the first command."""
    async with ScriptedServer(PING=b"+PONG\r\n" + surplus) as server:
        cache = configured(server.url)
        outcome = await _outcome(cache.open(None))
        assert getattr(outcome, "code", None) == "CONNECT_FAILED"


def _slots(*ranges: Sequence[Any]) -> bytes:
    """A reply to CLUSTER SLOTS."""

    def packed(part: Any) -> bytes:
        if isinstance(part, bytes):
            return b"$%d\r\n%s\r\n" % (len(part), part)
        if isinstance(part, int):
            return b":%d\r\n" % part
        return b"*%d\r\n" % len(part) + b"".join(map(packed, part))

    return packed(ranges)


HERE = (b"127.0.0.1", 7000)
WRONG_SLOTS = {
    "100,000,000 slots": _slots((0, 100_000_000, HERE)),
    "slots below 0": _slots((-5, 16383, HERE)),
    "last before first": _slots((9, 3, HERE)),
    "slots that overlap": _slots((0, 10, HERE), (5, 16383, HERE)),
    "16,384 times all slots": _slots(*[(0, 16383, HERE)] * 16384),
    "a slot that is a text": _slots((b"0", b"16383", HERE)),
    "a slot that is a double": b"*1\r\n*3\r\n,0.5\r\n,7\r\n*2\r\n$1\r\na\r\n:1\r\n",
    "a port that is no number": _slots((0, 16383, (b"127.0.0.1", b"abc"))),
    "port 0": _slots((0, 16383, (b"127.0.0.1", 0))),
    "port 70,000": _slots((0, 16383, (b"127.0.0.1", 70_000))),
    "a newline in a name": _slots((0, 16383, (b"a\nWARNING all is lost", 7000))),
    "a long name": _slots((0, 16383, (b"a" * 65_536, 7000))),
    "a name that is no ASCII": _slots((0, 16383, ("ä".encode(), 7000))),
    "a name that is a list": _slots((0, 16383, ((), 7000))),
    "no master": _slots((0, 16383)),
    "2,000 nodes": _slots(*((slot, slot, (b"h%d" % slot, 7000)) for slot in range(2000))),
    "a number": b":1\r\n",
    "a text": b"$1\r\na\r\n",
    "a map with a list as key": b"%1\r\n*0\r\n+a\r\n",
    "an array of 400,000,000": HUGE_ARRAY,
}


@pytest.mark.parametrize("reply", WRONG_SLOTS.values(), ids=WRONG_SLOTS.keys())
async def test_open_fails_when_slots_are_impossible(
    reply: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """40. The reply to CLUSTER SLOTS is checked before use: a typed error, and the event loop logs nothing."""
    caplog.set_level(logging.DEBUG, "async_redis_cache")
    async with ScriptedServer(CLUSTER=reply) as server:
        url = server.url.replace("redis://", "redis+cluster://").removesuffix("/0")
        cache = configured(url, max_size=0, retries=0, connect_timeout=2_000)
        began = time.perf_counter()
        with no_loop_errors():
            outcome = await _outcome(cache.open(None))
            await cache.close(None)
        assert isinstance(outcome, CacheError)
        # It is not the deadline that ends it.
        assert outcome.code != "TIMEOUT", time.perf_counter() - began
    assert all(record.getMessage().isprintable() for record in caplog.records)


WRONG_REDIRECTIONS = {
    "MOVED 99999 127.0.0.1:7000": "a slot that is none",
    "MOVED abc": "no slot",
    "MOVED 1": "no address",
    "MOVED 1 127.0.0.1": "no port",
    "MOVED 1 127.0.0.1:0": "port 0",
    "MOVED 1 127.0.0.1:70000": "port 70,000",
    "MOVED 1 127.0.0.1:-1": "a negative port",
    "MOVED 1 127.0.0.1:²": "a digit that is none",
    "MOVED 1 a b:7000": "a name with a blank",
    "MOVED 1 a\x1b[2J:7000": "a name with a control character",
    "MOVED 1 " + "a" * 65_000 + ":7000": "a long name",
    "ASK 1 a\tb:7000": "the same, of ASK",
}


def _all_slots_at(port: int) -> bytes:
    return _slots((0, 16383, (b"127.0.0.1", port)))


@pytest.mark.parametrize("error", WRONG_REDIRECTIONS, ids=WRONG_REDIRECTIONS.values())
async def test_call_raises_typed_error_when_redirection_is_impossible(
    error: str, caplog: pytest.LogCaptureFixture
) -> None:
    """40. A redirection to an invalid address is a typed error, and is not followed."""
    async with ScriptedServer(MGET=f"-{error}\r\n".encode()) as server:
        server.answers["CLUSTER"] = _all_slots_at(server.port)
        url = server.url.replace("redis://", "redis+cluster://").removesuffix("/0")
        async with configured(url, max_size=0) as cache:
            with no_loop_errors():
                outcome = await _outcome(cache.retrieve(None, "key"))
            assert isinstance(outcome, CacheServerError)
            assert outcome.code in {"MOVED", "ASK"}
            assert str(outcome).isprintable()
    assert all(record.getMessage().isprintable() for record in caplog.records)


async def test_call_ends_when_redirections_never_end() -> None:
    """A node that always sends a call on, to itself, ends it with the server's error."""
    async with ScriptedServer(MGET=b"-MOVED 1 :1\r\n") as server:
        server.answers["MGET"] = f"-MOVED 1 :{server.port}\r\n".encode()
        server.answers["CLUSTER"] = _all_slots_at(server.port)
        url = server.url.replace("redis://", "redis+cluster://").removesuffix("/0")
        async with configured(url, max_size=0) as cache:
            outcome = await _outcome(cache.retrieve(None, "key"))
            assert getattr(outcome, "code", None) == "MOVED"
            assert server.asked("MGET") < 20


LINK: dict[str, bytes] = IMPOSSIBLE | {
    "keys that are a number": b">2\r\n$10\r\ninvalidate\r\n:1\r\n",
    "a key that is a number": b">2\r\n$10\r\ninvalidate\r\n*1\r\n:1\r\n",
    "a key that is a list": b">2\r\n$10\r\ninvalidate\r\n*1\r\n*0\r\n",
    "400,000,000 keys": b">2\r\n$10\r\ninvalidate\r\n" + HUGE_ARRAY,
    "no kind": b">0\r\n",
    "a push that is nil": b">-1\r\n",
    "a reply too many": b"+PONG\r\n",
}
HARMLESS = {"a push of an unknown kind"}


@pytest.mark.parametrize("name", LINK)
async def test_near_cache_is_emptied_when_invalidations_are_impossible(name: str) -> None:
    """40. Malformed invalidations: the connection is closed, and the event loop logs nothing."""
    answers = {"HELLO": b"%0\r\n", "CLIENT": b"+OK\r\n" + LINK[name]}
    async with ScriptedServer(**answers) as server:
        cache = configured(server.url)
        cache.configure(_near_config(server.url))
        with no_loop_errors():
            await _outcome(cache.open(None))
            if name not in HARMLESS:
                connections = server.connections
                await await_until(lambda: server.connections > connections)
            await cache.close(None)
        await await_until(lambda: server.open_now == 0)


def _near_config(url: str) -> Any:
    config = ConfigParams.from_tuples("connection.uri", url, "near_cache.enabled", "true")
    config["options.max_size"] = "0"
    config["options.require_connection"] = "false"
    return config


SENTINEL: dict[str, bytes] = IMPOSSIBLE | {
    "a newline in a name": b"*2\r\n$3\r\na\nb\r\n$4\r\n6379\r\n",
    "a port that is no number": b"*2\r\n$1\r\na\r\n$3\r\nabc\r\n",
    "port 70,000": b"*2\r\n$1\r\na\r\n$5\r\n70000\r\n",
    "a name alone": b"*1\r\n$1\r\na\r\n",
    "a text": b"$1\r\na\r\n",
}


@pytest.mark.parametrize("reply", SENTINEL.values(), ids=SENTINEL.keys())
async def test_open_fails_when_a_sentinel_says_the_impossible(
    reply: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """40. The replies of sentinels are checked in the same way."""

    def answer(command: Command) -> bytes:
        if command.arguments[0] == b"MASTER":
            return b"%1\r\n$12\r\nconfig-epoch\r\n$1\r\n1\r\n"
        return reply

    async with ScriptedServer(HELLO=b"%0\r\n", SENTINEL=answer) as sentinel:
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main"
        cache = configured(url, max_size=0, retries=0, connect_timeout=500)
        with no_loop_errors():
            outcome = await _outcome(cache.open(None))
            await cache.close(None)
        assert isinstance(outcome, CacheError)
    assert all(record.getMessage().isprintable() for record in caplog.records)


MESSAGES = {
    "a number": b">3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n:5\r\n",
    "too little": b">3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n$4\r\nmain\r\n",
    "no port": b">3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n$12\r\nmain a 1 b x\r\n",
    "no channel": b">1\r\n$7\r\nmessage\r\n",
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES.keys())
async def test_sentinel_is_asked_again_when_its_message_is_impossible(message: bytes) -> None:
    """The connection is closed, another one is made, and nothing reaches the loop's log."""
    async with ScriptedServer(HELLO=b"%0\r\n") as sentinel:

        def answer(command: Command) -> bytes:
            if command.arguments[0] == b"MASTER":
                return b"%1\r\n$12\r\nconfig-epoch\r\n$1\r\n1\r\n"
            port = b"%d" % sentinel.port
            return b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%s\r\n" % (len(port), port) + message

        sentinel.answers["SENTINEL"] = answer
        sentinel.answers["HELLO"] = b"%1\r\n$4\r\nrole\r\n$6\r\nmaster\r\n"
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main"
        cache = configured(url, max_size=0, retries=0, require_connection=False)
        with no_loop_errors():
            await _outcome(cache.open(None))
            connections = sentinel.connections
            await await_until(lambda: sentinel.connections > connections)
            await cache.close(None)


STAMPS = {
    "a version that is no number": b"*2\r\n$24\r\n" + b"x" * 24 + b"\r\n:5\r\n",
    "the time in front": b"*2\r\n:5\r\n$24\r\n" + b"0" * 24 + b"\r\n",
    "a time below 0": b"*2\r\n$24\r\n" + b"0" * 24 + b"\r\n:-5000000\r\n",
}


@pytest.mark.parametrize("stamp", STAMPS.values(), ids=STAMPS.keys())
async def test_load_gives_its_value_when_versions_of_tags_are_impossible(stamp: bytes) -> None:
    """The loaded value is returned and not stored; a store with such a tag succeeds or raises a typed error."""

    def answer(command: Command) -> bytes:
        source = command.arguments[0]
        if b"not version" in source:
            return stamp
        # Whoever asks for the right to load gets it; whoever publishes, or gives it back, has done so.
        return b":-1764364000000000\r\n" if b"NOBODY" in source or b"MARK" in source else b":1\r\n"

    async with (
        ScriptedServer(EVAL=answer, MGET=b"*1\r\n$-1\r\n") as server,
        configured(server.url, max_size=0, retries=0) as cache,
    ):
        with no_loop_errors():
            loaded = await cache.retrieve_or_load(
                None, "key", _load, tags=("tag",), hard_timeout=10_000
            )
            stored = await _outcome(cache.store(None, "key", 1, tags=("tag",)))
        assert loaded == 1
        assert stored == 1 or isinstance(stored, CacheError)


HEADER = st.tuples(st.sampled_from("*%~>|$="), st.integers(-2, 500_000_000)).map(
    lambda header: f"{header[0]}{header[1]}\r\n".encode()
)
PIECE = st.one_of(
    HEADER,
    st.binary(max_size=20),
    st.sampled_from(
        [b"+OK\r\n", b":1\r\n", b"$1\r\na\r\n", b"-ERR\r\n", b"_\r\n", b"#t\r\n", b",1\r\n"]
    ),
    st.integers(0, 3).map(b"*%d\r\n".__mod__),
)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    moment=st.sampled_from(["PING", "MGET", "EVAL", "TIME", "CLUSTER"]),
    pieces=st.lists(PIECE, min_size=1, max_size=6),
)
def test_any_bytes_end_in_typed_error_or_value(moment: str, pieces: list[bytes]) -> None:
    """40. Any reply at any moment: a value or a typed error, and the event loop logs nothing."""

    async def ask() -> None:
        async with ScriptedServer(**{moment: b"".join(pieces)}) as server:
            url = server.url
            if moment == "CLUSTER":
                url = url.replace("redis://", "redis+cluster://").removesuffix("/0")
            options: dict[str, Any] = {
                "command_timeout": 100,
                "connect_timeout": 100,
                "max_size": 0,
            }
            cache = AsyncRedisCache.from_url(url, retries=0, **options)
            with no_loop_errors():
                opened = await _outcome(cache.open(None))
                if opened is None:
                    await _outcome(cache.retrieve(None, "key"))
                    await _outcome(cache.store(None, "key", 1, tags=("tag",)))
                    await _outcome(cache.retrieve_or_load(None, "key", _load, tags=("tag",)))
                await cache.close(None)

    asyncio.run(ask())
