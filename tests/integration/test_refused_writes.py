"""Changes that a server refuses are raised, or pending and retried until they succeed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheError, CacheOverloaded, CacheServerError
from async_redis_cache._common.failures import ServerReply, failure_of
from harness import Client, StartServer, await_until
from harness.apis import APIS, Api, configured
from harness.loop_errors import no_loop_errors
from harness.scripted_server import ScriptedServer

if TYPE_CHECKING:
    from harness import Server

pytestmark = pytest.mark.depends_on("api")

Change = Callable[[AsyncRedisCache], Awaitable[Any]]
PREFIX = "refused:"


def refuse(raw: Client, code: str) -> None:
    """Let the server refuse changes with this error."""
    if code == "NOREPLICAS":
        raw.config_set("min-replicas-to-write", 1)
    elif code == "OOM":
        raw.config_set("maxmemory", 1)
    else:
        raw.replicaof("127.0.0.1", 1)  # No server listens there.


def accept(raw: Client) -> None:
    """Let it accept them again."""
    raw.replicaof("NO", "ONE")
    raw.config_set("min-replicas-to-write", 0)
    raw.config_set("maxmemory", 0)


async def load() -> str:
    return "new"


STORES: dict[str, Change] = {
    "store": lambda cache: cache.store(None, "key", "new"),
    "store with tags": lambda cache: cache.store(None, "key", "new", tags=["other"]),
    "store_many": lambda cache: cache.store_many(None, {"key": "new", "another": 1}),
    "invalidate_tags": lambda cache: cache.invalidate_tags(None, "tag"),
}
REMOVALS: dict[str, Change] = {
    "store None": lambda cache: cache.store(None, "key", None),
    "store_many with None": lambda cache: cache.store_many(None, {"another": 1, "key": None}),
    "remove": lambda cache: cache.remove(None, "key"),
    "remove_many": lambda cache: cache.remove_many(None, ["another", "key"]),
}
CHANGES = STORES | REMOVALS
# With too little memory, a server still removes.
REFUSED = [
    *((code, change) for code in ("NOREPLICAS", "READONLY") for change in CHANGES),
    *(("OOM", change) for change in STORES),
]


@pytest.fixture
def server(private_server: StartServer) -> Server:
    return private_server()


@pytest.fixture
def options() -> dict[str, Any]:
    return {"key_prefix": PREFIX, "command_timeout": 300}


async def old_value(cache: AsyncRedisCache) -> None:
    await cache.store(None, "key", "old", tags=["tag"])


async def is_gone_for_others(server: Server, options: dict[str, Any]) -> bool:
    async with configured(server.url, **options) as other:
        return bool(await other.retrieve(None, "key") != "old")


@pytest.mark.parametrize(("code", "change"), REFUSED)
async def test_refused_change_is_pending_when_fail_open_is_always(
    server: Server, options: dict[str, Any], code: str, change: str
) -> None:
    """35. A refused write reports success only if it is retried; until then this process reads no old value."""
    raw = server.client()
    async with configured(server.url, fail_open="always", **options) as cache:
        await old_value(cache)
        refuse(raw, code)
        await CHANGES[change](cache)
        assert await cache.retrieve(None, "key") != "old"
        accept(raw)
        await await_until(lambda: cache.stats().pending_invalidations == 0)
        assert await is_gone_for_others(server, options)


@pytest.mark.parametrize("change", CHANGES)
async def test_near_value_is_not_read_after_refused_change(
    server: Server, options: dict[str, Any], change: str
) -> None:
    """35. The near cache neither returns nor stores a value whose invalidation is pending."""
    raw = server.client()
    near = options | {"near_cache_enabled": True, "fail_open": "always"}
    async with configured(server.url, **near) as cache:
        await old_value(cache)
        await cache.retrieve(None, "key")
        refuse(raw, "NOREPLICAS")
        await CHANGES[change](cache)
        for _ in range(3):
            assert await cache.retrieve(None, "key") != "old"
        accept(raw)
        await await_until(lambda: cache.stats().pending_invalidations == 0)
        assert await cache.retrieve(None, "key") != "old"


@pytest.mark.parametrize("change", CHANGES)
async def test_refused_change_is_pending_through_the_synchronous_api(
    server: Server, options: dict[str, Any], change: str
) -> None:
    """`RedisCache` reports, remembers and retries as `AsyncRedisCache` does."""
    raw = server.client()
    async with configured(server.url, "sync", fail_open="always", **options) as cache:
        await old_value(cache)
        refuse(raw, "NOREPLICAS")
        await CHANGES[change](cache)
        assert cache.stats().pending_invalidations
        accept(raw)
        await await_until(lambda: cache.stats().pending_invalidations == 0)
        assert await is_gone_for_others(server, options)


@pytest.mark.parametrize("fail_open", ["loading", "never"])
@pytest.mark.parametrize("change", CHANGES)
async def test_refused_change_is_raised_and_pending_otherwise(
    server: Server, options: dict[str, Any], fail_open: str, change: str
) -> None:
    """35. The caller gets the error of the server, and the invalidation is retried nevertheless."""
    raw = server.client()
    async with configured(server.url, fail_open=fail_open, **options) as cache:
        await old_value(cache)
        refuse(raw, "NOREPLICAS")
        with pytest.raises(CacheServerError) as caught:
            await CHANGES[change](cache)
        assert caught.value.code == "NOREPLICAS"
        accept(raw)
        await await_until(lambda: cache.stats().pending_invalidations == 0)
        assert await is_gone_for_others(server, options)


@pytest.mark.depends_on("server")
async def test_store_without_memory_removes_the_old_value(
    server: Server, options: dict[str, Any]
) -> None:
    """A server without memory still removes, so the old value is gone while it still refuses to store."""
    raw = server.client()
    async with configured(server.url, **options) as cache:
        await old_value(cache)
        refuse(raw, "OOM")
        with pytest.raises(CacheServerError) as caught:
            await cache.store(None, "key", "new")
        assert caught.value.code == "OOM"
        await await_until(lambda: cache.stats().pending_invalidations == 0)
        assert raw.exists(f"{PREFIX}key") == 0


@pytest.mark.depends_on("server")
async def test_tag_without_memory_is_invalid_for_others(
    server: Server, options: dict[str, Any]
) -> None:
    """Its version is removed at once, and it is invalidated when there is memory: loads have to see that."""
    raw = server.client()
    async with configured(server.url, **options) as cache:
        await old_value(cache)
        refuse(raw, "OOM")
        with pytest.raises(CacheServerError) as caught:
            await cache.invalidate_tags(None, "tag")
        assert caught.value.code == "OOM"
        await await_until(lambda: raw.exists(f"{PREFIX}\0tag:tag") == 0)
        assert await is_gone_for_others(server, options)
        assert cache.stats().pending_invalidations == 1
        accept(raw)
        await await_until(lambda: cache.stats().pending_invalidations == 0)
        assert raw.exists(f"{PREFIX}\0tag:tag") == 1


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("loaded", ["new", None])
async def test_refused_refresh_is_pending(
    server: Server, options: dict[str, Any], api: Api, loaded: str | None
) -> None:
    """35. `refresh` cannot store its result: the caller gets it, and the old value is removed for all processes in time."""
    raw = server.client()
    async with configured(server.url, api, **options) as cache:
        await cache.store(None, "key", "old")
        refuse(raw, "NOREPLICAS")
        assert await cache.refresh(None, "key", lambda: loaded) == loaded
        accept(raw)
        await await_until(lambda: cache.stats().pending_invalidations == 0)
        assert await is_gone_for_others(server, options)


@pytest.mark.parametrize("loaded", ["new", None])
async def test_refresh_is_pending_when_its_publication_is_refused(
    server: Server, options: dict[str, Any], loaded: str | None
) -> None:
    """The same where the server refuses only what comes after the load."""
    raw = server.client()

    def loader() -> str | None:
        refuse(raw, "NOREPLICAS")
        return loaded

    async with configured(server.url, **options) as cache:
        await cache.store(None, "key", "old")
        assert await cache.refresh(None, "key", loader) == loaded
        await await_until(lambda: cache.stats().pending_invalidations == 1)
        accept(raw)
        await await_until(lambda: cache.stats().pending_invalidations == 0)
        assert await is_gone_for_others(server, options)


async def test_load_that_cannot_be_published_leaves_a_stale_value(
    server: Server, options: dict[str, Any]
) -> None:
    """A value that is stale by its age was not replaced by anybody: it may be read as long as was agreed."""
    raw = server.client()

    def loader() -> str:
        refuse(raw, "NOREPLICAS")
        return "new"

    options = options | {"loading_stale_timeout": 60_000, "loading_soft_timeout": 60_000}
    # The last load waits for the lease of the one before, which cannot be released.
    options["loading_lease_timeout"] = 500
    async with configured(server.url, **options) as cache:
        await cache.retrieve_or_load(None, "key", lambda: "old", 1)
        await await_until(lambda: raw.pttl(f"{PREFIX}key") < 60_000)
        assert await cache.retrieve_or_load(None, "key", loader, 1) == "new"
        assert await cache.retrieve_or_load(None, "key", lambda: "newer", 1) in {"old", "newer"}
        accept(raw)
        assert cache.stats().pending_invalidations == 0


async def test_overloaded_change_is_pending(server: Server, options: dict[str, Any]) -> None:
    """35. A write that was OVERLOADED was not sent; its invalidation is retried when there is room in the queue."""
    options = options | {"max_waiting_calls": 1, "max_size": 0, "fail_open": "always"}
    async with configured(server.url, **options) as cache:
        await cache.store_many(None, {"a": "old", "b": "old", "c": "old"})
        begun = asyncio.gather(*(cache.store(None, key, "new") for key in ("a", "b", "c")))
        assert await begun == ["new"] * 3
        assert cache.stats().errors
        await await_until(lambda: cache.stats().pending_invalidations == 0)
        found = await cache.retrieve_many(None, ["a"]) | await cache.retrieve_many(None, ["b"])
        found |= await cache.retrieve_many(None, ["c"])
        assert "old" not in found.values()


async def test_overloaded_change_is_raised_by_default(
    server: Server, options: dict[str, Any]
) -> None:
    """And not pending: nothing was sent, and its caller knows."""
    options = options | {"max_waiting_calls": 1, "max_size": 0}
    async with configured(server.url, **options) as cache:
        begun = (cache.store(None, key, "new") for key in ("a", "b", "c"))
        results = await asyncio.gather(*begun, return_exceptions=True)
        assert [result for result in results if isinstance(result, CacheOverloaded)]
        assert cache.stats().pending_invalidations == 0


TAGS = [f"tag{number}" for number in range(5)]
OF_MANY_TAGS: dict[str, Change] = {
    "invalidate_tags": lambda cache: cache.invalidate_tags(None, *TAGS),
    "store": lambda cache: cache.store(None, "key", "new", tags=TAGS),
}


@pytest.mark.parametrize("change", OF_MANY_TAGS)
async def test_change_leaves_no_error_unretrieved_when_queue_is_full(
    server: Server, options: dict[str, Any], change: str
) -> None:
    """The requests for its first tags are abandoned with the refused one, and the loop logs nothing."""
    raw = server.client()
    async with configured(server.url, max_waiting_calls=2, **options) as cache:
        await cache.store(None, "key", "old")
        refuse(raw, "NOREPLICAS")
        with no_loop_errors():
            with pytest.raises(CacheOverloaded):
                await OF_MANY_TAGS[change](cache)
            await asyncio.sleep(0.1)  # What was sent has been answered.
        accept(raw)
        await await_until(lambda: cache.stats().pending_invalidations == 0)


WORDS = [
    "BUSY",
    "MISCONF",
    "NOREPLICAS",
    "OOM",
    "LOADING",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "MOVED 1 a:1",
]


@pytest.mark.parametrize("word", WORDS)
async def test_every_refusal_of_a_server_is_remembered(word: str) -> None:
    """35. For each reason for which a server does not change a key, its invalidation is pending."""
    reply = f"-{word} it says\r\n".encode()
    options = {"fail_open": "always", "max_size": 0, "command_timeout": 200}
    async with (
        ScriptedServer(SET=reply, UNLINK=reply) as server,
        configured(server.url, **options) as cache,
    ):
        assert await cache.store(None, "key", "new") == "new"
        assert cache.stats().pending_invalidations == 1


@pytest.mark.parametrize("word", ["WRONGTYPE", "NOPERM"])
async def test_refusal_that_will_not_pass_is_raised(word: str) -> None:
    """A retry would be refused as well: the caller gets the error under any `fail_open`."""
    reply = f"-{word} it says\r\n".encode()
    async with (
        ScriptedServer(GETDEL=reply) as server,
        configured(server.url, fail_open="always", max_size=0) as cache,
    ):
        with pytest.raises(CacheError) as caught:
            await cache.remove(None, "key")
        assert caught.value.code == word
        assert cache.stats().pending_invalidations == 0


async def test_touch_reports_that_nothing_was_touched(
    server: Server, options: dict[str, Any]
) -> None:
    """A refused touch returns False; the value keeps its TTL and is not pending."""
    raw = server.client()
    async with configured(server.url, fail_open="always", **options) as cache:
        await cache.store(None, "key", "kept")
        refuse(raw, "NOREPLICAS")
        assert await cache.touch(None, "key", 60_000) is False
        assert await cache.retrieve(None, "key") == "kept"


async def test_refused_clear_is_raised(server: Server, options: dict[str, Any]) -> None:
    """It has no keys that could be remembered."""
    raw = server.client()
    async with configured(server.url, fail_open="always", **options) as cache:
        await cache.store(None, "key", 1)
        refuse(raw, "NOREPLICAS")
        with pytest.raises(CacheServerError) as caught:
            await cache.clear(None)
        assert caught.value.code == "NOREPLICAS"


async def test_refused_key_holds_up_no_other(server: Server, options: dict[str, Any]) -> None:
    """Pending keys are removed one by one: what is refused for one is tried again after the others."""
    raw = server.client()
    async with configured(server.url, **options) as cache:
        engine = cache._lifecycle.ready().engine
        await cache.store(None, "last", "old")
        refuse(raw, "OOM")
        failure = CacheServerError("OOM", "")
        tags = [f"{PREFIX}\0tag:{n}".encode() for n in range(600)]
        engine._pending.add([*tags, f"{PREFIX}last".encode()], failure)
        await await_until(lambda: cache.stats().pending_invalidations == 600)
        assert raw.exists(f"{PREFIX}last") == 0


async def test_dropped_pending_keys_are_counted_and_logged(
    server: Server, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """35. Beyond 10,000 pending keys the earliest are dropped, and all at `close`: counted and logged."""
    async with configured(server.url, **options) as cache:
        engine = cache._lifecycle.ready().engine
        keys = (f"{PREFIX}{n}".encode() for n in range(10_010))
        engine._pending.add(keys, CacheServerError("OOM", ""))
        assert cache.stats().invalidations_dropped == 10
        left = cache.stats().pending_invalidations
    assert cache.stats().invalidations_dropped == 10 + left
    dropped = [r for r in caplog.records if "invalidations_dropped" in vars(r).values()]
    assert len(dropped) == 1


@pytest.mark.not_with("user", reason="it changes what the user may do")
@pytest.mark.depends_on("server")
async def test_key_without_permission_holds_up_no_other(
    server: Server, options: dict[str, Any]
) -> None:
    """Many pending keys are removed by one command, which is refused for one of them: then each by itself."""
    raw = server.client()
    async with configured(server.url, **options) as cache:
        engine = cache._lifecycle.ready().engine
        await cache.store(None, "key", "old")
        raw.acl_setuser("default", enabled=True, reset_keys=True, keys=[f"{PREFIX}*"])
        keys = [b"forbidden", f"{PREFIX}key".encode()]
        engine._pending.add(keys, CacheServerError("OOM", ""))
        await await_until(lambda: cache.stats().pending_invalidations == 1)
        raw.acl_setuser("default", enabled=True, reset_keys=True, keys=["*"])
        await await_until(lambda: cache.stats().pending_invalidations == 0)


@pytest.mark.parametrize("word", ["OOM", "READONLY", "MISCONF", "NOREPLICAS"])
def test_refusal_in_a_script_of_an_old_server_has_its_own_code(word: str) -> None:
    """Before 7.0 Redis puts what refused a command behind a text about the script."""
    text = (
        f"ERR Error running script (call to f_1a): @user_script:3: @user_script: 3: -{word} it says"
    )
    assert failure_of(ServerReply(text)).code == word


def test_wrong_type_in_a_script_of_an_old_server_has_its_own_code() -> None:
    """Before 7.0 Redis wraps it like other errors in a script, without a hyphen."""
    text = "ERR Error running script (call to f_1a): @user_script:1: WRONGTYPE it says"
    assert failure_of(ServerReply(text)).code == "WRONGTYPE"


async def test_refresh_is_pending_when_a_clear_is_refused_as_well(
    server: Server, options: dict[str, Any]
) -> None:
    """A clear that has failed has replaced nothing: a refresh beside it that is refused leaves no old value."""
    raw = server.client()
    loads, ends = asyncio.Event(), asyncio.Event()

    async def loader() -> str:
        loads.set()
        await ends.wait()
        return "new"

    async with configured(server.url, **options) as cache:
        await cache.store(None, "key", "old")
        refreshed = asyncio.ensure_future(cache.refresh(None, "key", loader))
        await loads.wait()
        refuse(raw, "NOREPLICAS")
        with pytest.raises(CacheServerError):
            await cache.clear(None)
        ends.set()
        assert await refreshed == "new"
        await await_until(lambda: cache.stats().pending_invalidations == 1)
        accept(raw)
        await await_until(lambda: cache.stats().pending_invalidations == 0)
        assert await is_gone_for_others(server, options)


async def test_refresh_is_published_when_a_clear_beside_it_was_refused(
    server: Server, options: dict[str, Any]
) -> None:
    """The same where the server accepts changes again by then."""
    raw = server.client()
    loads, ends = asyncio.Event(), asyncio.Event()

    async def loader() -> str:
        loads.set()
        await ends.wait()
        return "new"

    async with configured(server.url, **options) as cache:
        await cache.store(None, "key", "old")
        refreshed = asyncio.ensure_future(cache.refresh(None, "key", loader))
        await loads.wait()
        refuse(raw, "NOREPLICAS")
        with pytest.raises(CacheServerError):
            await cache.clear(None)
        accept(raw)
        ends.set()
        assert await refreshed == "new"
        assert await is_gone_for_others(server, options)
