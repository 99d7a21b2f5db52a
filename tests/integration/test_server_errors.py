"""Error replies of the servers become typed errors, and are not retried in vain."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import redis
from pip_services4_commons.errors import (
    ConnectionException,
    InvocationException,
    UnauthorizedException,
)

from async_redis_cache import (
    AsyncRedisCache,
    CacheAuthError,
    CacheError,
    CacheLoginError,
    CacheOutcomeUnknown,
    CacheServerError,
    CacheTimeout,
    CacheUnavailable,
    CacheUnsupported,
)
from harness import await_until, wait_until
from harness.apis import APIS, Api, configured
from harness.figures import report
from harness.scripted_server import ScriptedServer

if TYPE_CHECKING:
    from harness import Client, Server, StartServer
    from harness.resp import Command

T = TypeVar("T")

CHANGES: list[Callable[[AsyncRedisCache], Coroutine[Any, Any, Any]]] = [
    lambda cache: cache.store("t", "secret-key", "secret-value"),
    lambda cache: cache.store_many("t", {"secret-key": "secret-value", "other": 1}),
    lambda cache: cache.touch("t", "kept"),
    lambda cache: cache.remove("t", "changed"),
    lambda cache: cache.remove_many("t", ["changed"]),
    lambda cache: cache.clear("t"),
]
ATTEMPTS = 5
REFUSALS = 6
TRYAGAIN = b"-TRYAGAIN Multiple keys request\r\n"


async def _refuses(
    cache: AsyncRedisCache, call: Callable[[AsyncRedisCache], Coroutine[Any, Any, Any]], code: str
) -> None:
    before = cache.stats()
    with pytest.raises(CacheServerError) as caught:
        await call(cache)
    assert isinstance(caught.value, InvocationException)
    assert (caught.value.code, caught.value.trace_id) == (code, "t")
    assert "secret" not in f"{caught.value!r} {caught.value}"
    assert caught.value.__cause__ is caught.value.__context__ is None
    after = cache.stats()
    assert after.errors == before.errors + 1
    if code != "READONLY":
        # That may mean that the name leads to another master by now: see `test_demotion`.
        # What is pending may need a connection of its own meanwhile.
        assert after.retries == before.retries


@pytest.fixture(params=["bounded", "unbounded"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Scripts and plain commands are refused differently."""
    return {"key_prefix": "p:", "max_size": 100 if request.param == "bounded" else 0}


@pytest.mark.parametrize("api", APIS)
async def test_oom(private_server: StartServer, options: dict[str, Any], api: Api) -> None:
    """16. Out of memory: OOM for stores, and nothing is stored; reads and removals succeed."""
    server = private_server()
    async with configured(server.url, api, **options) as cache:
        await cache.store_many(None, {"kept": 1, "gone": 2})
        with server.client() as raw:
            raw.config_set("maxmemory", 1)
            for call in CHANGES[:2]:
                await _refuses(cache, call, "OOM")
            assert raw.exists("p:secret-key", "p:other") == 0
        assert await cache.retrieve(None, "kept") == 1
        assert await cache.touch(None, "kept", 90_000) is True
        assert await cache.remove(None, "gone") == 2
        assert await cache.clear(None) == 1


@pytest.mark.parametrize("api", APIS)
async def test_readonly(private_server: StartServer, options: dict[str, Any], api: Api) -> None:
    """16. A replica: READONLY for every write, without a retry; its values can be read."""
    server = private_server()
    async with configured(server.url, **options) as setting_up:
        await setting_up.store(None, "kept", 1)
    # They are not tried again in the last quarter of their time: none is under way when that is over.
    async with configured(server.url, api, command_timeout=1_200, **options) as cache:
        with server.client() as raw:
            raw.replicaof(server.host, 1)  # Nobody is there; it is a replica all the same.
        for call in CHANGES[:-1]:
            for _ in range(ATTEMPTS - 1):
                # The machine may stall during the last try of a call, so that its reply comes too late.
                with contextlib.suppress(CacheOutcomeUnknown, CacheTimeout, CacheUnavailable):
                    await _refuses(cache, call, "READONLY")
                    break
            else:
                await _refuses(cache, call, "READONLY")
        assert await _in_time(lambda: cache.retrieve(None, "kept")) == 1
        assert await _in_time(lambda: cache.contains(None, "kept")) is True


