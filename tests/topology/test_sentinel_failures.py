"""Sentinels that are silent, outdated, or refuse the login."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from async_redis_cache import (
    AsyncRedisCache,
    CacheConfigError,
    CacheLoginError,
    CacheUnavailable,
    CacheUnsupported,
)
from harness import await_until
from harness.figures import in_time, report
from harness.near import near_of, trusted
from harness.sentinels import MASTER_NAME, Sentinels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Flavour, Server, StartServer

pytestmark = pytest.mark.depends_on()

OURS_SECONDS: Final = 1.5
"""To leave a master when a sentinel that is listened to has named another, on a busy machine."""
GRACE: Final = 8_000
"""Milliseconds for which an old master goes on to acknowledge changes: as long as out there."""
OPTIONS: Final[dict[str, Any]] = {"key_prefix": "s:", "max_size": 0}


@pytest.fixture
def sentinels(flavour: Flavour) -> Iterator[Sentinels]:
    with Sentinels(flavour, grace=GRACE) as sentinels:
        yield sentinels


@pytest.mark.parametrize("silence", ["deaf", "frozen"])
@pytest.mark.parametrize("silent", [0, 2])
async def test_silent_sentinel_is_passed_over(
    sentinels: Sentinels, silence: str, silent: int
) -> None:
    """17. With any one sentinel outdated: acknowledged writes are on the new master, local entries are its own."""
    witnesses = [*sentinels.sentinels]
    mute = witnesses.pop(silent)
    near: dict[str, Any] = {"near_cache_enabled": True, "near_cache_heartbeat": 100}
    async with AsyncRedisCache.from_url(sentinels.uri, **OPTIONS, **near) as cache:
        await trusted(cache)
        await cache.store(None, "key", 0)
        old = sentinels.master()
        if silence == "deaf":
            await asyncio.to_thread(sentinels.deafen, mute)
        else:
            mute.freeze()
        new = sentinels.client(await asyncio.to_thread(sentinels.order_failover, witnesses[0]))
        named_at = time.monotonic()
        number = 0
        while new.get("s:key") != b"%d" % number:
            number += 1
            await cache.store(None, "key", number)
        seconds = time.monotonic() - named_at
        report(
            17,
            f"one sentinel {silence}: connections closed {seconds * 1000:.0f} ms after the new "
            "master was named",
        )
        assert in_time(seconds, OURS_SECONDS)
        await trusted(cache)
        while b"s:key" not in near_of(cache)._entries:
            assert await cache.retrieve(None, "key") == number
        new.set("s:key", b'"behind our back"')
        await await_until(lambda: b"s:key" not in near_of(cache)._entries)
        assert await cache.retrieve(None, "key") == "behind our back"
        # It would have acknowledged all of it.
        assert sentinels.client(old).role()[0] == b"master"
        mute.thaw()


async def test_outdated_sentinel_is_not_followed(sentinels: Sentinels) -> None:
    """17. A sentinel names the master of an earlier election: a cache that opens now does not use that master."""
    stale, *others = sentinels.sentinels
    old = sentinels.master()
    await asyncio.to_thread(sentinels.deafen, stale)
    new = await asyncio.to_thread(sentinels.order_failover, others[0])
    await await_until(lambda: sentinels.named_by(others[1]) is new)
    assert sentinels.named_by(stale) is old
    for number in range(30):
        async with AsyncRedisCache.from_url(sentinels.uri, **OPTIONS) as cache:
            await cache.store(None, f"key{number}", number)
    assert sentinels.named_by(stale) is old
    assert sentinels.client(old).role()[0] == b"master"
    assert sentinels.client(new).dbsize() == 30


@pytest.mark.parametrize("wrong", ["", "PASSWORT"])
async def test_refused_sentinel_login_raises(flavour: Flavour, wrong: str) -> None:
    """14. A login that the sentinels reject is reported, after one attempt at each sentinel."""
    with Sentinels(flavour, sentinels={"password": "PASSWORD"}) as sentinels:
        before = [denied(sentinels, one) for one in sentinels.sentinels]
        with pytest.raises(CacheLoginError) as caught:
            await AsyncRedisCache.from_url(sentinels.uri, sentinel_password=wrong, **OPTIONS).open(
                "t"
            )
        assert (caught.value.code, caught.value.trace_id) == ("BAD_CREDENTIALS", "t")
        assert [denied(sentinels, one) for one in sentinels.sentinels] <= [n + 1 for n in before]
        right = AsyncRedisCache.from_url(sentinels.uri, sentinel_password="PASSWORD", **OPTIONS)
        async with right as cache:
            assert await cache.store(None, "key", 1) == 1


def denied(sentinels: Sentinels, sentinel: Server) -> int:
    """How often a sentinel has refused a login."""
    return int(sentinels.client(sentinel).info("stats").get("acl_access_denied_auth", 0))


async def test_unknown_master_name_raises(sentinels: Sentinels) -> None:
    """A configuration error, whichever sentinel is unreachable; none as long as one of them knows the master."""
    sentinels.sentinels[0].kill()
    uri = sentinels.uri.replace(f"/{MASTER_NAME}/", "/another/")
    with pytest.raises(CacheConfigError) as caught:
        await AsyncRedisCache.from_url(uri, **OPTIONS).open("t")
    assert (caught.value.code, caught.value.trace_id) == ("BAD_OPTION", "t")
    sentinels.client(sentinels.sentinels[1]).execute_command("SENTINEL", "REMOVE", MASTER_NAME)
    async with AsyncRedisCache.from_url(sentinels.uri, **OPTIONS) as cache:
        assert await cache.store(None, "key", 1) == 1


async def test_server_that_is_no_sentinel_is_named(private_server: StartServer) -> None:
    """An ordinary server in the place of a Sentinel is reported with its address."""
    server = private_server()
    uri = f"redis+sentinel://{server.host}:{server.port}/{MASTER_NAME}/0"
    with pytest.raises(CacheUnsupported) as caught:
        await AsyncRedisCache.from_url(uri, **OPTIONS).open(None)
    assert f"{server.host}:{server.port} answers, but is no Sentinel" in caught.value.message


async def test_user_without_role_command_raises(sentinels: Sentinels) -> None:
    """A replica is not taken for the master because ROLE is forbidden, as it often is."""
    stale, *others = sentinels.sentinels
    old = sentinels.master()
    uri = sentinels.uri.replace("://", "://shop:PASSWORD@")
    for node in sentinels.nodes:
        rules = "reset on >PASSWORD ~* +@all -@dangerous -@admin"
        sentinels.client(node).execute_command("ACL", "SETUSER", "shop", *rules.split())
    await asyncio.to_thread(sentinels.deafen, stale)
    new = await asyncio.to_thread(sentinels.order_failover, others[0])
    sentinels.client(old).replicaof(new.host, new.port)
    for other in others:
        other.kill()
    with pytest.raises(CacheUnavailable) as caught:
        await AsyncRedisCache.from_url(uri, **OPTIONS).open("t")
    assert caught.value.code == "MASTERDOWN"
