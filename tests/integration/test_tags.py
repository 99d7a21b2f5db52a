"""Tags: invalidating a tag removes its values for every reader, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import (
    AsyncRedisCache,
    CacheEntry,
    CacheInputError,
    CacheOutcomeUnknown,
    CacheServerError,
    CacheTimeout,
    Load,
    LoadOptions,
)
from async_redis_cache._engine.load_lease import LoadLease
from harness import Client, Server, await_until
from harness.apis import configured, until_gone
from harness.loading import PREFIX
from harness.loop_lag import Guard
from harness.run_length import scaled

if TYPE_CHECKING:
    from collections.abc import Callable

pytest_plugins = ["loading_fixtures"]
pytestmark = pytest.mark.depends_on("storage", "near")

OPERATIONS: dict[str, Callable[[AsyncRedisCache], Any]] = {
    "retrieve": lambda cache: cache.retrieve(None, "key"),
    "retrieve_many": lambda cache: cache.retrieve_many(None, ["key"]),
    "retrieve_entry": lambda cache: cache.retrieve_entry(None, "key"),
    "contains": lambda cache: cache.contains(None, "key"),
    "time_to_live": lambda cache: cache.time_to_live(None, "key"),
    "touch": lambda cache: cache.touch(None, "key"),
    "remove": lambda cache: cache.remove(None, "key"),
}
NOTHING: list[Any] = [None, {}, CacheEntry(None, "missing", None, None), False]


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_tagged_value_is_gone_for_every_method(
    operation: str, one: AsyncRedisCache, other: AsyncRedisCache
) -> None:
    """Until then it is a value like any; then it is none, in the other process too."""
    for reader in (one, other):
        await one.store(None, "key", 1, 60_000, tags=("red", "round"))
        assert await OPERATIONS[operation](reader) not in NOTHING
        await one.store(None, "key", 1, 60_000, tags=("red", "round"))
        assert await reader.retrieve(None, "key") == 1
        await one.invalidate_tags(None, "square")
        assert await reader.retrieve(None, "key") == 1
        await one.invalidate_tags(None, "blue", "round")
        await until_gone(reader, "key")
        assert await OPERATIONS[operation](reader) in NOTHING


@pytest.mark.depends_on("server", "storage", "near")
async def test_many(server: Server, storage: dict[str, Any]) -> None:
    """Stored together, read together, invalid together; the others stay."""
    numbers = {f"k{n}": n for n in range(300)}
    # As long as debug mode takes for so many.
    async with configured(server.url, command_timeout=20_000, **storage) as cache:
        await cache.store_many(None, numbers, tags=["all"])
        await cache.store(None, "plain", 1)
        assert await cache.retrieve_many(None, [*numbers, "plain"]) == {**numbers, "plain": 1}
        before = cache.stats().round_trips
        await cache.invalidate_tags(None, "all")
        assert cache.stats().round_trips == before + 1
        assert await cache.retrieve_many(None, [*numbers, "plain"]) == {"plain": 1}
        await cache.store_many(None, {"k1": 1}, tags=["all"])
        assert await cache.retrieve_many(None, numbers) == {"k1": 1}


async def test_invalidation_is_one_write(one: AsyncRedisCache, raw: Client) -> None:
    """One SET of 24 bytes per tag, however many values have it."""
    await one.store_many(None, {f"k{n}": n for n in range(500)}, tags=["all"])
    raw.config_resetstat()
    await one.invalidate_tags(None, "all")
    stats = raw.info("commandstats")
    calls = {name: figures["calls"] for name, figures in stats.items()}
    assert calls["cmdstat_set"] == 1
    assert calls.get("cmdstat_eval", 0) + calls.get("cmdstat_evalsha", 0) == 1
    assert raw.strlen(f"{PREFIX}\0tag:all") == 24


@pytest.mark.depends_on("server", "storage", "near")
async def test_nothing_is_left_over(one: AsyncRedisCache, raw: Client) -> None:
    """Each tag expires by itself, not before its values; `touch` extends it."""
    await one.store(None, "key", 1, 60_000, tags=["a"])
    tag = f"{PREFIX}\0tag:a"
    assert 100_000 < raw.pttl(tag) <= 120_000
    await one.store(None, "key", 1, 110_000, tags=["a"])
    await one.touch(None, "key", 500_000)
    assert 900_000 < raw.pttl(tag) <= 1_000_000
    await one.store(None, "short", 1, 100, tags=["a"])
    assert raw.pttl(tag) > 900_000
    await one.invalidate_tags(None, "a", "b")
    assert all(0 < raw.pttl(f"{PREFIX}\0tag:{name}") <= 7_200_000 for name in "ab")


async def test_a_tag_that_is_lost_makes_nothing_valid(one: AsyncRedisCache, raw: Client) -> None:
    """The server may evict it, before or after it was invalidated."""
    await one.store(None, "key", 1, tags=["a"])
    raw.delete(f"{PREFIX}\0tag:a")
    await until_gone(one, "key")
    await one.store(None, "second", 2, tags=["a"])
    assert await one.retrieve(None, "key") is None
    await one.invalidate_tags(None, "a")
    raw.delete(f"{PREFIX}\0tag:a")
    await one.store(None, "third", 3, tags=["a"])
    assert await one.retrieve_many(None, ["key", "second", "third"]) == {"third": 3}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("value", ["old", None])
async def test_load_of_an_invalidated_tag_is_not_stored(
    value: str | None, late: bool, one: AsyncRedisCache, other: AsyncRedisCache
) -> None:
    """Nor is the absence; whether the tag was said by the call or, late, by the loader."""
    values = [value, "new"]
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def load() -> object:
        found = values[0]
        begun.set()
        await may_end.wait()
        return found

    async def steered(load_: Load) -> object:
        found = await load()
        load_.tags = ("a",)
        return found

    def ask(cache: AsyncRedisCache) -> Any:
        if late:
            return cache.retrieve_or_load(None, "key", steered, missing_timeout=60_000)
        return cache.retrieve_or_load(None, "key", load, tags=["a"], missing_timeout=60_000)

    for invalidating in (one, other):
        begun.clear()
        may_end.clear()
        asked = asyncio.create_task(ask(one))
        await begun.wait()
        values.reverse()
        await invalidating.invalidate_tags(None, "a")
        after = [asyncio.create_task(ask(cache)) for cache in (one, other)]
        # They have found the load, of their own process and of the other one.
        await one.retrieve_many(None, ["key", "nothing"])
        await other.retrieve_many(None, ["key", "nothing"])
        may_end.set()
        assert await asked == values[1]
        assert await asyncio.gather(*after) == [values[0]] * 2
        assert await ask(one) == await ask(other) == values[0]
        await one.invalidate_tags(None, "a")
    assert one.stats().superseded_loads == 2


async def test_later_caller_does_not_join_an_invalidated_load(
    one: AsyncRedisCache,
) -> None:
    """In the process that invalidates: the right to load is free at once."""
    begun, never = asyncio.Event(), asyncio.Event()

    async def stuck() -> object:
        begun.set()
        return await never.wait()

    async def quick() -> str:
        return "new"

    asked = asyncio.create_task(one.retrieve_or_load(None, "key", stuck, tags=["a"]))
    await begun.wait()
    await one.invalidate_tags(None, "a")
    assert await one.retrieve_or_load(None, "key", quick, tags=["a"]) == "new"
    asked.cancel()
    assert await one.retrieve(None, "key") == "new"


async def test_stale_value_of_an_invalidated_tag_is_not_returned(one: AsyncRedisCache) -> None:
    """It is invalid, and not merely old: when loading fails, that is said."""

    async def load() -> int:
        return 1

    async def fail() -> int:
        raise LookupError

    await one.retrieve_or_load(None, "key", load, 60_000, tags=["a"], stale_timeout=60_000)
    await one.invalidate_tags(None, "a")
    with pytest.raises(LookupError):
        await one.retrieve_or_load(None, "key", fail, tags=["a"], stale_timeout=60_000)


async def test_invalidated_between_the_two_steps_of_a_store(
    one: AsyncRedisCache, other: AsyncRedisCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is stored is invalid from the beginning, for a plain store and for a load."""
    tags = one._lifecycle.ready().engine._tags
    stamp = tags.fetch_versions

    async def superseded_first(*args: Any) -> Any:
        stamped = await stamp(*args)
        await other.invalidate_tags(None, "a")
        return stamped

    monkeypatch.setattr(tags, "fetch_versions", superseded_first)
    await one.store(None, "key", 1, tags=["a"])
    assert await other.retrieve(None, "key") is None
    assert await one.retrieve_or_load(None, "key", lambda: 2, tags=["a"]) == 2
    assert await other.retrieve(None, "key") is None


