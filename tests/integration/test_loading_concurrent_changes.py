"""Loads concurrent with touches, tag invalidations and "do not cache"."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from harness import await_until
from harness.apis import until_gone

if TYPE_CHECKING:
    from async_redis_cache import AsyncRedisCache, Load

pytest_plugins = ["loading_fixtures"]
pytestmark = pytest.mark.depends_on("storage", "near")

Caches = tuple["AsyncRedisCache", "AsyncRedisCache"]


@pytest.mark.parametrize("own", [True, False], ids=["own", "another's"])
async def test_a_touch_does_not_end_a_load(caches: Caches, *, own: bool) -> None:
    """A key that is being loaded has no TTL to change: it is loaded once and stored."""
    one, other = caches
    may_end = asyncio.Event()
    loads = 0

    async def load() -> str:
        nonlocal loads
        loads += 1
        await may_end.wait()
        return "loaded"

    first = asyncio.create_task(one.retrieve_or_load(None, "key", load, 60_000))
    await await_until(lambda: loads == 1)
    assert await (one if own else other).touch(None, "key", 1) is False
    second = asyncio.create_task(other.retrieve_or_load(None, "key", load, 60_000))
    await await_until(lambda: other.stats().misses > 0)
    may_end.set()
    assert [await first, await second] == ["loaded"] * 2
    assert loads == 1
    assert await other.retrieve(None, "key") == "loaded"
    assert one.stats().superseded_loads == 0


async def test_a_touch_does_not_end_a_stale_value(caches: Caches) -> None:
    """It is no value to a plain method, and stays one to those that load."""
    one, other = caches
    options: Any = {"stale_timeout": 60_000}
    await one.retrieve_or_load(None, "key", lambda: "old", 30, **options)
    await until_gone(one, "key")
    assert await other.touch(None, "key", 1) is False
    await asyncio.sleep(0.01)  # Longer than that life would have been.
    entry = await one.retrieve_or_load_entry(None, "key", lambda: "new", 30, **options)
    assert (entry.value, entry.status) == ("old", "stale")


async def test_refresh_does_not_store_an_invalidated_value(caches: Caches) -> None:
    """A loader does not get a value whose tag was invalidated, and cannot return NOT_MODIFIED for it."""
    one, other = caches
    await one.retrieve_or_load(None, "key", lambda: "old", 60_000, tags=("tag",))
    await other.invalidate_tags(None, "tag")
    seen: list[Any] = []

    def same(load: Load) -> Any:
        seen.append(load.stale)
        return load.not_modified()

    with pytest.raises(LookupError):
        await one.refresh(None, "key", same, 60_000)
    assert seen == [None]
    assert await other.retrieve(None, "key") is None


async def test_refresh_that_is_not_stored_removes_the_value(caches: Caches) -> None:
    """What `refresh` was to replace is older than its result, which is not stored if its tag was invalidated."""
    one, other = caches
    await one.store(None, "key", "old")
    assert await other.retrieve(None, "key") == "old"

    async def load() -> str:
        await other.invalidate_tags(None, "tag")
        return "new"

    assert await other.refresh(None, "key", load, tags=("tag",)) == "new"
    assert await other.retrieve(None, "key") is None
    await until_gone(one, "key")


async def test_uncacheable_result_is_not_remembered(caches: Caches) -> None:
    """`do_not_cache` holds for "there is none" too."""
    one, other = caches
    loads = 0

    def none(load: Load) -> Any:
        nonlocal loads
        loads += 1
        load.do_not_cache()

    for cache in (one, other, one):
        assert await cache.retrieve_or_load(None, "key", none, missing_timeout=60_000) is None
    assert loads == 3


async def test_later_caller_does_not_get_an_earlier_result(
    caches: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joining a caller that has found a value and still checks its tags does not return a removed value."""
    one, other = caches
    engine = one._lifecycle.ready().engine
    found, may_go_on = asyncio.Event(), asyncio.Event()
    hold, read = engine.freshness.tags_are_current, engine.reads.fetch

    async def slow(*args: Any) -> bool:
        found.set()
        await may_go_on.wait()
        return await hold(*args)

    async def stored_meanwhile(key: bytes) -> bytes | None:
        nothing = await read(key)
        await other.store(None, "key", "removed", tags=("tag",))
        return nothing

    monkeypatch.setattr(engine.freshness, "tags_are_current", slow)
    monkeypatch.setattr(engine.reads, "fetch", stored_meanwhile)
    before = asyncio.create_task(one.retrieve_or_load(None, "key", lambda: "loaded"))
    await found.wait()
    monkeypatch.setattr(engine.reads, "fetch", read)
    await other.remove(None, "key")
    after = asyncio.create_task(one.retrieve_or_load(None, "key", lambda: "loaded"))
    await await_until(lambda: one.stats().misses == 2)
    may_go_on.set()
    assert await before == "removed"
    assert await after == "loaded"