async def _in_time(call: Callable[[], Awaitable[T]]) -> T:
    """The result of a call, made again where the machine stalled until its deadline."""
    while True:
        with contextlib.suppress(CacheTimeout, CacheOutcomeUnknown):
            return await call()


async def test_misconf(private_server: StartServer, options: dict[str, Any]) -> None:
    """16. A server that cannot save: MISCONF for writes; reads succeed, on new connections too."""
    server = private_server(config={"save": "3600 100000", "dbfilename": "dump.rdb"})
    async with configured(server.url, **options) as cache:
        await cache.store(None, "kept", 1)
        (server.directory / "dump.rdb").mkdir()  # Nobody can rename a file onto a folder.
        with server.client() as raw:
            raw.bgsave()
            wait_until(lambda: raw.info("persistence")["rdb_last_bgsave_status"] == "err")
            for call in CHANGES[:-1]:
                await _refuses(cache, call, "MISCONF")
            assert await cache.retrieve(None, "kept") == 1
            raw.client_kill_filter(_type="normal", skipme=True)
            assert await cache.retrieve(None, "kept") == 1
            # What is pending may need a connection of its own.
            assert cache.stats().connects >= 2


async def test_noreplicas(private_server: StartServer, options: dict[str, Any]) -> None:
    """16. Too few replicas: NOREPLICAS for writes; reads succeed."""
    server = private_server()
    async with configured(server.url, **options) as cache:
        await cache.store(None, "kept", 1)
        with server.client() as raw:
            raw.config_set("min-replicas-to-write", 1)
        for call in CHANGES[:-1]:
            await _refuses(cache, call, "NOREPLICAS")
        assert await cache.retrieve(None, "kept") == 1


async def test_masterdown(private_server: StartServer, options: dict[str, Any]) -> None:
    """16. A replica that lost its master and must not serve: MASTERDOWN, a `CacheUnavailable`."""
    replica = private_server()
    async with configured(replica.url, retries=1, **options) as cache:
        await cache.store(None, "kept", 1)
        with replica.client() as raw:
            raw.config_set("replica-serve-stale-data", "no")
            raw.replicaof(replica.host, 1)
            for call in (cache.retrieve("t", "kept"), cache.contains("t", "kept")):
                with pytest.raises(CacheUnavailable) as caught:
                    await call
                assert isinstance(caught.value, ConnectionException)
                assert (caught.value.code, caught.value.trace_id) == ("MASTERDOWN", "t")
            raw.replicaof("NO", "ONE")
        assert await cache.retrieve(None, "kept") == 1


async def test_busy(private_server: StartServer, options: dict[str, Any]) -> None:
    """16. During a long-running script: BUSY at once, without a retry; afterwards all calls succeed again."""
    server = private_server(config={"busy-reply-threshold": 20})
    async with configured(server.url, command_timeout=5_000, **options) as cache:
        await cache.store(None, "kept", 1)
        with server.client() as script, server.client() as raw:
            running = threading.Thread(target=_loop_for_ever, args=(script,))
            running.start()
            try:
                await await_until(lambda: _is_busy(raw))
                for call in CHANGES:
                    await _refuses(cache, call, "BUSY")
                await _refuses(cache, lambda cache: cache.retrieve("t", "kept"), "BUSY")
            finally:
                raw.script_kill()
                running.join()
        assert await cache.retrieve(None, "kept") == 1


def _loop_for_ever(client: Client) -> None:
    with contextlib.suppress(redis.ResponseError):  # It is killed.
        client.eval("while true do end", 0)


