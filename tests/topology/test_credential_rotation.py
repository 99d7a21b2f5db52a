"""A login that changes, at Sentinels, at the master that they name, and at every node of a cluster."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from harness.apis import APIS, Api, configured
from harness.clusters import Cluster
from harness.figures import report
from harness.near import trusted
from harness.rotation import Rotation, load_until
from harness.sentinels import Sentinels

if TYPE_CHECKING:
    from harness import Flavour

OPTIONS: dict[str, Any] = {"max_size": 0, "near_cache.enabled": True, "near_cache.heartbeat": 100}


async def load_during_rotations(uri: str, api: Api, rotation: Rotation) -> None:
    """Load while the password rotates; then every connection has the last password."""
    rotated = rotation.rotations
    options: dict[str, Any] = OPTIONS | {"credential_provider": rotation, "key_prefix": f"{api}:"}
    async with configured(uri, api, **options) as cache:
        await trusted(cache)
        done = asyncio.Event()
        loading = asyncio.gather(*(load_until(done, cache) for _ in range(4)))
        await rotation.rotate_repeatedly(5, 0.1)
        done.set()
        loads = sum(await loading)
        await trusted(cache)
        keys = [f"key-{number}" for number in range(20)]
        await cache.store_many(None, dict.fromkeys(keys, 9))
        assert await cache.retrieve_many(None, keys) == dict.fromkeys(keys, 9)
        report(39, f"{api}: {loads} loads during {rotation.rotations - rotated} rotations")


async def test_loads_succeed_behind_sentinels_while_the_password_rotates(flavour: Flavour) -> None:
    """39. That of the Sentinels, which require one, and that of the master: no load fails."""
    rotation = Rotation()
    acl = {"acl": rotation.acl}
    with Sentinels(flavour, data=acl, sentinels=acl) as sentinels:
        servers = [*sentinels.nodes, *sentinels.sentinels]
        rotation.servers = [sentinels.client(server) for server in servers]
        for client in rotation.servers:
            client.execute_command("ACL", "SETUSER", "default", "resetpass", ">another")
        for api in APIS:
            await load_during_rotations(sentinels.uri, api, rotation)


async def test_sentinels_without_a_login_get_none(flavour: Flavour) -> None:
    """The provider is asked for the connection to the master only."""
    rotation = Rotation()
    with Sentinels(flavour, data={"acl": rotation.acl}) as sentinels:
        options: dict[str, Any] = {"credential_provider": rotation, "max_size": 0}
        async with configured(sentinels.uri, **options) as cache:
            await cache.store(None, "key", 1)
            assert rotation.calls == cache.stats().connects
            for sentinel in sentinels.sentinels:
                stats = sentinels.client(sentinel).info("commandstats")
                assert "cmdstat_auth" not in stats


async def test_loads_succeed_in_a_cluster_while_the_password_rotates(flavour: Flavour) -> None:
    """39. On every node at once: no load fails."""
    rotation = Rotation()
    with Cluster(flavour, acl=rotation.acl) as cluster:
        rotation.servers = [cluster.client(node) for node in cluster.nodes]
        for client in rotation.servers:
            client.execute_command("ACL", "SETUSER", "default", "resetpass", ">another")
        for api in APIS:
            await load_during_rotations(cluster.uri, api, rotation)