async def test_joiner_reloads_when_a_tag_is_invalidated_during_the_store(
    one: AsyncRedisCache, other: AsyncRedisCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tag versions were fetched earlier: the joiner does not get a value loaded before its call."""
    values = ["old", "new"]
    joined: list[asyncio.Task[Any]] = []
    publish = LoadLease.publish

    def ask() -> Any:
        return one.retrieve_or_load(None, "key", lambda: values[0], tags=["a"])

    async def superseded_first(*args: Any) -> bool:
        if not joined:
            values.reverse()
            await other.invalidate_tags(None, "a")
            joined.append(asyncio.create_task(ask()))
            await one.retrieve_many(None, ["key", "nothing"])
        return await publish(*args)

    monkeypatch.setattr(LoadLease, "publish", superseded_first)
    assert await ask() == "old"
    assert await joined[0] == "new"


ATTEMPTS = 5
"""Enough for one in which the machine does not stall until the load has no time left."""


async def all_loads_end(cache: AsyncRedisCache, gates: list[asyncio.Event]) -> None:
    """Let all loads end that wait for a gate."""
    for gate in gates:
        gate.set()
    single_flight = cache._lifecycle.ready().engine.single_flight
    await await_until(lambda: not single_flight._in_flight)


async def test_reload_has_the_remaining_hard_timeout(
    one: AsyncRedisCache, other: AsyncRedisCache
) -> None:
    """Of `hard_timeout`, which is for all that a call waits for."""
    loop = asyncio.get_running_loop()
    gates: list[asyncio.Event] = []

    async def load() -> int:
        number = len(gates) + 1
        gates.append(asyncio.Event())
        await gates[number - 1].wait()
        return number

    for attempt in range(ATTEMPTS):
        gates.clear()
        key = f"key-{attempt}"
        first = asyncio.create_task(one.retrieve_or_load(None, key, load, tags=["a"]))
        await await_until(lambda: len(gates) == 1)
        since = loop.time()
        guard = Guard(0.750)
        late = asyncio.create_task(
            one.retrieve_or_load(None, key, load, tags=["a"], hard_timeout=600)
        )
        late.add_done_callback(lambda _, guard=guard: guard.cancel())  # type: ignore[misc]
        await one.retrieve_many(None, [key, "nothing"])
        await other.invalidate_tags(None, "a")
        loop.call_at(since + 0.3, gates[0].set)
        with pytest.raises(CacheTimeout) as caught:
            await late
        assert caught.value.code == "LOAD_TIMEOUT"
        assert loop.time() - since > 0.598  # uvloop rounds to milliseconds.
        assert await first == 1
        # What is asked of the server comes on top: it may stall.
        if len(gates) == 2 and not guard.fired:
            break
        await all_loads_end(one, gates)
    else:
        pytest.fail(f"not in time in {ATTEMPTS} attempts; {len(gates)} loads in the last one")


async def test_reload_has_the_remaining_soft_timeout(
    one: AsyncRedisCache, other: AsyncRedisCache
) -> None:
    """Of `soft_timeout` too, after which the stale value is given."""
    loop = asyncio.get_running_loop()
    gates: list[asyncio.Event] = []

    async def load() -> int:
        number = len(gates) + 1
        gates.append(asyncio.Event())
        await gates[number - 1].wait()
        return number

    for attempt in range(ATTEMPTS):
        gates.clear()
        key = f"key-{attempt}"
        options: LoadOptions = {"tags": ["a"], "stale_timeout": 60_000, "soft_timeout": 60_000}
        await one.retrieve_or_load(None, key, lambda: 0, 1, **options)
        await until_gone(one, key)
        first = asyncio.create_task(one.retrieve_or_load(None, key, load, **options))
        await await_until(lambda: len(gates) == 1)
        since = loop.time()
        guard = Guard(0.750)
        options |= {"soft_timeout": 600, "hard_timeout": 20_000}
        late = asyncio.create_task(one.retrieve_or_load(None, key, load, **options))
        late.add_done_callback(lambda _, guard=guard: guard.cancel())  # type: ignore[misc]
        (flight,) = one._lifecycle.ready().engine.single_flight._in_flight.values()
        await await_until(lambda flight=flight, late=late: len(flight.waiting) == 2 or late.done())  # type: ignore[misc]
        await other.invalidate_tags(None, "a")
        loop.call_at(since + 0.3, gates[0].set)
        assert await late == 0
        assert loop.time() - since > 0.598
        assert await first == 1
        if len(gates) == 2 and not guard.fired:
            break
        await all_loads_end(one, gates)
    else:
        pytest.fail(f"not in time in {ATTEMPTS} attempts; {len(gates)} loads in the last one")
    gates[1].set()


async def test_joiner_of_a_tagged_load_does_not_reload(one: AsyncRedisCache) -> None:
    """The tag versions are fetched after the joiner's call: the load is valid for it, stored or not."""
    may_end = asyncio.Event()
    loads = 0

    async def load(load_: Load) -> int:
        nonlocal loads
        loads += 1
        load_.do_not_cache()
        await may_end.wait()
        return loads

    first = asyncio.create_task(one.retrieve_or_load(None, "key", load, tags=["a"]))
    await await_until(lambda: loads == 1)
    (flight,) = one._lifecycle.ready().engine.single_flight._in_flight.values()
    second = asyncio.create_task(one.retrieve_or_load(None, "key", load, tags=["a"]))
    await await_until(lambda: len(flight.waiting) == 2)
    may_end.set()
    assert [await first, await second] == [1, 1]
    assert loads == 1


async def test_reloading_callers_share_one_load(
    one: AsyncRedisCache, other: AsyncRedisCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing is kept that the others could find."""
    tags = one._lifecycle.ready().engine._tags
    stamp = tags.fetch_versions
    late: list[asyncio.Task[Any]] = []
    loads = 0

    def load(load_: Load) -> int:
        nonlocal loads
        loads += 1
        load_.do_not_cache()
        return loads

    def ask() -> Any:
        return one.retrieve_or_load(None, "key", load, tags=["a"])

    async def joined(*args: Any) -> Any:
        if not late:
            await other.invalidate_tags(None, "a")
            late.extend(asyncio.create_task(ask()) for _ in range(3))
            await one.retrieve_many(None, ["key", "nothing"])
        return await stamp(*args)

    monkeypatch.setattr(tags, "fetch_versions", joined)
    assert await ask() == 1
    assert await asyncio.gather(*late) == [2] * 3


async def test_many_tags_are_invalidated_when_the_last_is(
    one: AsyncRedisCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error about one is said when it is known of each: nothing is changed after that."""
    batcher = one._lifecycle.ready().engine._batcher
    asked: list[asyncio.Future[Any]] = []

    def ask(*_: Any, **__: Any) -> asyncio.Future[Any]:
        asked.append(asyncio.get_running_loop().create_future())
        return asked[-1]

    with monkeypatch.context() as patch:
        patch.setattr(batcher, "execute", ask)
        invalidated = asyncio.create_task(one.invalidate_tags(None, "a", "b"))
        await await_until(lambda: len(asked) == 2)
    asked[0].set_exception(CacheServerError("OOM", "no room"))
    await one.ping(None)
    assert not invalidated.done()
    asked[1].set_result(1)
    with pytest.raises(CacheServerError):
        await invalidated


@pytest.mark.parametrize("seed", range(scaled(3, 170)))
async def test_random_operations_match_the_model(
    seed: int, one: AsyncRedisCache, other: AsyncRedisCache
) -> None:
    """Two processes change, invalidate and load at once: what was invalid is never read.

    In the long form 1,020 runs: with each server and each way to store.
    """
    dice = random.Random(seed)
    truth = {"red": 0, "blue": 0}
    invalid_below = dict(truth)

    async def load(tag: str) -> int:
        found = truth[tag]
        for _ in range(dice.randrange(4)):
            await one.contains(None, "nothing")
        return found

    async def change(by: AsyncRedisCache, tag: str) -> None:
        truth[tag] += 1
        changed = truth[tag]
        await by.invalidate_tags(None, tag)
        invalid_below[tag] = max(invalid_below[tag], changed)

    async def step(by: AsyncRedisCache) -> None:
        tag = dice.choice(["red", "blue"])
        if dice.random() < 0.2:
            await change(by, tag)
            return
        least = invalid_below[tag]
        key = f"{tag}-{dice.randrange(3)}"
        got = await by.retrieve_or_load(None, key, partial(load, tag), tags=[tag])
        assert got >= least or is_near

    async def live(by: AsyncRedisCache) -> None:
        for _ in range(40):
            await step(by)

    # A near cache in another process hears of it a moment later; in its own, at once.
    is_near = one.stats().near_connected
    await asyncio.gather(*(live(by) for by in (one, other) for _ in range(5)))
    for by in (one, other):
        for tag, true in truth.items():
            await by.invalidate_tags(None, tag)
            assert await by.retrieve_or_load(None, f"{tag}-0", partial(load, tag)) == true


@pytest.mark.parametrize(
    "tags",
    ["a", 1, [1], [""], ["a\n"], ["a" * 513], ["\ud800"], [str(n) for n in range(65)]],
    ids=str,
)
@pytest.mark.depends_on
async def test_bad_tags(tags: Any, one: AsyncRedisCache) -> None:
    """Refused before anything is sent or loaded."""
    before = one.stats().round_trips

    async def load() -> None:
        raise AssertionError

    calls: list[Any] = [
        one.store(None, "key", 1, tags=tags),
        one.store_many(None, {"key": 1}, tags=tags),
        one.retrieve_or_load_entry(None, "key", load, tags=tags),
        one.retrieve_or_load_many(None, ["key"], lambda _: {}, tags=tags),
        one.refresh(None, "key", load, tags=tags),
    ]
    for call in calls:
        with pytest.raises(CacheInputError) as caught:
            await call
        assert caught.value.code == "BAD_TAG"
    assert one.stats().round_trips == before
    with pytest.raises(CacheInputError):
        await one.retrieve_or_load(None, "key", load, tags=tags)


async def test_tag_is_not_taken_for_the_context(one: AsyncRedisCache) -> None:
    """A call that forgets the context raises; it would invalidate nothing. Computed tags may be none."""
    with pytest.raises(CacheInputError, match="context") as caught:
        await one.invalidate_tags("product:7")
    assert caught.value.code == "BAD_TAG"
    await one.invalidate_tags(None)


async def test_clear_leaves_the_tags(one: AsyncRedisCache) -> None:
    """A load under way has to know what was invalidated; and they are no values to be counted."""
    await one.store_many(None, {"a": 1, "b": 2}, tags=["x", "y"])
    assert await one.clear(None) == 2
    assert await one.retrieve(None, "a") is None
    await one.store(None, "a", 1, tags=["x"])
    assert await one.retrieve(None, "a") == 1


async def test_damaged_tags_are_no_value(one: AsyncRedisCache, raw: Client) -> None:
    """Cut anywhere, or with any length of the tags: None, and counted; never an error."""
    await one.store(None, "key", 1, tags=["some"])
    whole = raw.get(f"{PREFIX}key")
    assert whole is not None
    damaged = [whole[:cut] for cut in range(3, len(whole))]
    damaged += [
        whole[:59] + bytes([high, low]) + whole[61:] for high in (0, 255) for low in range(80)
    ]
    for data in damaged:
        if data == whole:
            continue
        raw.set(f"{PREFIX}damaged", data)
        # A value, where what is cut or added is not seen, can only be what is left of the payload.
        assert await one.retrieve(None, "damaged") is None
        await one.remove(None, "damaged")


async def test_two_questions_have_one_deadline(
    one: AsyncRedisCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the answer about the tags does not come: TIMEOUT, or for a removal OUTCOME_UNKNOWN."""
    engine = one._lifecycle.ready().engine
    monkeypatch.setattr(engine.freshness, "_command_timeout", 0.05)
    await one.store(None, "key", 1, tags=["a"])

    async def never(keys: list[bytes], budget: float) -> None:
        # As the server does that says nothing any more.
        assert budget < 0.0501  # Where the clock has no finer steps, none has passed.
        await asyncio.sleep(max(0.0, budget))  # A busy machine has used it up already.
        raise CacheTimeout("TIMEOUT", "")

    monkeypatch.setattr(engine.freshness, "_fetch_many", never)
    for operation in ("retrieve", "retrieve_many", "contains", "time_to_live", "retrieve_entry"):
        with pytest.raises(CacheTimeout) as caught:
            await OPERATIONS[operation](one)
        assert caught.value.code == "TIMEOUT"
    with pytest.raises(CacheOutcomeUnknown):
        await one.remove(None, "key")


async def test_local_tagged_entry_needs_no_round_trip(server: Server) -> None:
    """Both the value and its tags are near."""
    async with configured(server.url, key_prefix=PREFIX, near_cache_enabled=True) as cache:
        await cache.store(None, "key", 1, tags=["a", "b"])
        await await_until(lambda: cache.stats().near_connected)
        assert await cache.retrieve(None, "key") == 1
        assert await cache.retrieve(None, "key") == 1
        before = cache.stats().round_trips
        for _ in range(10):
            assert await cache.retrieve(None, "key") == 1
        assert cache.stats().round_trips == before