def _is_busy(client: Client) -> bool:
    try:
        client.ping()
    except redis.ResponseError as error:
        return "BUSY" in str(error)
    return False


async def test_wrongtype(server: Server, raw: Client, options: dict[str, Any]) -> None:
    """16. A list of another program under the key: a miss for `retrieve`, WRONGTYPE for `remove`."""
    raw.rpush("p:list", "secret-value")
    async with configured(server.url, **options) as cache:
        await cache.store_many(None, {"before": 1, "after": 2})
        assert await cache.retrieve(None, "list") is None
        assert await cache.retrieve_many(None, ["before", "list", "after"]) == {
            "before": 1,
            "after": 2,
        }
        assert await cache.contains(None, "list") is False
        await _refuses(cache, lambda cache: cache.remove("t", "list"), "WRONGTYPE")
        removed = await asyncio.gather(
            *(cache.remove("t", key) for key in ("before", "list", "after")),
            return_exceptions=True,
        )
        assert [removed[0], removed[2]] == [1, 2]
        assert isinstance(removed[1], CacheServerError)
        assert removed[1].code == "WRONGTYPE"
        assert raw.lrange("p:list", 0, -1) == [b"secret-value"]
        await cache.store(None, "list", "ours now")
        assert await cache.retrieve(None, "list") == "ours now"


WORDS: list[tuple[bytes, type[CacheError], str, int]] = [
    (b"-LOADING Redis is loading the dataset in memory\r\n", CacheUnavailable, "LOADING", 3),
    (b"-CLUSTERDOWN Hash slot not served\r\n", CacheUnavailable, "CLUSTERDOWN", 3),
    (b"-ERR max number of clients reached\r\n", CacheUnavailable, "CONNECT_FAILED", 3),
    (b"-NOPERM this user has no permissions\r\n", CacheAuthError, "NOPERM", 1),
    (b"-CROSSSLOT Keys in request don't hash\r\n", CacheServerError, "CROSSSLOT", 1),
    (b"-OOM command not allowed\r\n", CacheServerError, "OOM", 1),
    (b"-MISCONF Redis is configured\r\n", CacheServerError, "MISCONF", 1),
    (b"-NOREPLICAS Not enough good replicas\r\n", CacheServerError, "NOREPLICAS", 1),
    (b"-BUSY Redis is busy\r\n", CacheServerError, "BUSY", 1),
    (b"-MOVED 1 127.0.0.1:1\r\n", CacheServerError, "MOVED", 1),
    (b"-ERR unknown command 'x'\r\n", CacheUnsupported, "UNSUPPORTED", 1),
    (b"-ERR syntax error near secret\r\n", CacheServerError, "ERR", 1),
    (b"-lower secret\r\n", CacheServerError, "ERR", 1),
    (b"-SECRET\xff\r\n", CacheServerError, "ERR", 1),
    (b"-\r\n", CacheServerError, "ERR", 1),
]


CALLS: list[Callable[[AsyncRedisCache], Coroutine[Any, Any, Any]]] = [
    lambda cache: cache.retrieve("t", "key"),
    lambda cache: cache.store("t", "key", 1),
    lambda cache: cache.remove("t", "key"),
]


@pytest.mark.parametrize(("reply", "kind", "code", "tries"), WORDS)
async def test_every_error_code(
    reply: bytes, kind: type[CacheError], code: str, tries: int
) -> None:
    """16. Each error reply becomes its documented type and code; only temporary errors are retried.

    All on the same connection, since the protocol is in step.
    """
    async with (
        # With UNLINK the invalidation of the failed writes, which may come before the last call.
        ScriptedServer(MGET=reply, GETDEL=reply, SET=reply, UNLINK=b":1\r\n") as server,
        configured(server.url, retries=2, max_size=0) as cache,
    ):
        for number, call in enumerate(CALLS, 1):
            with pytest.raises(kind) as caught:
                await call(cache)
            assert (caught.value.code, caught.value.trace_id) == (code, "t")
            assert "secret" not in f"{caught.value!r} {caught.value}".lower()
            assert caught.value.__cause__ is caught.value.__context__ is None
            asked = sum(server.asked(name) for name in ("MGET", "SET", "GETDEL"))
            assert asked == number * tries
        assert server.connections == 1
    report(16, f"{len(WORDS)} error replies, each with its type; {code}: {kind.__name__}")


