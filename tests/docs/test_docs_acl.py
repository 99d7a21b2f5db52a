"""The documented ACL users can run what the cache needs, and nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from typing import NamedTuple

import pytest

from async_redis_cache import AsyncRedisCache, CacheError, CachePermissionError
from harness import Client, Server
from harness.documented_users import BOUNDED, BOUNDED_CLEAR, COUNTING, LOADING, LOCKING, NEAR, PLAIN


class Use(NamedTuple):
    """A cache that is used in some way, and what its user may do."""

    rules: list[str]
    max_size: int = 0
    clear: bool = False
    near: bool = False
    loading: bool = False
    counting: bool = False
    locking: bool = False


USES = {
    "plain": Use(PLAIN),
    "bounded": Use(BOUNDED, max_size=2),
    "clear": Use(BOUNDED_CLEAR, max_size=2, clear=True),
    "loading": Use([*PLAIN, *LOADING], loading=True),
    "bounded, loading": Use([*BOUNDED, *LOADING[3:]], max_size=2, loading=True),
    "counting": Use([*PLAIN, *COUNTING], counting=True),
    "bounded, counting": Use([*BOUNDED, *COUNTING[2:]], max_size=2, counting=True),
    "locking": Use([*PLAIN, *LOCKING], locking=True),
    "bounded, locking": Use([*BOUNDED, *LOCKING[3:]], max_size=2, locking=True),
    "near": Use([*PLAIN, *NEAR], near=True),
}


class Account:
    """The user `shop` on a server, and what it may do there."""

    def __init__(self, server: Server, administrator: Client) -> None:
        self._server = server
        self._administrator = administrator

    def grant(self, *rules: str) -> None:
        self._administrator.execute_command("ACL", "SETUSER", "shop", *rules)

    def cache(self, use: Use, key_prefix: str = "shop:", database: int = 0) -> AsyncRedisCache:
        return AsyncRedisCache.from_url(
            self._server.login_url("shop", "PASSWORD", database),
            key_prefix=key_prefix,
            max_size=use.max_size,
            near_cache_enabled=use.near,
        )


@pytest.fixture
def account(server: Server, raw: Client) -> Iterator[Account]:
    yield Account(server, raw)
    raw.execute_command("ACL", "DELUSER", "shop")


async def entered(cache: AsyncRedisCache) -> None:
    async with cache.namespace("job").lock("a"):
        pass


async def refused(cache: AsyncRedisCache, use: Use) -> set[str]:
    """The methods that fail."""
    failed: set[str] = set()

    async def call(name: str, method: Awaitable[object]) -> None:
        try:
            await method
        except CacheError:
            failed.add(name)

    await call("open", cache.open(None))
    if not cache.is_open():
        return failed
    await call("store", cache.store(None, "a", 1))
    await call("store_many", cache.store_many(None, {"b": 2, "c": 3, "d": None}))
    await call("retrieve", cache.retrieve(None, "a"))
    await call("retrieve_many", cache.retrieve_many(None, ["a", "b"]))
    await call("contains", cache.contains(None, "b"))
    await call("touch", cache.touch(None, "c"))
    await call("time_to_live", cache.time_to_live(None, "c"))
    await call("remove", cache.remove(None, "c"))
    await call("remove_many", cache.remove_many(None, ["b", "c"]))
    await call("ping", cache.ping(None))
    if use.loading:
        await call("store another", cache.store(None, "other type", 1))
        await call("load", cache.retrieve_or_load(None, "new", lambda: 1))
        await call("replace", cache.retrieve_or_load(None, "other type", lambda: "a", type=str))
        await call("refresh", cache.refresh(None, "new", lambda: 2))
        # Loads, so that the next run does too.
        await call("remove loaded", cache.remove_many(None, ["new", "other type"]))
    if use.counting:
        await call("add", cache.add(None, "added", 1))
        await call("incr", cache.incr(None, "count"))
        await call("incr again", cache.incr(None, "count"))
        await call("decr", cache.decr(None, "count"))
        await call("remove counted", cache.remove_many(None, ["added", "count"]))
    if use.locking:
        await call("lock", entered(cache))
        await call("lock again", entered(cache))
    if use.clear:
        await call("clear", cache.clear(None))
    await cache.close(None)
    return failed


@pytest.mark.parametrize("use", USES)
async def test_documented_user_may_use_the_whole_cache(account: Account, use: str) -> None:
    """Every method works for the user of the documentation."""
    used = USES[use]
    account.grant(*used.rules)
    assert await refused(account.cache(used), used) == set()


@pytest.mark.parametrize("use", USES)
async def test_documented_user_needs_every_rule(account: Account, use: str) -> None:
    """Without any one of its commands, some method fails for the user of the documentation.

    EVALSHA is the exception: without it, scripts are sent with their source.
    """
    used = USES[use]
    commands = [rule for rule in used.rules if rule.startswith("+")]
    spare: list[str] = []
    for command in commands:
        account.grant(*used.rules, f"-{command[1:]}")
        if not await refused(account.cache(used), used):
            spare.append(command)
    assert commands
    assert spare == [command for command in commands if command == "+evalsha"]


async def test_stale_reads_need_the_time_command(account: Account, raw: Client) -> None:
    """The user of a program that loads nothing, beside one that loads with a `stale_timeout`."""
    account.grant(*PLAIN, *LOADING)
    async with account.cache(USES["loading"]) as cache:
        await cache.retrieve_or_load(None, "key", lambda: 1, 60_000, stale_timeout=1_000)
    account.grant("reset", *PLAIN)
    async with account.cache(USES["plain"]) as cache:
        with pytest.raises(CachePermissionError):
            await cache.retrieve(None, "key")
    account.grant("+time")
    async with account.cache(USES["plain"]) as cache:
        assert await cache.retrieve(None, "key") == 1
    raw.flushdb()


async def test_calls_without_scripts(account: Account, caplog: pytest.LogCaptureFixture) -> None:
    """A user without scripts may use everything that the page lists; the errors of the rest name EVAL and the option."""
    account.grant("reset", "on", ">PASSWORD", "~shop:*", "&*", "+@all", "-@scripting")
    calls = 0

    def load() -> int:
        nonlocal calls
        calls += 1
        return 1

    async with account.cache(Use([], near=True)) as cache:
        await cache.store(None, "a", 1)
        await cache.store_many(None, {"b": 2, "c": 3})
        assert await cache.retrieve_many(None, ["a", "b"]) == {"a": 1, "b": 2}
        assert (await cache.retrieve_entry(None, "a")).value == 1
        assert await cache.contains(None, "a")
        assert await cache.touch(None, "a")
        assert await cache.time_to_live(None, "a")
        assert await cache.retrieve_or_load(None, "a", load) == 1
        assert await cache.remove(None, "a") == 1
        assert await cache.remove_many(None, ["b"]) == 1
        await cache.ping(None)
        assert await cache.clear(None) == 1
        for refused_call in (
            cache.store(None, "a", 1, tags=("t",)),
            cache.invalidate_tags(None, "t"),
            cache.retrieve_or_load(None, "a", load),
            cache.refresh(None, "a", load),
        ):
            with pytest.raises(CachePermissionError, match=r"EVAL.*options\.max_size to 0"):
                await refused_call
        assert await cache.retrieve(None, "a") is None
    assert calls == 0
    assert not caplog.records
    async with account.cache(Use([], max_size=2)) as cache:
        assert [record.getMessage() for record in caplog.records if "NOPERM" in record.getMessage()]
        assert await cache.retrieve(None, "a") is None
        for refused_call in (cache.store(None, "a", 1), cache.remove(None, "a")):
            with pytest.raises(CachePermissionError, match=r"EVAL.*options\.max_size to 0"):
                await refused_call


async def test_another_database_needs_select(account: Account) -> None:
    """The user needs SELECT for a database other than 0, and for nothing else."""
    account.grant(*PLAIN)
    cache = account.cache(Use(PLAIN), database=1)
    assert await refused(cache, Use(PLAIN)) == {"open"}
    account.grant("+select")
    assert await refused(cache, Use(PLAIN)) == set()


async def test_bounded_cache_without_prefix_clears_without_scan(account: Account) -> None:
    """Without a prefix a bounded cache is cleared through its index, and SCAN is not needed."""
    account.grant(*BOUNDED, "~*")
    assert await refused(account.cache(USES["clear"], key_prefix=""), USES["clear"]) == set()


@pytest.mark.parametrize("use", USES)
async def test_documented_user_is_kept_to_its_prefix(account: Account, use: str) -> None:
    """A cache with another prefix may do nothing as this user."""
    used = USES[use]
    account.grant(*used.rules)
    async with account.cache(used, key_prefix="other:") as cache:
        with pytest.raises(CachePermissionError):
            await cache.store(None, "a", 1)
        with pytest.raises(CachePermissionError):
            await cache.retrieve(None, "a")
        with pytest.raises(CachePermissionError):
            await cache.remove(None, "a")
