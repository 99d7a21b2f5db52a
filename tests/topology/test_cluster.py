"""A cache on a cluster works as on a single server, and refuses what a cluster cannot guarantee."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest
from pip_services4_components.config import ConfigParams

from async_redis_cache import AsyncRedisCache, CacheError, CacheUnsupported
from harness import Server, await_until
from harness.apis import APIS, Api, configured, new_cache
from harness.leaks import open_descriptors
from harness.near import near_of, trusted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from harness.clusters import Cluster

pytest_plugins = ["cluster_fixtures"]
pytestmark = [pytest.mark.depends_on("server"), pytest.mark.xdist_group("cluster")]

WAYS: dict[str, dict[str, Any]] = {
    "unbounded": {"max_size": 0, "key_prefix": "c:"},
    "bounded": {"key_prefix": "c{all}:"},
    "near": {"max_size": 0, "key_prefix": "c:", "near_cache_enabled": True},
}


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> Api:
    """Both APIs have the same core."""
    chosen: Api = request.param
    return chosen


@pytest.fixture(params=WAYS)
async def cache(
    cluster: Cluster, api: Api, request: pytest.FixtureRequest
) -> AsyncIterator[AsyncRedisCache]:
    """Open, and behind either API."""
    async with configured(cluster.uri, api, **WAYS[request.param]) as cache:
        if request.param == "near":
            await trusted(cache)
        yield cache


async def test_every_operation(cache: AsyncRedisCache) -> None:
    """Keys of all nodes in one call, and one after the other."""
    values = {f"key{number}": number for number in range(300)}
    await cache.store_many(None, values, 60_000)
    assert await cache.retrieve_many(None, values) == values
    assert await cache.retrieve(None, "key7") == 7
    assert await cache.store(None, "key7", "seven") == "seven"
    assert await cache.retrieve(None, "key7") == "seven"
    assert await cache.remove(None, "key7") == "seven"
    assert await cache.remove(None, "key7") is None
    assert await cache.remove_many(None, ["key1", "key2", "key3", "none"]) == 3
    assert await cache.contains(None, "key4")
    assert not await cache.contains(None, "key1")
    assert await cache.touch(None, "key5", 90_000)
    assert 80_000 < (await cache.time_to_live(None, "key5") or 0) <= 90_000
    await cache.ping(None)
    assert await cache.clear(None) == 296
    assert await cache.retrieve_many(None, values) == {}


async def test_loading_and_tags(cache: AsyncRedisCache) -> None:
    """Rights and tags are keys of one slot each, on whichever node that is."""
    keys = [f"key{number}" for number in range(50)]
    asked: list[str] = []

    def load(missing: list[str]) -> dict[str, str]:
        asked.extend(missing)
        return {key: key.upper() for key in missing}

    expected = {key: key.upper() for key in keys}
    for _ in range(2):
        found = await cache.retrieve_or_load_many(None, keys, load, 60_000, tags=("a", "b", "c"))
        assert found == expected
    assert sorted(asked) == sorted(keys)
    await cache.store(None, "other", 1, tags=("d",))
    await cache.invalidate_tags(None, "b")
    assert await cache.retrieve_many(None, [*keys, "other"]) == {"other": 1}


async def test_a_stale_value_and_an_absence(cache: AsyncRedisCache) -> None:
    """Freshness is judged by the clock of a node."""
    options: Any = {"stale_timeout": 60_000}
    assert await cache.retrieve_or_load(None, "key", lambda: 1, 50, **options) == 1
    async with asyncio.timeout(60):
        while await cache.retrieve(None, "key") is not None:  # noqa: ASYNC110  it only expires
            await asyncio.sleep(0.005)
    entry = await cache.retrieve_or_load_entry(None, "key", lambda: 2, 50, **options)
    assert (entry.value, entry.status) == (1, "stale")
    nothing: Any = lambda: None  # noqa: E731
    assert await cache.retrieve_or_load(None, "none", nothing, missing_timeout=60_000) is None
    assert (await cache.retrieve_entry(None, "none")).status == "missing"


@pytest.mark.depends_on("api")
async def test_by_configuration(cluster: Cluster, api: Api) -> None:
    """`connections.N.*` with `options.topology`; a node that is not there is none that matters."""
    cache = new_cache(api)
    config = ConfigParams.from_tuples("options.topology", "cluster", "options.max_size", "0")
    places = [("127.0.0.1", 1), *((node.host, node.port) for node in cluster.nodes[1:])]
    for number, (host, port) in enumerate(reversed(places)):
        config[f"connections.{number}.host"] = host
        config[f"connections.{number}.port"] = str(port)
    cache.configure(config)
    await cache.open(None)
    try:
        assert await cache.store(None, "key", 1) == 1
        assert await cache.retrieve(None, "key") == 1
    finally:
        await cache.close(None)


async def test_first_named_node_may_be_unreachable(cluster: Cluster) -> None:
    """Any of the named nodes may be the one that replies."""
    uri = cluster.uri.replace("redis+cluster://", "redis+cluster://127.0.0.1:1,")
    async with AsyncRedisCache.from_url(uri, max_size=0) as cache:
        assert await cache.store(None, "key", 1) == 1


@pytest.mark.parametrize("prefix", ["", "shop:", "{}:", "{shop"])
async def test_a_bound_needs_one_slot(cluster: Cluster, prefix: str) -> None:
    """Without a hash tag the bound could not be kept, which is said before anything is stored."""
    with pytest.raises(CacheUnsupported) as caught:
        await AsyncRedisCache.from_url(cluster.uri, key_prefix=prefix, max_size=1_000).open("t")
    assert (caught.value.code, caught.value.trace_id) == ("UNSUPPORTED", "t")


async def test_a_bound_is_kept(cluster: Cluster) -> None:
    """With one it is exact, as on a single server."""
    options: dict[str, Any] = {"key_prefix": "{shop}:", "max_size": 10}
    async with AsyncRedisCache.from_url(cluster.uri, **options) as cache:
        for number in range(50):
            await cache.store(None, f"key{number}", number, 60_000 + number)
        kept = await cache.retrieve_many(None, [f"key{number}" for number in range(50)])
    assert list(kept.values()) == list(range(40, 50))


@pytest.mark.not_with("user", reason="the user of a single server may not ask for slots")
async def test_standalone_server_raises(server: Server) -> None:
    """A cluster is not asked of a single server."""
    uri = server.url.replace("://", "+cluster://").removesuffix("/0")
    with pytest.raises(CacheUnsupported) as caught:
        await AsyncRedisCache.from_url(uri, max_size=0).open("t")
    assert (caught.value.code, caught.value.trace_id) == ("UNSUPPORTED", "t")


async def test_cluster_node_as_standalone_raises(cluster: Cluster) -> None:
    """Keys of others are refused by an error that says what to do."""
    async with AsyncRedisCache.from_url(cluster.nodes[0].url, max_size=0) as cache:
        errors: list[CacheError] = []
        for number in range(20):
            try:
                await cache.store(None, f"key{number}", number)
            except CacheError as error:
                errors.append(error)
    assert errors
    assert {error.code for error in errors} == {"MOVED"}
    assert "options.topology" in str(errors[0])


async def test_all_masters_send_invalidations(cluster: Cluster) -> None:
    """Changes behind our back are seen, wherever the key is."""
    keys = [f"key{number}" for number in range(60)]
    options: dict[str, Any] = WAYS["near"]
    async with AsyncRedisCache.from_url(cluster.uri, **options) as cache:
        await trusted(cache)
        await cache.store_many(None, dict.fromkeys(keys, "old"))
        while len(near_of(cache)._entries) < len(keys):
            assert await cache.retrieve_many(None, keys) == dict.fromkeys(keys, "old")
        hits = cache.stats().near_hits
        assert await cache.retrieve_many(None, keys) == dict.fromkeys(keys, "old")
        assert cache.stats().near_hits == hits + len(keys)
        assert len({cluster.node_of(f"c:{key}") for key in keys}) == 3
        for key in keys:
            cluster.client(cluster.node_of(f"c:{key}")).set(f"c:{key}", '"new"')
        await await_until(lambda: not near_of(cache)._entries)
        assert await cache.retrieve_many(None, keys) == dict.fromkeys(keys, "new")


async def test_close_leaves_nothing_open(cluster: Cluster) -> None:
    """Opened and closed again: no connection, no task."""
    before = open_descriptors()
    for _ in range(3):
        async with AsyncRedisCache.from_url(cluster.uri, **WAYS["near"]) as cache:
            await cache.store(None, "key", 1)
    assert open_descriptors().keys() == before.keys()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # Deserved: nobody closed.
@pytest.mark.filterwarnings("ignore:loop is closed:ResourceWarning")
def test_closed_loop_leaves_nothing_open(cluster: Cluster) -> None:
    """What was open on a loop that was closed without us is opened anew on the next one."""
    cache = AsyncRedisCache.from_url(cluster.uri, **WAYS["near"])
    for number in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(cache.open(None))
        assert loop.run_until_complete(cache.store(None, "key", number)) == number
        if number == 2:
            loop.run_until_complete(cache.close(None))
        loop.close()
    gc.collect()  # Before another test could hear of what was left.


async def test_namespace_is_cleared_on_all_nodes(cache: AsyncRedisCache, api: Api) -> None:
    """`clear` removes the keys of a namespace on all nodes, whatever their hash tags, and no others."""
    of_api: Any = getattr(cache, "blocking", cache)
    keys = [f"{{tag{number}}}:{number}" for number in range(30)] + ["{n", "n:n", "plain"]
    spaces = {name: of_api.namespace(name) for name in ("n", "n{n}", "nn", "{n}")}

    async def call(result: Any) -> Any:
        return await result if api == "async" else result

    for space in spaces.values():
        await call(space.set_many(dict.fromkeys(keys, 1)))
    await cache.store(None, "n", 1)
    left = dict(spaces)
    for name, space in spaces.items():
        assert await call(space.clear()) == len(keys)
        del left[name]
        assert await call(space.get_many(keys)) == {}
        for other in left.values():
            assert len(await call(other.get_many(keys))) == len(keys)
    assert await cache.retrieve(None, "n") == 1