async def test_ended_login_is_renewed_once() -> None:
    """NOAUTH on a connection that has served is retried on a new one, and no further."""
    reply = b"-NOAUTH Authentication required.\r\n"
    for last in CALLS:
        async with (
            ScriptedServer(MGET=reply, GETDEL=reply, SET=reply) as server,
            configured(server.url, retries=2, max_size=0) as cache,
        ):
            # A write comes last: its invalidation, soon after, has a connection of its own.
            for number, call in enumerate((CALLS[0], last), 2):
                with pytest.raises(CacheLoginError) as caught:
                    await call(cache)
                assert (caught.value.code, caught.value.trace_id) == ("BAD_CREDENTIALS", "t")
                asked = sum(server.asked(name) for name in ("MGET", "SET", "GETDEL"))
                assert asked == server.connections == number


async def test_keys_in_several_slots_raise() -> None:
    """16. TRYAGAIN is retried until the deadline, regardless of `retries`."""
    refused = 0

    def moves(good: bytes) -> Callable[[Command], bytes]:
        def answer(_: Command) -> bytes:
            nonlocal refused
            refused += 1
            return good if refused % (REFUSALS + 1) == 0 else TRYAGAIN

        return answer

    answers = {"MGET": b"*1\r\n$1\r\n1\r\n", "SET": b"+OK\r\n", "GETDEL": b"$1\r\n1\r\n"}
    async with (
        ScriptedServer(**{name: moves(good) for name, good in answers.items()}) as server,
        configured(server.url, retries=0, max_size=0) as cache,
    ):
        for call in CALLS:
            await call(cache)
        assert refused == len(CALLS) * (REFUSALS + 1)
        server.answers |= dict.fromkeys(answers, TRYAGAIN)
        async with configured(server.url, retries=0, max_size=0, command_timeout=100) as hasty:
            for call in CALLS:
                with pytest.raises(CacheError) as caught:
                    await call(hasty)
                # The last try may be under way when the time is up.
                assert caught.value.code in {"TRYAGAIN", "TIMEOUT", "OUTCOME_UNKNOWN"}


async def test_loading_server_is_connected_to_seldom() -> None:
    """A server that refuses new connections while it loads its data: at most seven attempts in any second."""
    attempts: list[float] = []

    def loads(_: Command) -> bytes:
        attempts.append(asyncio.get_running_loop().time())
        return b"-LOADING Redis is loading the dataset in memory\r\n"

    async with ScriptedServer(SELECT=loads) as server:
        options: dict[str, Any] = {"require_connection": False, "retries": 100}
        async with configured(f"{server.url.removesuffix('/0')}/1", **options) as cache:
            call = asyncio.ensure_future(cache.retrieve(None, "key"))
            await await_until(lambda: len(attempts) > 10)
            server.answers["SELECT"] = b"+OK\r\n"
            assert await call == 1
    # Each follows the refusal of the one before, so no stall of the machine brings them nearer.
    assert all(later - at > 1 for at, later in zip(attempts, attempts[7:], strict=False))


async def test_unauthorized_is_the_frameworks_own() -> None:
    """Later than at open, a refused user is an UnauthorizedException, as its callers expect."""
    async with (
        ScriptedServer(MGET=b"-NOPERM no\r\n") as server,
        configured(server.url) as cache,
    ):
        with pytest.raises(UnauthorizedException):
            await cache.retrieve(None, "key")
